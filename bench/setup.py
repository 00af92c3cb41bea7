"""The parts of a scenario: directories, a relay, an upstream, floors, and filled outboxes."""

from __future__ import annotations

import compileall
import http.client
import itertools
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import relay as measured
from relay.sandbox.settings import SandboxSettings

from bench import events
from bench.client import Order
from bench.load import LoadResult, send
from bench.pairs import Compared, compare
from bench.process import PATIENCE_S, Child, python

KEY = "bench-key"
NOWHERE = "http://127.0.0.1:9/v1/events"
"""A URL without a listener, so that all events stay pending."""
_POLL_S = 0.1
NO_LIMITS = {"rate__device_per_window": "1000000", "rate__window": "1s"}


class Relay(Child):
    """A `relay run` process."""

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str],
        env: Mapping[str, str],
        port: int,
        interpreter: str = sys.executable,
    ) -> None:
        self.address = f"127.0.0.1:{port}"
        self.ready_after_s = 0.0
        self._directory = directory
        given = {
            "upstream__url": NOWHERE,
            "upstream__api_key": KEY,
            "http__listen": self.address,
            "udp__listen": "127.0.0.1:0",
            "outbox__path": str(directory / "outbox.db"),
            "outbox__max_size": "64GiB",
            "log__format": "json",
        } | settings
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAY__")}
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # An installed relay is compiled (see `bench`).
        made = inherited | {f"RELAY__{name.upper()}": value for name, value in given.items()} | env
        super().__init__(python("relay", "run", interpreter=interpreter), directory / "relay.log", made)

    @property
    def udp(self) -> str:
        return str(self.wait_for_line("udp")["udp"][0])

    def post(self, *, processes: int = 1, **order: Any) -> LoadResult:
        return send(Order(address=self.address, run=events.new_run(), **order), self._directory, processes=processes)

    def udp_unread_bytes(self) -> int:
        """Return the bytes of received datagrams that the relay has not read, from /proc/net/udp.

        The relay itself is not queried, because its work would be part of the measurement.
        """
        port = f":{int(self.udp.rpartition(':')[2]):04X}"
        lines = (line.split() for line in Path("/proc/net/udp").read_text().splitlines())
        return sum(int(fields[4].rpartition(":")[2], 16) for fields in lines if fields[1].endswith(port))

    def wal_bytes(self) -> int:
        path = self._directory / "outbox.db-wal"
        return path.stat().st_size if path.exists() else 0

    def request(self, method: str, path: str) -> bytes:
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_S)
        try:
            connection.request(method, path, headers={"Content-Type": "application/json"})
            return connection.getresponse().read()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.request("GET", "/status.json"))
        return found

    def metric(self, name: str, labels: str = "") -> float:
        """Return the value of a series. `labels` are written as in the exposition: `transport="udp"`."""
        start = f"relay_{name}{{{labels}}} " if labels else f"relay_{name} "
        for line in self.request("GET", "/metrics").decode().splitlines():
            if line.startswith(start):
                return float(line.removeprefix(start))
        raise RuntimeError(f"no metric {start}")

    def until_ready(self) -> float:
        """Wait until /readyz reports ready. Return the seconds since the start of the process."""
        while time.monotonic() < self.started_at + PATIENCE_S:
            try:
                if json.loads(self.request("GET", "/readyz")).get("ready"):
                    self.ready_after_s = time.monotonic() - self.started_at
                    return self.ready_after_s
            except OSError:
                time.sleep(0.002)
        raise RuntimeError(f"the relay is not ready: {self._directory / 'relay.log'}")

    def until_loaded(self) -> None:
        """Wait until the relay has read its log, which continues after it is ready.

        The pending devices become known in quick succession. Their number is not checked, because some events may
        already have been sent.
        """
        deadline, known = time.monotonic() + PATIENCE_S, 0.0
        while not known or known < self.metric("devices_waiting"):
            if time.monotonic() > deadline:
                raise RuntimeError("the relay has not read its log")
            known = self.metric("devices_waiting")
            time.sleep(_POLL_S)

    def pending(self) -> int:
        return int(self.metric("outbox_events"))

    def until_idle(self) -> None:
        """Wait until the cleanup of delivered rows has ended: no commit within a second."""
        deadline, commits = time.monotonic() + PATIENCE_S, -1.0
        while (now := self.metric("outbox_commits_total")) != commits:
            if time.monotonic() > deadline:
                raise RuntimeError("the relay does not stop committing")
            commits = now
            time.sleep(1)

    def reported_written_bytes(self) -> float:
        """Return the relay's own count of bytes written to database and write-ahead log."""
        return self.metric("outbox_written_bytes_total")

    def until_pending(self, at_most: int, within_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + within_s
        while (pending := self.pending()) > at_most:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{pending} events are still pending, at most {at_most} expected")
            time.sleep(_POLL_S)


class Upstream(Child):
    """The sandbox in its own process."""

    def __init__(self, directory: Path, settings: SandboxSettings) -> None:
        super().__init__(python("bench.upstream", msgspec.json.encode(settings).decode()), directory / "upstream.log")
        self.url = str(self.wait_for_line("url")["url"])

    def reject_key(self) -> None:
        """Respond 401, so that a relay stores all events and sends one request per 30 seconds or flush."""
        self.request("faults", "POST", '{"answer": 401}')

    def heal(self) -> None:
        self.request("faults", "DELETE")

    def request(self, what: str, method: str = "GET", body: str | None = None) -> Any:
        address, _, _ = self.url.removeprefix("http://").partition("/")
        connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
        try:
            connection.request(method, f"/_sandbox/{what}", body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


class Bench:
    """One run of the benchmarks: its size, its directory, and its filled outboxes."""

    def __init__(self, directory: Path, *, full: bool) -> None:
        self.directory = directory
        self.full = full
        self.pairs = 9 if full else 5
        self.few_pairs = 5 if full else 1
        """Number of pairs for figures without a target."""
        self.seconds = 5.0 if full else 1.5
        self.waiting = 1_000_000
        self.over_at = float("inf")
        """Monotonic time after which a comparison starts no further pair."""
        self.cut_short = False
        self._made = itertools.count(1)
        self._filled: dict[tuple[int, int, int], Path] = {}

    def size(self, quick: float, full: float) -> float:
        return full if self.full else quick

    def compare(self, ours: Callable[[], float], floor: Callable[[], float], pairs: int = 0) -> Compared:
        compared = compare(pairs or self.pairs, ours, floor, self.over_at)
        self.cut_short = self.cut_short or len(compared.ours) < (pairs or self.pairs)
        return compared

    def new_directory(self) -> Path:
        path = self.directory / f"{next(self._made):03d}"
        path.mkdir()
        return path

    @contextmanager
    def relay(
        self,
        outbox: Path | None = None,
        env: Mapping[str, str] | None = None,
        interpreter: str = sys.executable,
        **settings: str,
    ) -> Iterator[Relay]:
        """Run a relay that is ready, and remove its files afterwards.

        With `outbox`, the relay uses a copy of these files and has read them.
        """
        directory = self.new_directory()
        if outbox is not None:
            copy(outbox, directory)
        try:
            with Relay(directory, settings, env or {}, free_port(), interpreter) as relay:
                relay.until_ready()
                if outbox is not None:
                    relay.until_loaded()
                yield relay
        finally:
            shutil.rmtree(directory)

    @contextmanager
    def upstream(self, **settings: Any) -> Iterator[Upstream]:
        directory = self.new_directory()
        with Upstream(directory, SandboxSettings(api_key=KEY, **settings)) as upstream:
            yield upstream

    @contextmanager
    def floor(
        self, which: str, env: Mapping[str, str] | None = None, interpreter: str = sys.executable
    ) -> Iterator[tuple[Child, str]]:
        """Run a floor that listens, and yield it with its address."""
        directory = self.new_directory()
        command = python("bench.floors", which, interpreter=interpreter)
        with Child(command, directory / "floor.log", {**os.environ, **(env or {})}) as floor:
            yield floor, str(floor.wait_for_line("address")["address"])

    def sqlite_floor(self, rows: int, per_commit: int, event_bytes: int = 400) -> float:
        """Return the rows per second that a bare sqlite3 loop appends in its own process."""
        directory = self.new_directory()
        arguments = (str(directory / "floor.db"), str(rows), str(max(1, per_commit)), str(event_bytes))
        with Child(python("bench.floors", "sqlite", *arguments), directory / "floor.log") as floor:
            rate = float(floor.wait_for_line("rows_per_s")["rows_per_s"])
        shutil.rmtree(directory)
        return rate

    def filled(self, count: int, devices: int, consecutive: int = 1) -> Path:
        """Return a directory with the outbox of a stopped relay that has `count` pending events."""
        key = (count, devices, consecutive)
        if key not in self._filled:
            directory = self.new_directory()
            # No event may be in flight at the stop, because a relay that starts with a copy sends it first.
            with Relay(directory, {"batch__linger": "10m"}, {}, free_port()) as relay:
                relay.until_ready()
                fill(relay, count, devices, consecutive)
            self._filled[key] = directory
        return self._filled[key]


def fill(relay: Relay, count: int, devices: int, consecutive: int = 1) -> None:
    """Post `count` events, the same number for each device, with `consecutive` successive events of one device."""
    per_request = min(100, count)
    before = relay.status()["ledger"]["accepted"]
    relay.post(
        requests=count // per_request,
        events_per_request=per_request,
        devices=devices,
        consecutive=consecutive,
        connections=8,
    )
    if (accepted := relay.status()["ledger"]["accepted"] - before) != count:
        raise RuntimeError(f"{accepted} of {count} events were stored")


def copy(outbox: Path, directory: Path) -> None:
    """Copy an outbox's files and sync them. Otherwise the relay's first fsync would write the whole copy."""
    for path in outbox.glob("outbox.db*"):
        with Path(shutil.copy(path, directory)).open("rb") as made:
            os.fsync(made.fileno())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def bench(*, full: bool, directory: Path | None) -> Iterator[Bench]:
    """Create a run in a temporary directory below `directory` (default: the system's), which is removed afterwards."""
    # An installed relay is compiled, too. Otherwise each start would include the compilation.
    compileall.compile_dir(Path(measured.__file__).parent, quiet=2)
    with ExitStack() as stack:
        made = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-", dir=directory))
        if not shutil.which("wrk"):
            print("wrk is not installed: bench.client generates the load", file=sys.stderr)
        yield Bench(Path(made), full=full)

"""What scenarios are made of: a directory, a relay, an upstream, floors, and outboxes that are full already."""

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
from bench.load import Answered, send
from bench.pairs import Compared, compare
from bench.process import PATIENCE_S, Child, python

KEY = "bench-key"
NOWHERE = "http://127.0.0.1:9/v1/events"
"""Nobody listens there: everything waits."""
_POLL_S = 0.1
NO_LIMITS = {"rate__device_per_window": "1000000", "rate__window": "1s"}


class Relay(Child):
    """`relay run`, driven from outside."""

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
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled, see `bench`
        made = inherited | {f"RELAY__{name.upper()}": value for name, value in given.items()} | env
        super().__init__(python("relay", "run", interpreter=interpreter), directory / "relay.runtime.log", made)

    @property
    def udp(self) -> str:
        return str(self.said("udp")["udp"][0])

    def post(self, *, processes: int = 1, **order: Any) -> Answered:
        return send(Order(address=self.address, run=events.new_run(), **order), self._directory, processes=processes)

    def udp_waiting_bytes(self) -> int:
        """What the kernel holds for it that it has not read: /proc/net/udp, so that it is not asked."""
        port = f":{int(self.udp.rpartition(':')[2]):04X}"
        lines = (line.split() for line in Path("/proc/net/udp").read_text().splitlines())
        return sum(int(fields[4].rpartition(":")[2], 16) for fields in lines if fields[1].endswith(port))

    def wal_bytes(self) -> int:
        path = self._directory / "outbox.db-wal"
        return path.stat().st_size if path.exists() else 0

    def ask(self, method: str, path: str) -> bytes:
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_S)
        try:
            connection.request(method, path, headers={"Content-Type": "application/json"})
            return connection.getresponse().read()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask("GET", "/status.json"))
        return found

    def metric(self, name: str, labels: str = "") -> float:
        """A series' value; `labels` as in the exposition, `transport="udp"`."""
        start = f"relay_{name}{{{labels}}} " if labels else f"relay_{name} "
        for line in self.ask("GET", "/metrics").decode().splitlines():
            if line.startswith(start):
                return float(line.removeprefix(start))
        raise RuntimeError(f"no metric {start}")

    def until_ready(self) -> float:
        """Seconds from its start until /readyz said 200."""
        while time.monotonic() < self.started_at + PATIENCE_S:
            try:
                if json.loads(self.ask("GET", "/readyz")).get("ready"):
                    self.ready_after_s = time.monotonic() - self.started_at
                    return self.ready_after_s
            except OSError:
                time.sleep(0.002)
        raise RuntimeError(f"the relay is not ready: {self._directory / 'relay.log'}")

    def until_loaded(self) -> None:
        """Until it knows whose events wait, which it learns of all devices at once: a start reads on when it is ready.

        How many they are says nothing: some events may be sent by then.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not self.metric("devices_waiting"):
            if time.monotonic() > deadline:
                raise RuntimeError("the log is not read")
            time.sleep(_POLL_S)

    def pending(self) -> int:
        return int(self.metric("outbox_events"))

    def until_quiet(self) -> None:
        """Until it has deleted what is done: no commit within a second."""
        deadline, commits = time.monotonic() + PATIENCE_S, -1.0
        while (now := self.metric("outbox_commits_total")) != commits:
            if time.monotonic() > deadline:
                raise RuntimeError("it does not come to rest")
            commits = now
            time.sleep(1)

    def written_bytes_said(self) -> float:
        """What it says that it wrote to database and write-ahead log."""
        return self.metric("outbox_written_bytes_total")

    def until_pending(self, at_most: int, within_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + within_s
        while (pending := self.pending()) > at_most:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{pending} events still wait")
            time.sleep(_POLL_S)


class Upstream(Child):
    """The sandbox in its own process."""

    def __init__(self, directory: Path, settings: SandboxSettings) -> None:
        super().__init__(python("bench.upstream", msgspec.json.encode(settings).decode()), directory / "upstream.log")
        self.url = str(self.said("url")["url"])

    def refuse(self) -> None:
        """Answer 401: a relay keeps all it has, and tries one request in half a minute or when it is told to flush."""
        self.ask("faults", "POST", '{"answer": 401}')

    def heal(self) -> None:
        self.ask("faults", "DELETE")

    def ask(self, what: str, method: str = "GET", body: str | None = None) -> Any:
        address, _, _ = self.url.removeprefix("http://").partition("/")
        connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
        try:
            connection.request(method, f"/_sandbox/{what}", body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


class Bench:
    """One run of the benchmarks: its size, its directory, what it made so far."""

    def __init__(self, directory: Path, *, full: bool) -> None:
        self.directory = directory
        self.full = full
        self.pairs = 9 if full else 5
        self.few_pairs = 5 if full else 1
        """For figures without a target."""
        self.seconds = 5.0 if full else 1.5
        self.waiting = 1_000_000
        self.over_at = float("inf")
        """Monotonic time after which comparisons are cut short."""
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
        """One that is ready; on a copy of the files of `outbox` if given, which it has read. Its files are removed."""
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
        """A floor that listens, and its address."""
        directory = self.new_directory()
        command = python("bench.floors", which, interpreter=interpreter)
        with Child(command, directory / "floor.log", {**os.environ, **(env or {})}) as floor:
            yield floor, str(floor.said("address")["address"])

    def sqlite_floor(self, rows: int, per_commit: int, event_bytes: int = 400) -> float:
        """Rows a second that a bare loop appends, in a process of its own."""
        directory = self.new_directory()
        arguments = (str(directory / "floor.db"), str(rows), str(max(1, per_commit)), str(event_bytes))
        with Child(python("bench.floors", "sqlite", *arguments), directory / "floor.log") as floor:
            rate = float(floor.said("rows_per_s")["rows_per_s"])
        shutil.rmtree(directory)
        return rate

    def filled(self, count: int, devices: int, consecutive: int = 1) -> Path:
        """A directory with the outbox of a relay that stopped while so many events waited."""
        key = (count, devices, consecutive)
        if key not in self._filled:
            directory = self.new_directory()
            # nothing may be on its way when it stops: that would be sent first by those who start with a copy
            with Relay(directory, {"batch__linger": "10m"}, {}, free_port()) as relay:
                relay.until_ready()
                fill(relay, count, devices, consecutive)
            self._filled[key] = directory
        return self._filled[key]


def fill(relay: Relay, count: int, devices: int, consecutive: int = 1) -> None:
    """Post so many events, the same number for each device; `consecutive` in a row are of one device."""
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
        raise RuntimeError(f"{accepted} events stored of {count}")


def copy(outbox: Path, directory: Path) -> None:
    """Copy an outbox's files, down to the disk: else the first fsync of whoever opens the copy waits for all of it."""
    for path in outbox.glob("outbox.db*"):
        with Path(shutil.copy(path, directory)).open("rb") as made:
            os.fsync(made.fileno())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def bench(*, full: bool, directory: Path | None) -> Iterator[Bench]:
    """In a directory of its own below `directory` (default: the system's for such files), removed afterwards."""
    # as an installed relay is; one that is compiled at each start would be measured with that
    compileall.compile_dir(Path(measured.__file__).parent, quiet=2)
    with ExitStack() as stack:
        made = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-", dir=directory))
        if not shutil.which("wrk"):
            print("wrk is not installed: the own client generates the load", file=sys.stderr)
        yield Bench(Path(made), full=full)

"""The real relay as a process, driven through its sockets, signals and command line.

Waiting is for things: a line of its log, a change of its status, a request at the sandbox. The bound on
each wait is for a broken relay only, and far above what a slow machine needs.

The key is a canary, and the log is at debug level: whatever a test is about, it fails if the key is in a line of the
log, in an answer, in what a command prints, or, when a relay has ended, in a file beside its outbox.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

PATIENCE_S = 60.0
KEY = "canary-key-5f1c0d"


class RelayProcess:
    """One run of `relay run`; its ports are as bound, its log is read as JSON."""

    def __init__(self, process: asyncio.subprocess.Process, outbox: Path) -> None:
        self.process = process
        self._outbox = outbox
        self.log: list[dict[str, Any]] = []
        self._leaks: list[bytes] = []
        self.http = ""
        self.udp = ""
        self._line = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self.process.pid

    async def logged(self, event: str, **fields: Any) -> dict[str, Any]:
        """The first log line with this event and these fields, waited for."""

        def found() -> dict[str, Any] | None:
            for line in self.log:
                if line.get("event") == event and all(line.get(k) == v for k, v in fields.items()):
                    return line
            return None

        async with asyncio.timeout(PATIENCE_S), self._line:
            await self._line.wait_for(lambda: found() is not None or self._reader.done())
        line = found()
        assert line is not None, f"the relay ended without {event!r}: {self.log[-5:]}"
        return line

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        return await http(self.http, method, path, body, headers)

    async def post(self, event: Mapping[str, Any]) -> int:
        """The status of posting one event."""
        status, _, _ = await self.request("POST", "/v1/events", json.dumps(event).encode())
        return status

    async def status(self) -> dict[str, Any]:
        _, _, body = await self.request("GET", "/status.json")
        found: dict[str, Any] = json.loads(body)
        return found

    async def until(self, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask for the status until it says so; the status then."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                status = await self.status()
                if done(status):
                    return status
                await asyncio.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit code."""
        async with asyncio.timeout(PATIENCE_S):
            code = await self.process.wait()
            await self._reader
        assert not self._leaks, "the key is in the log"
        assert not any(map(_holds_key, self._outbox.parent.glob(f"{self._outbox.name}*"))), "the key is on the disk"
        return code

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.ended()

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            if KEY.encode() in raw:
                self._leaks.append(raw)
            async with self._line:
                try:
                    self.log.append(json.loads(raw))
                except ValueError:
                    self.log.append({"event": raw.decode("utf-8", "replace").rstrip()})
                self._line.notify_all()
        async with self._line:
            self._line.notify_all()


def _holds_key(file: Path) -> bool:
    try:
        return KEY.encode() in file.read_bytes()
    except OSError:  # what a test did to the disk
        return False


def environment(url: str, directory: Path, **settings: str) -> dict[str, str]:
    """The relay's environment: a fresh port each, quick linger, and `section__key` settings."""
    given = {
        "upstream__url": url,
        "upstream__api_key": KEY,
        "http__listen": "127.0.0.1:0",
        "udp__listen": "127.0.0.1:0",
        "outbox__path": str(directory / "outbox.db"),
        "batch__linger": "100ms",
        "retry__initial": "50ms",
        "retry__max": "500ms",
        "log__format": "json",
        "log__level": "debug",
    } | settings
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAY__")}
    return inherited | {f"RELAY__{name.upper()}": value for name, value in given.items()}


async def launch(env: Mapping[str, str], *command: str) -> RelayProcess:
    """Start `relay run`, or another command around it, and return at once."""
    return RelayProcess(
        await asyncio.create_subprocess_exec(
            *(command or (sys.executable, "-m", "relay", "run")), env=dict(env), stderr=asyncio.subprocess.PIPE
        ),
        Path(env.get("RELAY__OUTBOX__PATH", "data/outbox.db")),
    )


@asynccontextmanager
async def running(env: Mapping[str, str], *command: str) -> AsyncIterator[RelayProcess]:
    """A relay that accepts events; killed at the end if it still runs."""
    relay = await launch(env, *command)
    try:
        started = await relay.logged("relay started")
        relay.http = started["http"][0] if started["http"] else ""
        relay.udp = started["udp"][0] if started["udp"] else ""
        yield relay
    finally:
        await relay.kill()


async def http(
    address: str, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: status, headers by lower-case name, body."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {address}", "Connection: close", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        async with asyncio.timeout(PATIENCE_S):
            raw = await reader.read()
    finally:
        writer.close()
    assert KEY.encode() not in raw, "the key is in an answer"
    head, _, answer = raw.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return int(first.split(" ")[1]), found, answer


async def command(env: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    """A `relay` command: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "relay",
        *arguments,
        env=dict(env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    assert KEY.encode() not in out + err, "the key is in what a command prints"
    return process.returncode, out.decode(), err.decode()


def event(n: int, device: str = "A1B2C3D4-E5F6-7890-ABCD-EF1234567890", tenant_id: int = 1) -> dict[str, Any]:
    """A valid event with an id made of its number and device; `context.n` is what the sandbox tells order by."""
    return {
        "event_id": f"{crc32(f'{tenant_id} {device}'.encode()):08x}-0000-4000-8000-{n:012x}",
        "event_type": "video.play",
        "tenant_id": tenant_id,
        "source": {"platform": "tv", "device_id": device},
        "context": {"n": n},
    }

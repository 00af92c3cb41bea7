"""The real relay as a process, controlled through its sockets, signals and command line.

Tests wait for conditions: a log line, a status, a request at the sandbox. The time limit of each wait only ends a test
of a broken relay, and is far longer than a slow machine needs.

The key is a canary, and the log level is debug. Every test fails if the key is in a log line, in a response, in the
output of a command or, after the relay has ended, in a file of the outbox.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

from relay.runtime.clock import SystemClock
from relay.sandbox.server import Sandbox
from relay.sandbox.settings import SandboxSettings

PATIENCE_S = 60.0
KEY = "canary-key-5f1c0d"


class RelayProcess:
    """One process of `relay run`, its bound addresses and its parsed log lines."""

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

    async def logged(self, message: str, **fields: Any) -> dict[str, Any]:
        """Wait for a log line with this message and these fields, and return the first."""

        def found() -> dict[str, Any] | None:
            for line in self.log:
                if line.get("message") == message and all(line.get(k) == v for k, v in fields.items()):
                    return line
            return None

        async with asyncio.timeout(PATIENCE_S), self._line:
            await self._line.wait_for(lambda: found() is not None or self._reader.done())
        line = found()
        assert line is not None, f"the relay ended without {message!r}: {self.log[-5:]}"
        return line

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        return await http(self.http, method, path, body, headers)

    async def post(self, event: Mapping[str, Any]) -> int:
        """Post one event, and return the status of the response."""
        status, _, _ = await self.request("POST", "/v1/events", json.dumps(event).encode())
        return status

    async def status(self) -> dict[str, Any]:
        _, _, body = await self.request("GET", "/status.json")
        found: dict[str, Any] = json.loads(body)
        return found

    async def until(self, done: Callable[[dict[str, Any]], bool], patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """Request the status until `done` accepts it, and return it."""
        async with asyncio.timeout(patience_s):
            while True:
                status = await self.status()
                if done(status):
                    return status
                await asyncio.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait until the process has ended, and return its exit code. Fails if the key is in the log or on the disk."""
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
                    self.log.append({"message": raw.decode("utf-8", "replace").rstrip()})
                self._line.notify_all()
        async with self._line:
            self._line.notify_all()


def _holds_key(file: Path) -> bool:
    try:
        return KEY.encode() in file.read_bytes()
    except OSError:  # The test has deleted the file or broken the disk.
        return False


def environment(url: str, directory: Path, **settings: str) -> dict[str, str]:
    """Return the environment of a relay with free ports, a short linger time, and the given `section__key` settings."""
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


async def launch(env: Mapping[str, str], *command: str, pass_fds: Sequence[int] = ()) -> RelayProcess:
    """Start `relay run`, or a command that runs it, and return at once."""
    return RelayProcess(
        await asyncio.create_subprocess_exec(
            *(command or (sys.executable, "-m", "relay", "run")),
            env=dict(env),
            stderr=asyncio.subprocess.PIPE,
            pass_fds=pass_fds,
        ),
        Path(env.get("RELAY__OUTBOX__PATH", "data/outbox.db")),
    )


@asynccontextmanager
async def running(env: Mapping[str, str], *command: str, pass_fds: Sequence[int] = ()) -> AsyncIterator[RelayProcess]:
    """Run a relay that accepts events. Kill it at the end if it still runs."""
    relay = await launch(env, *command, pass_fds=pass_fds)
    try:
        started = await relay.logged("relay started")
        relay.http = started["http"][0] if started["http"] else ""
        relay.udp = started["udp"][0] if started["udp"] else ""
        yield relay
    finally:
        await relay.kill()


@asynccontextmanager
async def serving(context: ssl.SSLContext | None = None, **settings: Any) -> AsyncIterator[Sandbox]:
    """Run a sandbox upstream with these settings; over TLS with a context."""
    given: dict[str, Any] = {"api_key": KEY, "keep_requests": True} | settings
    sandbox = Sandbox(SandboxSettings(**given), SystemClock(), context)
    await sandbox.start()
    try:
        yield sandbox
    finally:
        await sandbox.stop()


async def http(
    address: str, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send one request on a new connection. Return status, headers by lower-case name, and body."""
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
    assert KEY.encode() not in raw, "the key is in a response"
    head, _, content = raw.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return int(first.split(" ")[1]), found, content


async def command(env: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    """Run a `relay` command. Return exit code, standard output and standard error."""
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
    assert KEY.encode() not in out + err, "the key is in the output of a command"
    return process.returncode, out.decode(), err.decode()


def event(n: int, device: str = "A1B2C3D4-E5F6-7890-ABCD-EF1234567890", tenant_id: int = 1) -> dict[str, Any]:
    """Return a valid event whose id contains its number and device. The sandbox checks the order by `context.n`."""
    return {
        "event_id": f"{crc32(f'{tenant_id} {device}'.encode()):08x}-0000-4000-8000-{n:012x}",
        "event_type": "video.play",
        "tenant_id": tenant_id,
        "source": {"platform": "tv", "device_id": device},
        "context": {"n": n},
    }

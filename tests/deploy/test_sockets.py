"""A relay with sockets of systemd: a restart under load refuses no connection and loses no datagram."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
from relay.sandbox.server import Sandbox

from tests.e2e.harness import PATIENCE_S, RelayProcess, command, environment, event
from tests.fault.sizes import LONG_S, size
from tests.support.socket_owner import SocketOwner

BUFFER_BYTES = 8 << 20
"""ReceiveBuffer= of the shipped socket unit."""
RESTARTS = size(2, 10)
DATAGRAMS_PER_S = size(200, 1_000)
CLIENTS = size(2, 10)
"""New connections, and kept connections, of each kind of listener at a time."""
PAUSE_S = 0.01
"""Pause of a client between two requests, and between two bursts of datagrams."""
LOAD_S = size(300, 3_000) / 1000
"""Time of each relay under load."""


@pytest.fixture
def owner() -> Iterator[SocketOwner]:
    with SocketOwner() as owner:
        yield owner


class Load:
    """Clients of all listeners, and what they experienced."""

    def __init__(self, http: tuple[str, int], ops: tuple[str, int], unix: str, udp: tuple[str, int]) -> None:
        self._targets: dict[str, Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]] = {
            "http": lambda: asyncio.open_connection(*http),
            "unix": lambda: asyncio.open_unix_connection(unix),
            "ops": lambda: asyncio.open_connection(*ops),
        }
        self._udp = udp
        self._numbers = count(1)
        self.stored = 0
        """Number of events that received a 202."""
        self.datagrams = 0
        self.requests: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.longest_s = 0.0
        self._stopping = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as clients:
            for name in self._targets:
                for _ in range(CLIENTS):
                    clients.create_task(self._client(name, keeps=False))
                    clients.create_task(self._client(name, keeps=True))
            clients.create_task(self._send_datagrams())
            try:
                yield
            finally:
                self._stopping.set()

    async def _client(self, name: str, *, keeps: bool) -> None:
        kind = f"{name}, kept connection" if keeps else f"{name}, new connections"
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._stopping.is_set():
            self.requests[kind] += 1
            began = time.monotonic()
            try:
                connection = connection or await self._targets[name]()
                closes = await self._exchange(name, *connection, keeps=keeps)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failed[f"{kind}: {type(error).__name__}"] += 1
                closes = True
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            if closes and connection is not None:
                connection[1].close()
                connection = None
            await asyncio.sleep(PAUSE_S)
        if connection is not None:
            connection[1].close()

    async def _exchange(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, keeps: bool
    ) -> bool:
        """Send one request; return whether the connection closes after it."""
        body = b"" if name == "ops" else json.dumps(event(next(self._numbers))).encode()
        lines = ["GET /livez HTTP/1.1" if name == "ops" else "POST /v1/events HTTP/1.1", "Host: localhost"]
        lines += [f"Content-Length: {len(body)}"] + ([] if keeps else ["Connection: close"])
        writer.write("\r\n".join((*lines, "", "")).encode() + body)
        async with asyncio.timeout(PATIENCE_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            (length,) = (int(line.partition(":")[2]) for line in head if line.startswith("content-length:"))
            await reader.readexactly(length)
        status = int(head[0].split(" ")[1])
        if status not in (200, 202):
            self.failed[f"{name}: {status}"] += 1
        self.stored += status == 202
        return "connection: close" in head or not keeps

    async def _send_datagrams(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            began = time.monotonic()
            while not self._stopping.is_set():
                while self.datagrams < (time.monotonic() - began) * DATAGRAMS_PER_S:
                    sender.sendto(json.dumps(event(next(self._numbers))).encode(), self._udp)
                    self.datagrams += 1
                await asyncio.sleep(PAUSE_S)


@pytest.mark.timeout(LONG_S)
async def test_restarts_under_load_refuse_no_connection_and_lose_no_datagram(
    owner: SocketOwner, sandbox: Sandbox, tmp_path: Path
) -> None:
    http = owner.listen("http", ("127.0.0.1", 0)).getsockname()
    ops = owner.listen("ops", ("127.0.0.1", 0)).getsockname()
    unix = str(tmp_path / "socket")
    owner.listen("unix", unix)
    udp = owner.receive("udp", BUFFER_BYTES)
    if udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2 < BUFFER_BYTES:
        pytest.skip("only root can set the receive buffer of the socket unit")
    env = environment(sandbox.url, tmp_path, http__unix_socket=unix, ops__listen="127.0.0.1:1", log__level="info")
    load = Load(http, ops, unix, udp.getsockname())

    async with AsyncExitStack() as relays:
        relay = await relays.enter_async_context(owner.relay(env))
        async with load.running():
            for _ in range(RESTARTS):
                await asyncio.sleep(LOAD_S)
                relay.signal(signal.SIGTERM)
                assert await relay.ended() == 0
                relay = await relays.enter_async_context(owner.relay(env))
            await asyncio.sleep(LOAD_S)
        wanted = load.stored + load.datagrams
        await until_accepted(relay, ops, wanted)
    print(f"restarts: {RESTARTS}, failed requests: {dict(load.failed)}, of {dict(load.requests)}")
    print(f"datagrams: {load.datagrams}, lost: 0, longest request: {load.longest_s:.2f} s")

    assert load.failed == {}
    assert Path(unix).is_socket()


async def until_accepted(relay: RelayProcess, ops: tuple[str, int], wanted: int) -> None:
    """Wait until the ledger contains so many events. All have different ids."""
    relay.http = f"{ops[0]}:{ops[1]}"
    await relay.until(lambda status: status["ledger"]["accepted"] == wanted)


async def test_the_log_and_the_status_name_the_listeners_with_passed_sockets(
    owner: SocketOwner, sandbox: Sandbox, tmp_path: Path
) -> None:
    http = owner.listen("http", ("127.0.0.1", 0)).getsockname()
    env = environment(sandbox.url, tmp_path, http__listen=f"{http[0]}:{http[1]}")
    async with owner.relay(env) as relay:
        started = await relay.logged("relay started")
        assert (started["http"], started["from_systemd"]) == ([f"{http[0]}:{http[1]}"], ["http"])
        assert "systemd sockets   http" in (await command(env, "status"))[1]


async def test_a_wrong_name_is_a_configuration_error(owner: SocketOwner, sandbox: Sandbox, tmp_path: Path) -> None:
    owner.listen("htpp", ("127.0.0.1", 0))
    relay = await owner.launch(environment(sandbox.url, tmp_path))

    assert await relay.ended() == 78
    assert "did you mean http?" in relay.log[-1]["message"]

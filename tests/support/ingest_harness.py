"""A listener on a loopback port with a clock set by hand, and a client that speaks raw bytes."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from relay.config import Http
from relay.event.reader import Event, EventDefaults, Reader
from relay.http.guard import HostGuard
from relay.http.listener import Listener
from relay.http.request import BodyHandler, Handler, Request
from relay.http.response import Response as HttpResponse
from relay.ingest.events_api import HttpIngest
from relay.outbox import AppendResult, DeadLetter, Durability, EventState, Selection
from relay.runtime.metrics import Metrics

PATIENCE_S = 10
"""A bound for tests that fail, not a measure: everything here is a matter of milliseconds."""

EVENT_ID = "550e8400-e29b-41d4-a716-446655440000"
EVENT = {
    "event_id": EVENT_ID,
    "event_type": "video.play",
    "tenant_id": 2,
    "source": {"platform": "tv", "device_id": "A1B2C3D4-E5F6-7890-ABCD-EF1234567890"},
}
BODY = json.dumps(EVENT).encode()


class HandClock:
    """Stands still until it is moved."""

    boot_id = "boot"

    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self._ids = 0

    def monotonic_ms(self) -> int:
        return self.now_ms

    def wall_ms(self) -> int:
        return 0

    def chance(self) -> float:
        return 0.5

    def new_event_id(self) -> str:
        self._ids += 1
        return f"00000000-0000-4000-8000-{self._ids:012x}"


STORED = AppendResult(0, "full")


@dataclass
class ScriptedOutbox:
    """The part of an outbox that ingest uses. It stores, rejects or waits, as the test configures it."""

    error: Exception | None = None
    duplicates: int = 0
    durability: Durability = "full"
    room_events: int | None = None
    """Appends beyond it fail with `error`; None: no limit."""
    has_room: bool = True
    waits: bool = False
    stored: list[Event] = field(default_factory=list)
    appends: list[asyncio.Future[AppendResult]] = field(default_factory=list)
    callers: list[int] = field(default_factory=list)
    """Of each append."""
    states: dict[bytes, EventState] = field(default_factory=dict)
    letters: Sequence[DeadLetter] = ()

    def append(self, events: Sequence[Event], *, callers: int = 1) -> asyncio.Future[AppendResult]:
        outcome: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()
        self.appends.append(outcome)
        self.callers.append(callers)
        full = self.room_events is None or len(self.stored) + len(events) > self.room_events
        if self.error is not None and full:
            outcome.set_exception(self.error)
            return outcome
        self.stored.extend(events)
        if not self.waits:
            outcome.set_result(AppendResult(self.duplicates, self.durability))
        return outcome

    def room(self) -> bool:
        return self.has_room

    async def dead_letters(self, selection: Selection, limit: int) -> Sequence[DeadLetter]:
        assert limit == 1
        if self.error is not None:
            raise self.error
        return [letter for letter in self.letters if UUID(letter.event_id).bytes == selection.event_id]

    async def find(self, event_id: bytes) -> EventState | None:
        return self.states.get(event_id)


def new_reader(clock: HandClock, max_event_bytes: int = 64 << 10, allowed_tenants: Sequence[int] = ()) -> Reader:
    return Reader(
        EventDefaults(),
        max_event_bytes,
        clock.new_event_id,
        lambda: "2026-01-01T00:00:00.000Z",
        allowed_tenants=allowed_tenants,
    )


class Response:
    """One parsed response."""

    def __init__(self, head: bytes, body: bytes) -> None:
        status_line, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status_line.split(" ")[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        self.body = body

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


class Client:
    """One connection; sends exactly the bytes it is given."""

    patience_s: float = PATIENCE_S

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, address: str) -> Client:
        if address.startswith("/"):
            return cls(*await asyncio.open_unix_connection(address))
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host.strip("[]"), int(port)))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self, *, to_head: bool = False) -> Response:
        """The next response; skips nothing. `to_head`: it has no body whatever it announces."""
        async with asyncio.timeout(self.patience_s):
            head = (await self._reader.readuntil(b"\r\n\r\n"))[:-4]
            response = Response(head, b"")
            if not to_head:
                response.body = await self._reader.readexactly(int(response.headers.get("content-length", "0")))
        return response

    async def rest(self) -> bytes:
        """Everything up to the end of the connection, which must come."""
        async with asyncio.timeout(self.patience_s):
            try:
                return await self._reader.read()
            except (ConnectionResetError, BrokenPipeError):
                return b""

    async def read(self, count: int) -> bytes:
        async with asyncio.timeout(self.patience_s):
            return await self._reader.readexactly(count)

    def reset(self) -> None:
        """Leave as a killed process does: the peer sees the connection reset."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Served:
    """A running listener with the events API behind it, or with another handler."""

    def __init__(
        self,
        handler: Handler | None = None,
        *,
        caches_heads: bool = True,
        outbox: Any = None,
        allowed_origins: Sequence[str] = (),
        passed: Sequence[socket.socket] = (),
        passed_unix: Sequence[socket.socket] = (),
        **settings: Any,
    ) -> None:
        self.clock = HandClock()
        self.metrics = Metrics()
        self.outbox: Any = outbox or ScriptedOutbox()
        self.settings = Http(**{"listen": "127.0.0.1:0", "allowed_origins": allowed_origins, **settings})
        reader = new_reader(self.clock, self.settings.max_event_bytes)
        ingest = HttpIngest(reader, self.outbox, self.settings, self.metrics)
        guard = HostGuard(self.settings.allowed_hosts, self.settings.allowed_origins)
        self.parsed_heads = 0
        """Heads that were not found in the cache."""
        self._caches_heads = caches_heads
        self._handler = handler or ingest.handle
        self.listener = Listener(self._handle, self.settings, guard, self.metrics, self.clock, passed, passed_unix)
        self._clients: list[Client] = []

    def _handle(self, request: Request) -> BodyHandler | HttpResponse:
        self.parsed_heads += 1
        handler = self._handler(request)
        if isinstance(handler, BodyHandler) and not self._caches_heads:
            return handler._replace(is_cacheable=False)
        return handler

    async def __aenter__(self) -> Served:
        await self.listener.start()
        self._address = self.listener.addresses[0]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.listener.stop(within_ms=2_000)
        for client in self._clients:
            client.writer.close()

    async def connect(self) -> Client:
        client = await Client.connect(self._address)
        self._clients.append(client)
        return client

    async def ask(self, raw: bytes, *, to_head: bool = False) -> Response:
        """The answer to one request on a connection of its own."""
        client = await self.connect()
        client.send(raw)
        response = await client.response(to_head=to_head)
        client.writer.close()
        return response

    async def post(self, body: bytes = BODY, *headers: str) -> Response:
        return await self.ask(post(body, *headers))

    def count(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(f"relay_{name}", labels)
        assert value is not None, name
        return value

    def rejected(self, reason: str) -> float:
        return self.count("events_rejected_total", transport="http", reason=reason)

    def pass_time(self, ms: int) -> None:
        self.clock.now_ms += ms
        self.listener.sweep(self.clock.now_ms)


def post(body: bytes = BODY, *headers: str, host: str = "127.0.0.1:8080") -> bytes:
    lines = ["POST /v1/events HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join((*lines, "", "")).encode() + body


def request(line: str, *headers: str, host: str = "localhost") -> bytes:
    return "\r\n".join((line, f"Host: {host}", *headers, "", "")).encode()


def gzipped(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def free_udp_socket(family: int = socket.AF_INET) -> socket.socket:
    sending = socket.socket(family, socket.SOCK_DGRAM)
    sending.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    sending.setblocking(False)
    return sending


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something that must happen has happened."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0)

"""Server-sent events for the status page: the history once, then the status every two seconds.

Rules: at most MAX_STREAMS streams at a time, so that status pages cannot use up the listener's connections. The
listener's deadline for responses ends a stream that the client does not read. All streams end when the relay stops.
The status is computed only while a stream is open, and at most once per second for all streams.

Events: `history` (all samples by resolution), `sample` (new ones), `status` (the data of /status.json).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
from aiohttp import hdrs

from relay.http.request import Request
from relay.http.response import Response, Stream, Write
from relay.ops.history import History
from relay.ops.response import SECURITY_HEADERS, RequestRejected
from relay.ops.status import SNAPSHOT_MS, Status
from relay.runtime.clock import Clock
from relay.runtime.metrics import Metrics

MAX_STREAMS = 8
STATUS_EVERY_S = 2.0
_RECONNECT_MS = 3_000
_CONTENT_TYPE = "text/event-stream; charset=utf-8"
_HEADERS = (*SECURITY_HEADERS.items(), ("X-Accel-Buffering", "no"))
"""X-Accel-Buffering: a proxy that buffers would delay the updates."""


class Live:
    """All streams of one service. `stop` ends them."""

    def __init__(self, status: Status, history: History, clock: Clock, metrics: Metrics) -> None:
        self._status = status
        self._history = history
        self._clock = clock
        self._metrics = metrics
        metrics.status_max_streams.set(MAX_STREAMS)
        self._streams = 0
        self._stopping = asyncio.Event()
        self._rendered = (-SNAPSHOT_MS, b"")

    def stop(self) -> None:
        """End every stream, and reject new ones."""
        self._stopping.set()

    async def stream(self, request: Request) -> Response | Stream:
        """Return a stream that ends when the client disconnects or the relay stops. Raises RequestRejected (503)."""
        return self.open(request, _CONTENT_TYPE, self._send)

    def open(self, request: Request, content_type: str, send: Callable[[Write], Awaitable[None]]) -> Response | Stream:
        """Return a stream of the given type that counts for the limit. Raises RequestRejected (503)."""
        if self._stopping.is_set():
            raise RequestRejected(503, "the relay is stopping", {hdrs.RETRY_AFTER: "5"})
        if self._streams >= MAX_STREAMS:
            raise RequestRejected(
                503,
                f"{MAX_STREAMS} status pages and `relay tail` commands are open, which is the limit: close one",
                {hdrs.RETRY_AFTER: "30"},
            )
        if request.method == hdrs.METH_HEAD:
            return Response(200, b"", _HEADERS, close=True, content_type=content_type)
        self._count(1)
        return Stream((("Content-Type", content_type), *_HEADERS), partial(self._counted, send))

    async def stops_within(self, seconds: float) -> bool:
        """Wait, and return whether the relay stops meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                return await self._stopping.wait()
        except TimeoutError:
            return False

    async def _counted(self, send: Callable[[Write], Awaitable[None]], write: Write) -> None:
        try:
            await send(write)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._streams += change
        self._metrics.status_streams.set(self._streams)

    async def _send(self, write: Write) -> None:
        samples = self._history.samples()
        write(b"retry: %d\n\n" % _RECONNECT_MS + _event("history", samples) + self._status_event())
        while not await self.stops_within(STATUS_EVERY_S):
            news = self._history.samples(samples[0][-1]["at_ms"] if samples[0] else -1)
            samples = news if news[0] else samples
            write((_event("sample", news) if news[0] else b"") + self._status_event())

    def _status_event(self) -> bytes:
        now = self._clock.monotonic_ms()
        if now - self._rendered[0] >= SNAPSHOT_MS:
            self._rendered = (now, _event("status", self._status.data()))
        return self._rendered[1]


def _event(name: str, data: Any) -> bytes:
    """Return a server-sent event. Encoded JSON contains no line break, so that one `data` line is enough."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))

"""Any order of events of a socket, of handlers and of the listener keeps the connection's invariants.

`Connection._move` asserts the invariants. The test additionally requires that each complete request gets at most one
response, in order, and that no response is written into another one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from relay.http.connection import KEEPALIVE_MS, LINGERING_MS, Connection
from relay.http.heads import Heads
from relay.http.request import BodyHandler, Reply
from relay.http.response import Response, Stream, Write, error_response

from tests.fault.sizes import size
from tests.support.event_loop import turns
from tests.support.ingest_harness import post, request

TIMEOUT_MS = 10_000
BODIES = [
    post(b"later"),
    post(b"now"),
    post(b"raise"),
    post(b"stream"),
    post(b"task"),
    post(b"bye", "Connection: close"),
]
CHUNKED = request("POST /v1/events HTTP/1.1", "Transfer-Encoding: chunked") + b"5\r\nlater\r\n0\r\n\r\n"
STREAMS = [
    *BODIES, CHUNKED, request("GET / HTTP/1.1"), request("GET / HTTP/1.1", "Content-Length: 5"), b"GARBAGE\r\n\r\n",
    b"\r\n", post(b"x" * 200_000), request("POST / HTTP/1.1", "Content-Length: 5", "Expect: 100-continue"),
    b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 40_000,
]  # fmt: skip
EVENTS = [
    "receive", "receive", "receive", "receive part", "finish", "reply", "reply", "fail", "stall", "drain", "turn",
    "turn", "wait", "expire", "stop", "close", "lose",
]  # fmt: skip
RESPONSE = re.compile(rb'HTTP/1\.1 \d{3} [^\r]+\r\n(?:[^\r]+\r\n)*\r\n(?:\{"[^}]*\}|streamed)?')


class Socket:
    """The transport and the listener of one connection."""

    def __init__(self) -> None:
        self.written = b""
        self.is_paused = False
        self.is_closed = False
        self.now = 0
        self.tasks: list[asyncio.Task[None]] = []

    # The listener.
    def now_ms(self) -> int:
        return self.now

    def admit(self, _: Connection) -> None:
        return None

    def forget(self, _: Connection) -> None: ...

    def failed(self, _: Exception) -> Response:
        return error_response(503, "failed")

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    # The transport.
    def get_extra_info(self, _: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.written += data

    def pause_reading(self) -> None:
        assert not self.is_paused
        self.is_paused = True

    def resume_reading(self) -> None:
        assert self.is_paused
        self.is_paused = False

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close


class Driver:
    """Applies events, and leaves out those that a socket cannot cause in its state."""

    def __init__(self) -> None:
        self.socket = Socket()
        self.replies: list[Reply] = []
        self.handled = 0
        heads = Heads(lambda message, _: (self._decide(message.method), ""), lambda: None, asyncio.get_running_loop())
        self.connection = Connection(cast("Any", self.socket), heads)
        self.connection.connection_made(cast("Any", self.socket))
        self.data = b""
        self.is_finished = self.is_stalled = self.is_lost = False

    def _decide(self, method: str) -> BodyHandler | Response:
        if method != "POST":
            return error_response(404, "none")
        return BodyHandler(self._handle, 150_000, lambda _: error_response(413, "large", close=True), is_cacheable=True)

    def _handle(self, body: bytes, reply: Reply) -> Coroutine[Any, Any, None] | None:
        self.handled += 1
        if body == b"task":
            return self._reply_later(reply)
        if body == b"raise":
            raise ZeroDivisionError
        if body == b"stream":
            reply(Stream((), self._stream))
        elif body == b"later":
            self.replies.append(reply)
        else:
            reply(error_response(202, "now"))
        return None

    async def _reply_later(self, reply: Reply) -> None:
        await asyncio.sleep(0)
        reply(error_response(202, "task"))

    async def _stream(self, write: Write) -> None:
        write(b"stream")
        await asyncio.sleep(0)
        write(b"ed")

    async def apply(self, event: str, stream: bytes) -> None:
        connection, socket = self.connection, self.socket
        can_receive = not (socket.is_paused or socket.is_closed or self.is_finished or self.is_lost)
        match event:
            case "receive" if can_receive:
                connection.data_received(self.data + stream)
                self.data = b""
            case "receive part" if can_receive and len(self.data + stream) > 1:
                received = self.data + stream
                cut = len(received) * 2 // 3
                connection.data_received(received[:cut])
                self.data = received[cut:]
            case "finish" if can_receive:
                self.is_finished = True
                assert connection.eof_received()
            case "reply" | "fail" if self.replies:
                self.replies.pop(0)(ZeroDivisionError() if event == "fail" else error_response(202, "later"))
            case "stall" if not (self.is_stalled or self.is_lost):
                self.is_stalled = True
                connection.pause_writing()
            case "drain" if self.is_stalled and not self.is_lost:
                self.is_stalled = False
                connection.resume_writing()
            case "wait":
                socket.now += LINGERING_MS
                connection.expire(socket.now, TIMEOUT_MS)
            case "expire":
                socket.now += KEEPALIVE_MS
                connection.expire(socket.now, TIMEOUT_MS)
            case "stop" if not self.is_lost:
                connection.stop()
            case "close" if connection.idle_since_ms is not None:
                connection.close()
            case "lose" if not self.is_lost:
                self.is_lost = True
                socket.is_closed = True
                connection.connection_lost(None)
            case _:
                await asyncio.sleep(0)


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.sampled_from(STREAMS)), max_size=30))
@settings(max_examples=size(300, 30_000))
def test_any_order_of_events_keeps_the_invariants(events: list[tuple[str, bytes]]) -> None:
    asyncio.run(apply(events))


async def apply(events: list[tuple[str, bytes]]) -> None:
    bugs: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context))
    driver = Driver()
    for event, stream in events:
        await driver.apply(event, stream)
    await turns(5)
    written = driver.socket.written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    assert RESPONSE.sub(b"", written) in (b"", b"stream"), "responses are written one after the other"
    if not driver.is_lost:
        driver.connection.connection_lost(None)
    assert repr(driver.connection).startswith("<Connection closed")
    await asyncio.gather(*driver.socket.tasks)
    assert bugs == []

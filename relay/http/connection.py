"""A connection of an app: reads requests one after the other, and responds to each.

Rules:
1.  The state says what the connection waits for. `_move` is the only function that changes it.
2.  One request is handled at a time. Data after it is buffered, and the socket is not read meanwhile.
3.  The time limit applies from the first byte of a request until its body is complete, and not while the relay works.
4.  A response is never written into another one.
5.  One call reads at most one request and `_MAX_READ_BYTES`. The rest is read in the next turn of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

from relay.http.connection_state import NEXT, PARTS, READS, Input, State
from relay.http.heads import Heads, RequestPlan
from relay.http.reader import HEAD_END, Complete, Early, Ended, RequestReader, Step
from relay.http.request import BodyHandler
from relay.http.response import RETRY_LATER, Response, Stream, error_response

KEEPALIVE_MS = 75_000
"""Time until an idle connection is closed; longer than in common proxies."""
LINGERING_MS = 2_000
"""Time for which the rest of a rejected body is discarded, so that the client receives the response."""
_MAX_READ_BYTES = 65_536
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_TIMEOUT = error_response(408, "the request was not complete within http.request_timeout", close=True)
STOPPING = error_response(503, "the relay is stopping", headers=RETRY_LATER, close=True)


class ConnectionOwner(Protocol):
    """The methods of a listener that its connections call."""

    @property
    def now_ms(self) -> Callable[[], int]: ...
    def admit(self, connection: Connection) -> Response | None: ...
    def forget(self, connection: Connection) -> None: ...
    def failed(self, bug: Exception) -> Response: ...
    def run(self, work: Coroutine[Any, Any, None]) -> None: ...


class Connection(asyncio.Protocol):
    """Reads the requests of one client and responds to them in order."""

    __slots__ = (
        "_client_finished",
        "_heads",
        "_listener",
        "_pipelined",
        "_plan",
        "_reader",
        "_since_ms",
        "_stalled_since_ms",
        "_state",
        "_transport",
    )

    def __init__(self, listener: ConnectionOwner, heads: Heads) -> None:
        self._listener = listener
        self._heads = heads
        self._transport: asyncio.Transport | None = None
        self._state: State = "new"
        self._since_ms = listener.now_ms()
        """Time since which the connection is in its state."""
        self._reader: RequestReader | None = None
        self._plan: RequestPlan | None = None
        """The plan of the request that is handled or discarded."""
        self._pipelined = b""
        """Data received after the request in progress. The socket is not read meanwhile."""
        self._stalled_since_ms: int | None = None
        """Time since which the client has not read the written data."""
        self._client_finished = False

    def __repr__(self) -> str:
        return f"<Connection {self._state} since {self._since_ms} ms, {len(self._pipelined)} bytes pipelined>"

    def _move(self, input_: Input, reader: RequestReader | None = None, plan: RequestPlan | None = None) -> None:
        """Change the state, with the reader and the plan that belong to the new state."""
        self._state = state = NEXT[self._state][input_]
        self._since_ms = self._listener.now_ms()
        self._reader, self._plan = reader, plan
        assert (reader is not None, plan is not None, self._transport is not None) == PARTS[state], self

    # --- calls of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport is not a subclass.
        rejection = self._listener.admit(self)
        if rejection is not None:
            self.close(rejection.raw)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._transport = None
        self._pipelined = b""
        self._move("lost")
        self._listener.forget(self)

    def data_received(self, data: bytes) -> None:
        state = self._state
        if self._pipelined or state in {"handling", "writing"}:
            self._buffer(self._pipelined + data)
            return
        if state in {"idle", "new"}:
            end = data.find(HEAD_END) + len(HEAD_END)
            plan = self._heads.cached(data[:end])
            if plan is not None and plan.body_bytes == len(data) - end:
                self._handle(plan, data[end:])
                return
        if state != "closing":
            self._read(data)

    def eof_received(self) -> bool:
        """Keep the connection open for the response to a complete request of a client that has finished sending."""
        self._client_finished = True
        if self._state in READS and not self._pipelined:
            self.close()
        return True

    def pause_writing(self) -> None:
        self._stalled_since_ms = self._listener.now_ms()

    def resume_writing(self) -> None:
        self._stalled_since_ms = None
        if self._state == "writing":
            self._move("drained")
            self._read_next()

    # --- reading

    def _read(self, data: bytes) -> None:
        """Read a part of a request."""
        reader = self._reader
        if reader is None:
            data = data.lstrip(b"\r\n")  # RFC 9112, 2.2.
            if not data:
                return
            assert self._transport is not None
            reader = RequestReader(self._heads, self._transport.get_extra_info("peername"))
            self._move("began", reader)
        if len(data) > _MAX_READ_BYTES:
            self._buffer(data[_MAX_READ_BYTES:])
            self._read_next()
        self._advance(reader, reader.feed(data[:_MAX_READ_BYTES]))

    def _advance(self, reader: RequestReader, step: Step) -> None:
        """Do what follows from the received data."""
        if step is None or self._transport is None:
            return
        if isinstance(step, Complete):
            self._buffer(step.rest + self._pipelined)
            self._handle(step.plan, step.body)
        elif isinstance(step, Early):
            self._move("responded", reader, step.plan)
            self._transport.write(step.plan.finish(step.response))
            self._advance(reader, step.then)
        elif isinstance(step, Ended):
            self._buffer(step.rest + self._pipelined)
            self._end_request(closes=reader.plan is None or reader.plan.closes)
        elif step == "continue":
            self._transport.write(_CONTINUE)
        elif step.response is not None:
            self.close(self._unhandled(step.response))
        else:
            self.close()

    def _unhandled(self, response: Response) -> bytes:
        """Return the response to an incomplete request, with the CORS headers for its origin."""
        plan = None if self._reader is None else self._reader.plan
        return response.raw if plan is None else plan.finish(response)

    def _buffer(self, data: bytes) -> None:
        """Buffer data until the request in progress has ended, and stop reading."""
        if data and not self._pipelined and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._pipelined = data

    def _read_next(self) -> None:
        """Read the buffered data in the next turn of the event loop; close if the client sends nothing more."""
        if self._pipelined:
            asyncio.get_running_loop().call_soon(self._read_pipelined)
        elif self._client_finished and self._state in READS:
            self.close()

    def _read_pipelined(self) -> None:
        if self._pipelined and self._state in READS and self._transport is not None:
            data, self._pipelined = self._pipelined, b""
            self._transport.resume_reading()
            self._read(data)
            self._read_next()

    # --- responding

    def _handle(self, plan: RequestPlan, body: bytes) -> None:
        self._move("completed", plan=plan)
        try:
            work = cast("BodyHandler", plan.handler).handle(body, self._reply)
        except Exception as bug:
            self._reply(bug)
        else:
            if work is not None:
                self._listener.run(self._await_reply(work))

    async def _await_reply(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as bug:
            self._reply(bug)

    def _reply(self, outcome: Response | Stream | Exception) -> None:
        response = self._listener.failed(outcome) if isinstance(outcome, Exception) else outcome
        plan, transport = self._plan, self._transport
        if isinstance(response, Stream):
            self._listener.run(self._send(response))
        elif plan is not None and transport is not None:
            transport.write(plan.finish(response))
            self._end_request(closes=response.closes or plan.closes)

    def _end_request(self, *, closes: bool) -> None:
        """Continue after a request whose response was written."""
        if closes:
            self.close()
        elif self._stalled_since_ms is not None:
            self._move("stalled")
        else:
            self._move("ended")
            if self._pipelined or self._client_finished:
                self._read_next()

    async def _send(self, stream: Stream) -> None:
        def write(part: bytes) -> bool:
            if self._plan is None or self._transport is None:
                raise ConnectionResetError("the client closed the connection")
            self._transport.write(part)
            return self._stalled_since_ms is None

        if self._plan is not None and self._transport is not None:
            self._transport.write(stream.head)
        try:
            await stream.send(write)
        except ConnectionResetError:
            pass
        except Exception as bug:
            self._listener.failed(bug)
        finally:
            self.close()

    def close(self, last: bytes = b"") -> None:
        """Close the connection after `last` and the data before it are sent."""
        if self._transport is not None and self._state != "closing":
            self._transport.write(last)
            self._pipelined = b""
            self._move("closed")
            self._transport.close()

    # --- calls of the listener

    @property
    def idle_since_ms(self) -> int | None:
        """Time since which no request or response is in progress; None if one is, or if the connection is closing."""
        is_idle = self._state in ("new", "idle") and not self._pipelined and self._stalled_since_ms is None
        return self._since_ms if is_idle else None

    def expire(self, now_ms: int, timeout_ms: int) -> bool:
        """Close the connection if its client is too slow; return whether a request is lost.

        A client that is slow to send gets a 408. A connection whose client does not read responses, or does not close,
        is aborted. A connection without a received byte is closed silently, as browsers open connections in advance.
        """
        state, age_ms = self._state, now_ms - self._since_ms
        stalled_ms = 0 if self._stalled_since_ms is None else now_ms - self._stalled_since_ms
        if stalled_ms >= timeout_ms or (state == "closing" and age_ms >= timeout_ms):
            self.abort()
        elif state == "receiving" and age_ms >= timeout_ms:
            self.close(self._unhandled(_TIMEOUT))
            return True
        elif age_ms >= {"new": timeout_ms, "idle": KEEPALIVE_MS, "discarding": LINGERING_MS}.get(state, age_ms + 1):
            self.close()
        return False

    def finish(self) -> None:
        """Close after the response to the request whose head was received; `Heads` closes after later requests."""
        if self._plan is not None and self._state == "handling":
            self._plan = self._plan._replace(closes=True)
        elif self._reader is not None and self._reader.plan is not None and self._state == "receiving":
            self._reader.plan = self._reader.plan._replace(closes=True)

    def stop(self) -> None:
        """Reject an incomplete request; let the handler of a complete one finish, then close."""
        if self._state == "receiving":
            self.close(self._unhandled(STOPPING))
        elif self._state == "handling":
            self.finish()
        else:
            self.close()

    def abort(self) -> None:
        """Close the connection at once, without sending the written data."""
        self.close()
        if self._transport is not None:
            self._transport.abort()

"""A connection of an app: aiohttp's protocol with added deadlines and error responses.

aiohttp (3.14) waits forever for a head or a body. To a request that it cannot parse it responds in plain text and logs
a traceback. `Connection` records since when a request is being received and since when the client does not read
responses. The listener calls `expired` in each sweep.

Rules:
1.  The time limit applies from the first byte of a request until its body is complete, and not while the relay works.
    The start of a request in the same segment as the end of the previous one is not timed until its next byte. If no
    byte follows, the keep-alive timeout closes the connection.
2.  A response is never written into another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

from aiohttp import web
from aiohttp.http import HttpProcessingError, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError, _ErrInfo

from relay.http.body import CLIENT_CLOSED
from relay.http.head_cache import CompleteRequest, FastPath, HeadCache
from relay.http.response import RETRY_LATER, Response, error_response
from relay.runtime.clock import loop_s

_TIMEOUT = error_response(408, "the request was not complete within http.request_timeout", close=True)
_CLIENT_ERRORS = (OSError, RequestPayloadError, HttpProcessingError)
"""Exceptions of an incomplete body, or of invalid framing."""
MAX_HEAD_BYTES = 32_768
"""Large enough for browsers, which send the relay the cookies of every web app on 127.0.0.1."""
HEAD_TOO_LARGE = error_response(
    431, f"the request head has more than {MAX_HEAD_BYTES} bytes; send fewer or shorter headers", close=True
)
STOPPING = error_response(503, "the relay is stopping", headers=RETRY_LATER, close=True)


class ConnectionOwner(Protocol):
    """The methods of a listener that its connections call."""

    @property
    def now_ms(self) -> Callable[[], int]: ...
    def admit(self, connection: Connection) -> Response | None: ...
    def forget(self, connection: Connection) -> None: ...
    def head_too_large(self) -> Response: ...
    def unparsable(self, message: str) -> Response: ...
    def failed(self, bug: Exception) -> Response: ...
    def readable(self, response: Response, request: web.BaseRequest) -> Response: ...


class Connection(RequestHandler):
    """Reads the requests of one client and responds to them in order."""

    __slots__ = (
        "_client_finished",
        "_closing_since_ms",
        "_fast_path",
        "_has_received",
        "_head_bytes",
        "_idle_since_ms",
        "_incomplete_body",
        "_listener",
        "_newest_request",
        "_on_fast_path",
        "_pending_responses",
        "_pipelined",
        "_receiving_since_ms",
        "_socket_transport",
        "_stalled_since_ms",
        "is_unix",
    )

    def __init__(
        self,
        server: web.Server,
        listener: ConnectionOwner,
        loop: asyncio.AbstractEventLoop,
        head_cache: HeadCache | None,
        *,
        is_unix: bool,
        **options: Any,
    ) -> None:
        super().__init__(server, loop=loop, auto_decompress=False, **options)
        self._listener = listener
        self.is_unix = is_unix
        self._socket_transport: asyncio.Transport | None = None
        """The transport until `connection_lost`. aiohttp's own reference ends when the transport starts to close."""
        self._incomplete_body: StreamReader | None = None
        """Body of the newest request, while it may be incomplete."""
        self._newest_request: RawRequestMessage | None = None
        self._pending_responses = 0
        """Requests whose head was received and whose response does not exist yet."""
        self._client_finished = False
        self._receiving_since_ms: int | None = None
        self._idle_since_ms = 0
        """Time of the last response, or of the connection. Valid only while the connection is idle."""
        self._has_received = False
        """Whether the client has sent a byte."""
        self._head_bytes = 0
        """Received bytes of an incomplete head."""
        self._stalled_since_ms: int | None = None
        self._closing_since_ms: int | None = None
        self._fast_path = FastPath(head_cache) if head_cache is not None else None
        self._on_fast_path = False
        """Whether the current request bypasses aiohttp, which is idle meanwhile."""
        self._pipelined = b""
        """Data received after that request."""

    # --- calls of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket_transport = cast("asyncio.Transport", transport)  # uvloop's transport is not a subclass.
        rejection = self._listener.admit(self)
        if rejection is not None:
            self.transport = self._socket_transport
            self._respond_and_close(rejection)
            return
        self._idle_since_ms = self._listener.now_ms()
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listener.forget(self)
        self._socket_transport = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        fast_path = self._fast_path
        if fast_path is None:
            self._begin_receiving(data)
            self._parse(data)
            return
        if self._on_fast_path:
            self._buffer_pipelined(data)
            return
        offered = fast_path.offer(data) if self._is_idle() else "parse"
        if isinstance(offered, CompleteRequest):
            self._handle_body(offered)
            return
        self._begin_receiving(data)
        if offered == "parse":
            for piece in fast_path.withdraw(data):
                self._parse(piece)

    def _begin_receiving(self, data: bytes) -> None:
        if data and self._receiving_since_ms is None:
            self._has_received = True
            self._receiving_since_ms = self._listener.now_ms()

    def _parse(self, data: bytes) -> None:
        if self._head_bytes > MAX_HEAD_BYTES:
            return
        before = self._request_count
        super().data_received(data)
        requests = self._request_count - before
        if requests:
            self._pending_responses += requests
            self._record_newest_request()
        self._head_bytes = self._head_bytes + len(data) if self._incomplete_body is None and not requests else 0
        if self._head_bytes > MAX_HEAD_BYTES:
            if not self._pending_responses:
                self._reject_head()
            return
        complete = self._incomplete_body is not None and self._incomplete_body.is_eof()
        if self._fast_path is not None:
            self._fast_path.parsed(data, self._newest_request, complete=complete)
        if complete:
            self._incomplete_body = None
            self._receiving_since_ms = None

    def _reject_head(self) -> None:
        """Respond to a head above the limit, and discard further data for a while.

        An immediate close would reset the connection, and a client that is still sending would lose the response.
        """
        if self.transport is not None:
            self.transport.write(self._listener.head_too_large().raw)
        self._closing_since_ms = self._listener.now_ms()
        self._loop.call_later(self._lingering_time, self.force_close)

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp never keeps the connection, asyncio allows it
        """Keep the connection open for the responses to complete requests of a client that has finished sending."""
        self._client_finished = True
        complete = self._pending_responses
        if self._incomplete_body is not None:
            self._incomplete_body.set_exception(ConnectionResetError(CLIENT_CLOSED))
            complete -= 1
        return complete > 0

    def pause_writing(self) -> None:
        self._stalled_since_ms = self._listener.now_ms()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stalled_since_ms = None
        super().resume_writing()

    def _record_newest_request(self) -> None:
        message, payload = self._messages[-1]
        if isinstance(message, _ErrInfo):
            # The traceback forms a cycle, which would keep the received data until a garbage collection.
            message.exc.with_traceback(None).__context__ = None
            if self._incomplete_body is not None and not self._incomplete_body.is_eof():
                # Without this, aiohttp's reader of a malformed body would wait forever.
                self._incomplete_body.set_exception(RequestPayloadError(message.message))
        self._newest_request = None if isinstance(message, _ErrInfo) else message
        self._incomplete_body = payload

    # --- the fast path

    def _is_idle(self) -> bool:
        """Return whether aiohttp is waiting for a request."""
        waiter = self._waiter
        return waiter is not None and not waiter.done() and not self._close and not self._paused

    def _handle_body(self, request: CompleteRequest) -> None:
        self._has_received = True
        self._receiving_since_ms = None
        self._pending_responses += 1
        self._on_fast_path = True
        # aiohttp's `shutdown` waits while a request is in progress.
        self._request_in_progress = True
        try:
            request.handle_body(request.body, self._reply)
        except Exception as bug:
            self._reply(bug)

    def _reply(self, outcome: Response | Exception) -> None:
        # Not `isinstance(outcome, Response)`: aiohttp's responses are an abstract base class, whose check is slow.
        response = self._listener.failed(outcome) if isinstance(outcome, Exception) else outcome
        self._on_fast_path = False
        self._request_in_progress = False
        if self.transport is not None:
            self.transport.write(response.raw)
        self.response_made()
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        if self._close or not response.keep_alive:
            self.force_close()
            return
        self._next_keepalive_close_time = loop_s(self._loop) + self._keepalive_timeout
        if self._pipelined and self.transport is not None:
            held, self._pipelined = self._pipelined, b""
            self.transport.resume_reading()
            self.data_received(held)

    def _buffer_pipelined(self, data: bytes) -> None:
        """Buffer the data after the current request, and stop reading until its response is written."""
        self._begin_receiving(data)
        if data:
            self._pipelined += data
            if self.transport is not None:
                self.transport.pause_reading()

    def _process_keepalive(self) -> None:
        if self._on_fast_path:
            self._next_keepalive_close_time = loop_s(self._loop) + self._keepalive_timeout
        super()._process_keepalive()

    # --- calls of the listener

    def response_made(self) -> None:
        """Record that a response exists. The time limit of the next request starts now, as the relay delayed it."""
        self._pending_responses -= 1
        self._idle_since_ms = self._listener.now_ms()
        if self._receiving_since_ms is not None:
            self._receiving_since_ms = self._idle_since_ms
        if self._pending_responses:
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._loop.call_soon(self._reject_head)  # After the response that is about to be written.
        if self._client_finished:
            self.close()

    @property
    def idle_since_ms(self) -> int | None:
        """Time since which no request or response is in progress; None if one is, or if the connection is closing."""
        if self._receiving_since_ms is not None or self._pending_responses or self._stalled_since_ms is not None:
            return None
        return None if self._socket_transport is None or self._socket_transport.is_closing() else self._idle_since_ms

    def expired(self, now_ms: int, limit_ms: int) -> bool:
        """Close the connection if its client is too slow; return whether a request is lost.

        A client that is slow to send gets a 408. A connection whose client does not read responses, or does not close,
        is aborted. A connection without a received byte is closed silently, as browsers open connections in advance.
        """
        if self._socket_transport is None:
            return False
        if self._socket_transport.is_closing() and self._closing_since_ms is None:
            self._closing_since_ms = now_ms
        for since_ms in (self._stalled_since_ms, self._closing_since_ms):
            if since_ms is not None and now_ms - since_ms >= limit_ms:
                self._socket_transport.abort()
                return False
        if not self._has_received and now_ms - self._idle_since_ms >= limit_ms:
            self.force_close()
            return False
        if (
            self._receiving_since_ms is None
            or now_ms - self._receiving_since_ms < limit_ms
            or not self._is_waiting_for_client()
        ):
            return False
        self._respond_and_close(_TIMEOUT)
        return True

    def stop(self) -> None:
        """Reject an incomplete request, or close an idle connection. Otherwise close after the current response."""
        if self._is_waiting_for_client():
            if self._receiving_since_ms is not None and self._closing_since_ms is None:
                self._respond_and_close(STOPPING)
            else:
                self.force_close()
        elif self._pending_responses or self._task_handler is None:
            self.close()
        else:
            # The response is sent. The task only reads and discards the rest of a rejected body.
            self._task_handler.cancel()

    def _is_waiting_for_client(self) -> bool:
        """Return whether the connection waits for data from the client."""
        if self._on_fast_path:
            return False
        if self._current_request is not None:
            return not self._current_request.content.is_eof()
        return self._waiter is not None and not self._waiter.done()

    def _respond_and_close(self, response: Response) -> None:
        if self._current_request is not None:
            response = self._listener.readable(response, self._current_request)
        if self.transport is not None:
            self.transport.write(response.raw)
        self.force_close()

    # --- errors of aiohttp

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Respond to a request that aiohttp cannot parse, and count it. It is not logged. A reset is passed on."""
        if isinstance(exc, ConnectionResetError):
            raise exc
        if isinstance(exc, LineTooLong) or (message or "").startswith("Too many headers"):
            return self._listener.head_too_large()
        return self._listener.unparsable(message or "")

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Log exceptions, except for errors of the client while aiohttp discards the rest of a rejected body."""
        if not isinstance(kwargs.get("exc_info"), _CLIENT_ERRORS):
            super().log_exception(*args, **kwargs)

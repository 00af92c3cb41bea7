"""One connection of an app: aiohttp's protocol with the deadlines and the error answers it lacks.

aiohttp (3.14) has no deadline for a head or a body. It answers unparsable requests in plain text and logs a
traceback. This class records since when its client owes bytes or reads no answer, and `expired` checks that at each
sweep.

Rules: a client owes bytes from a request's first byte until its body is complete, and not while the relay works on
it. An answer is never written into another one. Pipelined bytes are timed from their next byte on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal, Protocol, cast

from aiohttp import web
from aiohttp.http import HttpProcessingError, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError, _ErrInfo

from relay.http.head_cache import CompleteRequest, FastPath, HeadCache
from relay.http.response import RETRY_LATER, Response, error_response
from relay.runtime.clock import loop_s

BodyError = Literal["too_large", "malformed"]

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_TIMEOUT = error_response(408, "the request did not arrive within http.request_timeout", close=True)
_CLIENT_ERRORS = (OSError, RequestPayloadError, HttpProcessingError)
"""How a body ends that breaks off, or whose framing is none."""
MAX_HEAD_BYTES = 32_768
"""Browsers send the cookies of every web app of 127.0.0.1 here, too."""
HEAD_TOO_LARGE = error_response(
    431, f"the request head has more than {MAX_HEAD_BYTES} bytes; send fewer or shorter headers", close=True
)
STOPPING = error_response(503, "the relay is stopping", headers=RETRY_LATER, close=True)


class ConnectionOwner(Protocol):
    """What a connection needs of the listener that accepted it."""

    @property
    def now_ms(self) -> Callable[[], int]: ...
    def admit(self, connection: Connection) -> Response | None: ...
    def forget(self, connection: Connection) -> None: ...
    def head_too_large(self) -> Response: ...
    def unparsable(self, message: str) -> Response: ...
    def failed(self, bug: Exception) -> Response: ...
    def readable(self, response: Response, request: web.BaseRequest) -> Response: ...


class Connection(RequestHandler):
    """Reads requests of one client and answers them in order."""

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
        """The transport until it is really gone; aiohttp forgets its own when it begins to close."""
        self._incomplete_body: StreamReader | None = None
        """The body of the newest request, while it may be incomplete."""
        self._newest_request: RawRequestMessage | None = None
        self._pending_responses = 0
        """Requests whose head came and whose answer has not been made."""
        self._client_finished = False
        self._receiving_since_ms: int | None = None
        self._idle_since_ms = 0
        """When the last response was made, or the connection; of meaning only while it is idle."""
        self._has_received = False
        """Whether the client sent a byte yet."""
        self._head_bytes = 0
        """What came of a head that is not complete."""
        self._stalled_since_ms: int | None = None
        self._closing_since_ms: int | None = None
        self._fast_path = FastPath(head_cache) if head_cache is not None else None
        self._on_fast_path = False
        """Whether the request being answered took it: aiohttp knows nothing of it and idles."""
        self._pipelined = b""
        """What came behind that request."""

    # --- what the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wire = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._socket_transport = wire
        rejection = self._listener.admit(self)
        if rejection is not None:
            self.transport = wire
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
        """Respond to a head beyond the limit. What still comes is dropped for a while, as a reset takes the response
        away from a client that still sends."""
        if self.transport is not None:
            self.transport.write(self._listener.head_too_large().raw)
        self._closing_since_ms = self._listener.now_ms()
        self._loop.call_later(self._lingering_time, self.force_close)

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp never keeps the connection, asyncio allows it
        """A client that is done sending still gets the answers to what it sent whole."""
        self._client_finished = True
        whole = self._pending_responses
        if self._incomplete_body is not None:
            self._incomplete_body.set_exception(ConnectionResetError("the client left"))
            whole -= 1
        return whole > 0

    def pause_writing(self) -> None:
        self._stalled_since_ms = self._listener.now_ms()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stalled_since_ms = None
        super().resume_writing()

    def _record_newest_request(self) -> None:
        message, payload = self._messages[-1]
        if isinstance(message, _ErrInfo):
            # else it holds the frame that holds it, and what came, until the garbage collector comes
            message.exc.with_traceback(None).__context__ = None
            if self._incomplete_body is not None and not self._incomplete_body.is_eof():
                # aiohttp leaves the reader of a body that turns out malformed waiting for ever
                self._incomplete_body.set_exception(RequestPayloadError(message.message))
        self._newest_request = None if isinstance(message, _ErrInfo) else message
        self._incomplete_body = payload

    # --- the shortcut

    def _is_idle(self) -> bool:
        """Whether aiohttp has nothing to do but to wait for a request."""
        waiter = self._waiter
        return waiter is not None and not waiter.done() and not self._close and not self._paused

    def _handle_body(self, request: CompleteRequest) -> None:
        self._has_received = True
        self._receiving_since_ms = None
        self._pending_responses += 1
        self._on_fast_path = True
        # `shutdown` waits for a request in progress, and for this future when it is done
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
        """Keep what comes behind a request that is being answered: one piece, no more is read until then."""
        self._begin_receiving(data)
        if data:
            self._pipelined += data
            if self.transport is not None:
                self.transport.pause_reading()

    def _process_keepalive(self) -> None:
        if self._on_fast_path:
            self._next_keepalive_close_time = loop_s(self._loop) + self._keepalive_timeout
        super()._process_keepalive()

    # --- what the listener asks

    def response_made(self) -> None:
        """An answer is made: what already came of the next request was held up by us, so it gets its full time."""
        self._pending_responses -= 1
        self._idle_since_ms = self._listener.now_ms()
        if self._receiving_since_ms is not None:
            self._receiving_since_ms = self._idle_since_ms
        if self._pending_responses:
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._loop.call_soon(self._reject_head)  # behind the response that is about to be written
        if self._client_finished:
            self.close()

    @property
    def idle_since_ms(self) -> int | None:
        """Since when the client owes nothing and is owed nothing; None if it is not so, or the connection ends."""
        if self._receiving_since_ms is not None or self._pending_responses or self._stalled_since_ms is not None:
            return None
        return None if self._socket_transport is None or self._socket_transport.is_closing() else self._idle_since_ms

    def expired(self, now_ms: int, limit_ms: int) -> bool:
        """Close the connection if its client was too slow; True if a request is lost by that.

        Slow to send: answered with 408. Slow to take answers, or to let go: aborted. Without a byte received:
        closed silently, as browsers open connections in advance.
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
        """Refuse what has not come whole, close what is idle; what is being answered closes after the answer."""
        if self._is_waiting_for_client():
            if self._receiving_since_ms is not None and self._closing_since_ms is None:
                self._respond_and_close(STOPPING)
            else:
                self.force_close()
        elif self._pending_responses or self._task_handler is None:
            self.close()
        else:
            # answered: what still runs reads the rest of a refused body to throw it away
            self._task_handler.cancel()

    def _is_waiting_for_client(self) -> bool:
        """Whether nothing but bytes of the client can move this connection on."""
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

    # --- what aiohttp cannot make sense of

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Bytes that are no HTTP: a client's fault, answered and counted, not logged. One that left is no fault."""
        if isinstance(exc, ConnectionResetError):
            raise exc
        if isinstance(exc, LineTooLong) or (message or "").startswith("Too many headers"):
            return self._listener.head_too_large()
        return self._listener.unparsable(message or "")

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Of bugs, and of what breaks while aiohttp throws away the rest of a refused body: a client's doing."""
        if not isinstance(kwargs.get("exc_info"), _CLIENT_ERRORS):
            super().log_exception(*args, **kwargs)


async def read_body(request: web.BaseRequest, max_bytes: int) -> bytes | BodyError:
    """The whole body, as it came over the wire; asks for it where the client waits to be asked.

    Nothing beyond `max_bytes` is kept. Raises ConnectionResetError if the client left.
    """
    content = request.content
    parts: list[bytes] = []
    part = b""
    try:
        if content.is_eof():
            body = content.read_nowait()
            return body if len(body) <= max_bytes else "too_large"
        if (request.content_length or 0) > max_bytes:
            return "too_large"
        _send_continue(request)
        room = max_bytes
        while part := await content.readany():
            room -= len(part)
            if room < 0:
                return "too_large"
            parts.append(part)
        return b"".join(parts)
    except (RequestPayloadError, HttpProcessingError):
        return "malformed"
    except (OSError, RuntimeError) as error:
        # a broken connection, however the system calls it; aiohttp calls one that broke before a RuntimeError
        if isinstance(error, RuntimeError) and request.transport is not None:
            raise
        raise ConnectionResetError("the client left") from error
    finally:
        # aiohttp's error holds this frame until the garbage collector comes; it shall not hold the body, too
        parts.clear()
        part = b""


def _send_continue(request: web.BaseRequest) -> None:
    """RFC 9110, 10.1.1: only a client of HTTP/1.1 that has not begun its body waits for this."""
    expected = request.headers.get("Expect")
    if expected is not None and expected.lower() == "100-continue" and request.version == HttpVersion11:
        transport = request.transport
        if transport is not None:
            transport.write(_CONTINUE)

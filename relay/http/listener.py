"""Listen for HTTP connections, limit their number and duration, and pass admitted requests to a handler.

A `Listener` owns its listening sockets and open connections. It applies the guard to every request, on every route.
The handler maps paths to functions.

Rules:
1.  At `http.max_connections`, the connection that has been idle longest is closed for a new one. If no connection is
    idle, the new one gets a 503, is counted, and is closed at once.
2.  A connection whose client takes longer than `http.request_timeout` to send a request or to read a response is
    closed. If the client has sent no byte, it is closed silently. A timer checks all connections ten times per timeout,
    so the limit may be exceeded by 10 %.
3.  No request causes a 500 or a log line, except for bugs: an exception in a handler causes a 503, and is logged with
    a traceback without local variables, at most once in ten seconds.
4.  `stop` lets complete requests finish within a time limit and closes all other connections at once.
5.  A head of more than 32 KiB gets a 431.
6.  On the unix socket any Host is accepted, because browsers cannot connect to it. `check` recreates a removed socket
    file.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from aiohttp.hdrs import UPGRADE
from aiohttp.http import HttpProcessingError, HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.web_protocol import RequestPayloadError
from aiohttp.web_server import Server

from relay.config import Http
from relay.http import unix_socket
from relay.http.body import CLIENT_CLOSED
from relay.http.connection import HEAD_TOO_LARGE, MAX_HEAD_BYTES, STOPPING, Connection
from relay.http.guard import Admitted, Forbidden, HostGuard
from relay.http.head_cache import BodyHandler, FindBodyHandler, HeadCache
from relay.http.response import RETRY_LATER, Response, error_response
from relay.runtime.address import ListenError, format_address
from relay.runtime.clock import Clock
from relay.runtime.listening import open_sockets
from relay.runtime.log import Gate
from relay.runtime.metrics import Metrics

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

KEEPALIVE_S = 75
"""Time until an idle connection is closed; longer than in common proxies."""
_LINGERING_S = 2
"""Time for which the rest of a rejected body is read and discarded, so that the client receives the response."""
_CONNECTION_OPTIONS: dict[str, Any] = {
    "keepalive_timeout": KEEPALIVE_S,
    "lingering_time": _LINGERING_S,
    "access_log": None,
    # The limit for the whole head applies below. aiohttp's limits for its parts must not be smaller.
    "max_line_size": MAX_HEAD_BYTES,
    "max_field_size": MAX_HEAD_BYTES,
    "max_headers": MAX_HEAD_BYTES,
}
_BACKLOG = 512
_BUG_LOG_INTERVAL_MS = 10_000
_SOCKET_LOG_INTERVAL_MS = 60_000

_READABLE = (
    ("Access-Control-Allow-Credentials", "true"),
    ("Access-Control-Expose-Headers", "Relay-Event-Ids, Relay-Durability, Retry-After"),
    ("Vary", "Origin"),
)
"""CORS headers of a response to a page of an allowed origin, in addition to the origin.

Without Allow-Credentials a browser hides the response to a request with credentials, such as any `sendBeacon`.
"""

_log = structlog.get_logger(__name__)

_TOO_MANY = error_response(503, "too many connections; see http.max_connections", headers=RETRY_LATER, close=True)
_BUG = error_response(503, "the relay failed on this request", headers=RETRY_LATER)


class Listener:
    """Serves TCP addresses and a unix socket. Either may be disabled (empty)."""

    def __init__(
        self,
        handler: Handler,
        settings: Http,
        guard: HostGuard,
        metrics: Metrics,
        clock: Clock,
        fast_path: FindBodyHandler | None = None,
    ) -> None:
        """`fast_path` returns the body handler of admitted plain requests (see relay.http.head_cache)."""
        self._handler = handler
        self._fast_path = fast_path
        self._settings = settings
        self._guard = guard
        self._metrics = metrics
        self._received = metrics.events_received.labels("http")
        self._rejected = {
            reason: metrics.events_rejected.labels("http", reason) for reason in ("malformed", "forbidden", "timeout")
        }
        self.now_ms = clock.monotonic_ms
        self._bug_gate = Gate(metrics.log_lines_suppressed, per_ms=_BUG_LOG_INTERVAL_MS)
        self._socket_gate = Gate(metrics.log_lines_suppressed, per_ms=_SOCKET_LOG_INTERVAL_MS)
        self._open = False
        self._connections: dict[Connection, None] = {}
        """Open connections, oldest first."""
        self._servers: list[asyncio.AbstractServer] = []
        self._unix_factory: Callable[[], Connection] | None = None
        self._unix_server: asyncio.AbstractServer | None = None
        self._unix_inode: int | None = None
        self._web: Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def addresses(self) -> list[str]:
        """The bound addresses with their ports."""
        return [format_address(each.getsockname()) for server in self._servers for each in _sockets(server)]

    async def start(self) -> None:
        """Listen. Raises ListenError, with all sockets closed."""
        loop = asyncio.get_running_loop()
        web_server = Server(self._serve)
        self._web = web_server
        self._open = True

        tcp = self._connections_of(web_server, is_unix=False)
        self._unix_factory = self._connections_of(web_server, is_unix=True)
        try:
            if self._settings.listen:
                for opened in await open_sockets(
                    self._settings.listen, Http().listen, socket.SOCK_STREAM, "http.listen"
                ):
                    self._servers.append(await loop.create_server(tcp, sock=opened, backlog=_BACKLOG))
            if self._settings.unix_socket:
                await self._listen_unix()
        except ListenError:
            await self.stop(0)
            raise
        self._metrics.max_connections.set(self._settings.max_connections)
        self._schedule_sweep()

    async def stop(self, within_ms: int) -> None:
        """Stop listening, let complete requests finish within `within_ms`, and close all other connections."""
        self._open = False
        for server in self._servers:
            server.close()
        self._servers.clear()
        self._unix_server = None
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._remove_unix_socket()
        for connection in list(self._connections):
            connection.stop()
        if self._web is not None:
            # aiohttp applies the timeout twice, to the handler and to the connection. 0 would mean no timeout.
            await self._web.shutdown(max(within_ms, 1) / 2000)

    async def check(self) -> None:
        """Create the unix socket's file again if it was removed, because apps could not connect."""
        path = Path(self._settings.unix_socket)
        if not self._open or self._unix_server is None or unix_socket.exists(path):
            return
        removed = self._unix_server
        try:
            await self._listen_unix()
        except ListenError as error:
            if self._socket_gate.admit("socket", self.now_ms()) is not None:
                _log.warning("the unix socket's file was removed and cannot be recreated", error=str(error))
            return
        self._servers.remove(removed)
        removed.close()
        _log.warning("recreated the unix socket's file, which was removed", path=str(path))

    def sweep(self, now_ms: int) -> None:
        """Close the connections of clients that are too slow."""
        for connection in list(self._connections):
            if connection.expired(now_ms, self._settings.request_timeout_ms):
                self._received.inc()
                self._rejected["timeout"].inc()

    # --- calls of connections

    def admit(self, connection: Connection) -> Response | None:
        """Register a new connection; return a response to reject it. A connection may arrive after `stop`."""
        if not self._open:
            return STOPPING
        if len(self._connections) >= self._settings.max_connections and not self._make_room():
            self._metrics.connections_rejected.inc()
            return _TOO_MANY
        self._connections[connection] = None
        self._metrics.connections.inc()
        return None

    def forget(self, connection: Connection) -> None:
        if connection in self._connections:
            del self._connections[connection]
            self._metrics.connections.dec()

    def head_too_large(self) -> Response:
        """Count a head above the limit, and return the response to it."""
        self._count_malformed()
        return HEAD_TOO_LARGE

    def unparsable(self, message: str) -> Response:
        """Count a malformed request, and return the response to it. `message` is the parser's error message."""
        self._count_malformed()
        return error_response(400, f"not an HTTP/1.1 request: {message.partition(':')[0][:100]}", close=True)

    def failed(self, bug: Exception) -> Response:
        """Log an exception in a handler, and return the response to the request."""
        if self._bug_gate.admit("bug", self.now_ms()) is not None:
            _log.error("a request handler failed", exc_info=bug)
        return _BUG

    def readable(self, response: Response, request: web.BaseRequest) -> Response:
        """Return a response that no handler created, with the CORS headers for the request's origin."""
        path, authority = _target(request)
        return _readable(response, self._admission(path, authority, request.headers, is_unix=_is_unix(request)))

    def _count_malformed(self) -> None:
        self._received.inc()
        self._rejected["malformed"].inc()

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest; return False if no connection is idle."""
        idle = [
            (since_ms, place, each)
            for place, each in enumerate(self._connections)
            if (since_ms := each.idle_since_ms) is not None
        ]
        if not idle:
            return False
        min(idle)[2].force_close()
        return True

    # --- one request

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        try:
            response = await self._answer(request)
        finally:
            connection.response_made()
        if isinstance(response, Response) and (
            not request.keep_alive or request.version == HttpVersion10 or UPGRADE in request.headers
        ):
            # After a declined upgrade aiohttp parses further data in a way that `Connection` cannot track.
            return response.closing
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        version = request.version
        if version not in (HttpVersion11, HttpVersion10):
            return self.unparsable("wrong version")
        if _head_bytes(request) > MAX_HEAD_BYTES:
            return self.head_too_large()
        path, authority = _target(request)
        decision = self._admission(path, authority, request.headers, is_unix=_is_unix(request))
        if isinstance(decision, Forbidden):
            if request.method == "POST":
                self._received.inc()
                self._rejected["forbidden"].inc()
            return error_response(403, decision.error)
        try:
            response = await self._handler(request)
        except (web.HTTPException, ConnectionResetError):
            raise
        except (RequestPayloadError, HttpProcessingError) as error:
            response = self.unparsable(str(error))
        except Exception as error:
            if isinstance(error, OSError | RuntimeError) and request.transport is None:
                raise ConnectionResetError(CLIENT_CLOSED) from error
            response = self.failed(error)
        return _readable(response, decision) if isinstance(response, Response) else response

    def _admission(
        self, path: str, authority: str | None, headers: Mapping[str, str], *, is_unix: bool
    ) -> Admitted | Forbidden:
        host, origin, site = headers.get("Host"), headers.get("Origin"), headers.get("Sec-Fetch-Site")
        if is_unix:
            return self._guard.check(path, None, origin, site)
        return self._guard.check(path, host, origin, site, authority)

    def _find_body_handler(self, is_unix: bool, message: RawRequestMessage) -> BodyHandler | None:
        """Return the body handler for requests with this head; None if they need the normal path."""
        if message.path[:1] != "/" or message.version != HttpVersion11 or message.should_close:
            return None
        if self._fast_path is None or UPGRADE in message.headers:
            return None
        decision = self._admission(message.path, None, message.headers, is_unix=is_unix)
        return None if isinstance(decision, Forbidden) or decision.cors_origin else self._fast_path(message)

    def _schedule_sweep(self) -> None:
        period_s = self._settings.request_timeout_ms / 10_000
        self._sweeper = asyncio.get_running_loop().call_later(period_s, self._sweep_again)

    def _sweep_again(self) -> None:
        self._schedule_sweep()
        self.sweep(self.now_ms())

    def _connections_of(self, web_server: Server, *, is_unix: bool) -> Callable[[], Connection]:
        """Return the factory for connections of the TCP sockets, or of the unix socket."""
        loop = asyncio.get_running_loop()
        head_cache = HeadCache(partial(self._find_body_handler, is_unix)) if self._fast_path else None
        return lambda: Connection(web_server, self, loop, head_cache, is_unix=is_unix, **_CONNECTION_OPTIONS)

    async def _listen_unix(self) -> None:
        """Create the unix socket and listen on it. Raises ListenError."""
        assert self._unix_factory is not None
        path = Path(self._settings.unix_socket)
        listening = unix_socket.bind_unix(path)
        self._unix_inode = unix_socket.inode(path)
        loop = asyncio.get_running_loop()
        self._unix_server = await loop.create_unix_server(self._unix_factory, sock=listening, backlog=_BACKLOG)
        self._servers.append(self._unix_server)

    def _remove_unix_socket(self) -> None:
        if self._settings.unix_socket:
            unix_socket.remove(Path(self._settings.unix_socket), self._unix_inode)
        self._unix_inode = None


def _target(request: web.BaseRequest) -> tuple[str, str | None]:
    """Return path and authority of a request's target. The authority is None unless the target is absolute."""
    path = request.raw_path
    if path[:1] == "/":
        return path, None
    return request.rel_url.raw_path, request.url.raw_authority if request.url.absolute else None


def _is_unix(request: web.BaseRequest) -> bool:
    connection = request.protocol
    assert isinstance(connection, Connection)
    return connection.is_unix


def _head_bytes(request: web.BaseRequest) -> int:
    """Return the approximate size of a request's head as received."""
    fields = sum(len(name) + len(value) + len(": \r\n") for name, value in request.raw_headers)
    return fields + len(request.method) + len(request.raw_path) + len("  HTTP/1.1\r\n\r\n")


def _readable(response: Response, decision: Admitted | Forbidden) -> Response:
    """Return the response with the CORS headers that the decision allows."""
    if isinstance(decision, Forbidden) or not decision.cors_origin:
        return response
    return response.with_headers((("Access-Control-Allow-Origin", decision.cors_origin), *_READABLE))


def _sockets(server: asyncio.AbstractServer) -> tuple[socket.socket, ...]:
    """Return the sockets of a server. typeshed's AbstractServer lacks them; both event loops provide them."""
    sockets: tuple[socket.socket, ...] = tuple(server.sockets)  # type: ignore[attr-defined]
    return sockets

"""The sockets of the relay's HTTP side: who gets in, how many, for how long, and what they get at worst.

A Listener owns its listening sockets and open connections, and hands each request that the guard
admits to one handler. Every route of every listener is guarded here. It knows no route.

Rules:
1.  At `http.max_connections` the longest idle connection makes room for a new one. If none is idle, the
    new one receives a 503, is counted, and is closed at once.
2.  A client that is slower than `http.request_timeout`, sending or taking its answer, is closed; a client
    that sends no byte within that time is closed silently. One timer sweeps all connections ten times per
    timeout, so it takes at most a tenth longer.
3.  Nothing a client sends is answered with a 500 or logged. A bug in a handler is answered 503 and
    logged with a plain traceback (no local variables), at most once in ten seconds.
4.  `stop` lets requests that came whole finish within a bound and ends everything else at once.
5.  A head has at most 32 KiB; a larger one is answered 431.
6.  Over the unix socket any Host is accepted: browsers cannot reach it. `check` creates its file again.
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
"""How long an idle connection is kept; longer than common proxies keep theirs."""
_LINGERING_S = 2
"""How long the rest of a refused body is read and thrown away, so that the client sees the answer."""
_CONNECTION_OPTIONS: dict[str, Any] = {
    "keepalive_timeout": KEEPALIVE_S,
    "lingering_time": _LINGERING_S,
    "access_log": None,
    # The whole head is bounded below; aiohttp's bounds of its parts must not be the smaller ones.
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
"""What a response to a page of an allowed origin has besides the origin. Without the first one a browser hides the
response to a request with credentials, which `sendBeacon` always is."""

_log = structlog.get_logger(__name__)

_TOO_MANY = error_response(503, "too many connections; see http.max_connections", headers=RETRY_LATER, close=True)
_BUG = error_response(503, "the relay failed on this request", headers=RETRY_LATER)


class Listener:
    """Serves one TCP address and one unix socket, either of which may be off (empty)."""

    def __init__(
        self,
        handler: Handler,
        settings: Http,
        guard: HostGuard,
        metrics: Metrics,
        clock: Clock,
        fast_path: FindBodyHandler | None = None,
    ) -> None:
        """`shortcut` says of admitted requests which ones differ in their bodies only (see relay.http.head_cache)."""
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
        """In the order in which they came."""
        self._servers: list[asyncio.AbstractServer] = []
        self._unix_factory: Callable[[], Connection] | None = None
        self._unix_server: asyncio.AbstractServer | None = None
        self._unix_inode: int | None = None
        self._web: Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def addresses(self) -> list[str]:
        """What is listened on, ports as bound."""
        return [format_address(each.getsockname()) for server in self._servers for each in _sockets(server)]

    async def start(self) -> None:
        """Listen. Raises ListenError, having closed what it opened."""
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
        """Accept nothing more, let requests that came whole be answered within the bound, end the rest at once."""
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
            # aiohttp waits once for the handler and once for the connection; 0 would mean for ever
            await self._web.shutdown(max(within_ms, 1) / 2000)

    async def check(self) -> None:
        """Create the unix socket's file again if it was removed: apps that connect would find nothing."""
        path = Path(self._settings.unix_socket)
        if not self._open or self._unix_server is None or unix_socket.exists(path):
            return
        removed = self._unix_server
        try:
            await self._listen_unix()
        except ListenError as error:
            if self._socket_gate.admit("socket", self.now_ms()) is not None:
                _log.warning("the unix socket was removed and cannot be created again", error=str(error))
            return
        self._servers.remove(removed)
        removed.close()
        _log.warning("the unix socket was removed; created again", path=str(path))

    def sweep(self, now_ms: int) -> None:
        """End the connections of clients that are too slow."""
        for connection in list(self._connections):
            if connection.expired(now_ms, self._settings.request_timeout_ms):
                self._received.inc()
                self._rejected["timeout"].inc()

    # --- what connections ask

    def admit(self, connection: Connection) -> Response | None:
        """Count a connection in, or say why not: the system may hand one over that came before `stop`."""
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
        """Count a head beyond the limit, and return the response to it."""
        self._count_malformed()
        return HEAD_TOO_LARGE

    def unparsable(self, message: str) -> Response:
        """The answer to bytes that are no HTTP request; `message` is the parser's."""
        self._count_malformed()
        return error_response(400, f"not a request of HTTP/1.1: {message.partition(':')[0][:100]}", close=True)

    def failed(self, bug: Exception) -> Response:
        """The answer to a request on which a handler failed."""
        if self._bug_gate.admit("bug", self.now_ms()) is not None:
            _log.error("a request handler failed", exc_info=bug)
        return _BUG

    def readable(self, response: Response, request: web.BaseRequest) -> Response:
        """An answer made in the handler's stead, so that the page that asked may read it."""
        path, authority = _target(request)
        return _readable(response, self._admission(path, authority, request.headers, is_unix=_is_unix(request)))

    def _count_malformed(self) -> None:
        self._received.inc()
        self._rejected["malformed"].inc()

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest; False if none is idle."""
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
            # aiohttp parses what comes behind an upgrade that was declined past all accounts of the connection
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
                raise ConnectionResetError("the client left") from error
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
        """What takes the bodies of requests with this head, if it is admitted and nothing else matters."""
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
        """Return what makes the connections of the TCP sockets, or of the unix socket."""
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
    """Path and authority of a request's target; without an authority (None) it is a path."""
    path = request.raw_path
    if path[:1] == "/":
        return path, None
    return request.rel_url.raw_path, request.url.raw_authority if request.url.absolute else None


def _is_unix(request: web.BaseRequest) -> bool:
    connection = request.protocol
    assert isinstance(connection, Connection)
    return connection.is_unix


def _head_bytes(request: web.BaseRequest) -> int:
    """Return the size of a request's head, as good as on the wire."""
    fields = sum(len(name) + len(value) + len(": \r\n") for name, value in request.raw_headers)
    return fields + len(request.method) + len(request.raw_path) + len("  HTTP/1.1\r\n\r\n")


def _readable(response: Response, decision: Admitted | Forbidden) -> Response:
    """With the CORS headers that the decision allows."""
    if isinstance(decision, Forbidden) or not decision.cors_origin:
        return response
    return response.with_headers((("Access-Control-Allow-Origin", decision.cors_origin), *_READABLE))


def _sockets(server: asyncio.AbstractServer) -> tuple[socket.socket, ...]:
    """typeshed's AbstractServer lacks them; both event loops' servers have them."""
    sockets: tuple[socket.socket, ...] = tuple(server.sockets)  # type: ignore[attr-defined]
    return sockets

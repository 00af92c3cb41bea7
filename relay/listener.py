"""The sockets of the relay's HTTP side: who gets in, how many, for how long, and what they get at worst.

A Listener owns its listening sockets and open connections, and hands each request that the guard
admits to one handler. Every route of every listener is guarded here. It knows no route.

Rules:
1.  A connection beyond `http.max_connections` is answered 503 and closed at once.
2.  A client that is slower than `http.request_timeout`, sending or taking its answer, is closed. One
    timer sweeps all connections ten times per timeout, so it takes at most a tenth longer.
3.  Nothing a client sends is answered with a 500 or logged. A bug in a handler is answered 503 and
    logged with a plain traceback (no local variables), at most once in ten seconds.
4.  `stop` lets requests that came whole finish within a bound and ends everything else at once.

The unix socket has mode 0660: apps reach it as the relay's user or group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from aiohttp.hdrs import UPGRADE
from aiohttp.http import HttpProcessingError, HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.web_protocol import RequestPayloadError
from aiohttp.web_server import Server

from relay.address import ListenError, format_address, listen_error
from relay.answer import RETRY_LATER, Answer, error_answer
from relay.clock import Clock
from relay.config import Http
from relay.connection import STOPPING, Connection
from relay.ingest.guard import Admitted, Forbidden, Guard
from relay.listening import open_sockets
from relay.log import Gate
from relay.metrics import Metrics
from relay.shortcut import Heads, Judge, Take

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

KEEPALIVE_S = 75
"""How long an idle connection is kept; longer than common proxies keep theirs."""
_LINGERING_S = 2
"""How long the rest of a refused body is read and thrown away, so that the client sees the answer."""
_CONNECTION_OPTIONS: dict[str, Any] = {
    "keepalive_timeout": KEEPALIVE_S,
    "lingering_time": _LINGERING_S,
    "access_log": None,
}
_BACKLOG = 512
_SOCKET_MODE = 0o660
_BUG_LOG_INTERVAL_MS = 10_000

_READABLE = (("Access-Control-Expose-Headers", "Relay-Durability, Retry-After"),)
"""What a page of an allowed origin may read besides status and body."""

_log = structlog.get_logger(__name__)

_TOO_MANY = error_answer(503, "too many connections; see http.max_connections", headers=RETRY_LATER, close=True)
_BUG = error_answer(503, "the relay failed on this request", headers=RETRY_LATER)


class Listener:
    """Serves one TCP address and one unix socket, either of which may be off (empty)."""

    def __init__(
        self,
        handler: Handler,
        settings: Http,
        guard: Guard,
        metrics: Metrics,
        clock: Clock,
        shortcut: Judge | None = None,
    ) -> None:
        """`shortcut` says of admitted requests which ones differ in their bodies only (see relay.shortcut)."""
        self._handler = handler
        self._shortcut = shortcut
        self._settings = settings
        self._guard = guard
        self._metrics = metrics
        self._received = metrics.events_received.labels("http")
        self._rejected = {
            reason: metrics.events_rejected.labels("http", reason) for reason in ("malformed", "forbidden", "timeout")
        }
        self.now_ms = clock.monotonic_ms
        self._bug_gate = Gate(metrics.log_lines_suppressed, per_ms=_BUG_LOG_INTERVAL_MS)
        self._open = False
        self._connections: set[Connection] = set()
        self._servers: list[asyncio.AbstractServer] = []
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

        heads = Heads(self._judge) if self._shortcut else None

        def connection() -> Connection:
            return Connection(web_server, self, loop, heads, **_CONNECTION_OPTIONS)

        try:
            if self._settings.listen:
                for opened in await open_sockets(
                    self._settings.listen, Http().listen, socket.SOCK_STREAM, "http.listen"
                ):
                    self._servers.append(await loop.create_server(connection, sock=opened, backlog=_BACKLOG))
            if self._settings.unix_socket:
                listening = _bind_unix(Path(self._settings.unix_socket))
                self._unix_inode = os.stat(self._settings.unix_socket).st_ino
                self._servers.append(await loop.create_unix_server(connection, sock=listening, backlog=_BACKLOG))
        except ListenError:
            await self.stop(0)
            raise
        self._metrics.http_max_connections.set(self._settings.max_connections)
        self._schedule_sweep()

    async def stop(self, within_ms: int) -> None:
        """Accept nothing more, let requests that came whole be answered within the bound, end the rest at once."""
        self._open = False
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._remove_unix_socket()
        for connection in list(self._connections):
            connection.stop()
        if self._web is not None:
            # aiohttp waits once for the handler and once for the connection; 0 would mean for ever
            await self._web.shutdown(max(within_ms, 1) / 2000)

    def sweep(self, now_ms: int) -> None:
        """End the connections of clients that are too slow."""
        for connection in list(self._connections):
            if connection.expired(now_ms, self._settings.request_timeout_ms):
                self._received.inc()
                self._rejected["timeout"].inc()

    # --- what connections ask

    def admit(self, connection: Connection) -> Answer | None:
        """Count a connection in, or say why not: the system may hand one over that came before `stop`."""
        if not self._open:
            return STOPPING
        if len(self._connections) >= self._settings.max_connections:
            self._metrics.http_connections_refused.inc()
            return _TOO_MANY
        self._connections.add(connection)
        self._metrics.http_connections.inc()
        return None

    def forget(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._metrics.http_connections.dec()

    def unparsable(self, message: str) -> Answer:
        """The answer to bytes that are no HTTP request; `message` is the parser's."""
        self._received.inc()
        self._rejected["malformed"].inc()
        return error_answer(400, f"not a request of HTTP/1.1: {message.partition(':')[0][:100]}", close=True)

    def failed(self, bug: Exception) -> Answer:
        """The answer to a request on which a handler failed."""
        if self._bug_gate.admit("bug", self.now_ms()) is not None:
            _log.error("a request handler failed", exc_info=bug)
        return _BUG

    def readable(self, answer: Answer, request: web.BaseRequest) -> Answer:
        """An answer made in the handler's stead, so that the page that asked may read it."""
        path, authority = _target(request)
        return _readable(answer, self._admission(path, authority, request.headers))

    # --- one request

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        try:
            answer = await self._answer(request)
        finally:
            connection.answered()
        if isinstance(answer, Answer) and (
            not request.keep_alive or request.version == HttpVersion10 or UPGRADE in request.headers
        ):
            # aiohttp parses what comes behind an upgrade that was declined past all accounts of the connection
            return answer.closing
        return answer

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        version = request.version
        if version not in (HttpVersion11, HttpVersion10):
            return self.unparsable("wrong version")
        path, authority = _target(request)
        decision = self._admission(path, authority, request.headers)
        if isinstance(decision, Forbidden):
            if request.method == "POST":
                self._received.inc()
                self._rejected["forbidden"].inc()
            return error_answer(403, decision.error)
        try:
            answer = await self._handler(request)
        except (web.HTTPException, ConnectionResetError):
            raise
        except (RequestPayloadError, HttpProcessingError) as error:
            answer = self.unparsable(str(error))
        except Exception as error:
            if isinstance(error, OSError | RuntimeError) and request.transport is None:
                raise ConnectionResetError("the client left") from error
            answer = self.failed(error)
        return _readable(answer, decision) if isinstance(answer, Answer) else answer

    def _admission(self, path: str, authority: str | None, headers: Mapping[str, str]) -> Admitted | Forbidden:
        return self._guard.check(
            path, headers.get("Host"), headers.get("Origin"), headers.get("Sec-Fetch-Site"), authority
        )

    def _judge(self, message: RawRequestMessage) -> Take | None:
        """What takes the bodies of requests with this head, if it is admitted and nothing else matters."""
        if message.path[:1] != "/" or message.version != HttpVersion11 or message.should_close:
            return None
        if self._shortcut is None or UPGRADE in message.headers:
            return None
        decision = self._admission(message.path, None, message.headers)
        return None if isinstance(decision, Forbidden) or decision.cors_origin else self._shortcut(message)

    def _schedule_sweep(self) -> None:
        period_s = self._settings.request_timeout_ms / 10_000
        self._sweeper = asyncio.get_running_loop().call_later(period_s, self._sweep_again)

    def _sweep_again(self) -> None:
        self._schedule_sweep()
        self.sweep(self.now_ms())

    def _remove_unix_socket(self) -> None:
        """Only our own: another relay may have replaced it."""
        if self._unix_inode is None:
            return
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._settings.unix_socket).st_ino == self._unix_inode:
                os.unlink(self._settings.unix_socket)
        self._unix_inode = None


def _target(request: web.BaseRequest) -> tuple[str, str | None]:
    """Path and authority of a request's target; without an authority (None) it is a path."""
    path = request.raw_path
    if path[:1] == "/":
        return path, None
    return request.rel_url.raw_path, request.url.raw_authority if request.url.absolute else None


def _readable(answer: Answer, decision: Admitted | Forbidden) -> Answer:
    """With the CORS headers that the decision allows."""
    if isinstance(decision, Forbidden) or not decision.cors_origin:
        return answer
    return answer.with_headers((("Access-Control-Allow-Origin", decision.cors_origin), *_READABLE, ("Vary", "Origin")))


def _sockets(server: asyncio.AbstractServer) -> tuple[socket.socket, ...]:
    """typeshed's AbstractServer lacks them; both event loops' servers have them."""
    sockets: tuple[socket.socket, ...] = tuple(server.sockets)  # type: ignore[attr-defined]
    return sockets


def _bind_unix(path: Path) -> socket.socket:
    """Bound but not yet listening, so that nobody connects before the mode is set.

    A socket that nobody listens on any more is replaced; one that answers, or any other file, is not.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_stale_socket(path):
            path.unlink()
        listening.bind(str(path))
        path.chmod(_SOCKET_MODE)
    except OSError as error:
        listening.close()
        raise listen_error(str(path), error, "http.unix_socket") from error
    return listening


def _is_stale_socket(path: Path) -> bool:
    try:
        if not stat.S_ISSOCK(path.stat(follow_symlinks=False).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except BlockingIOError:  # its backlog is full: somebody is there
            return False
    return False

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
4.  `stop` lets complete requests finish within a time limit and closes all other connections at once. The clients of
    passed sockets get no error: new connections wait in the kernel for the next relay, requests on open connections
    are answered with "Connection: close", and an idle connection closes after `_IDLE_AT_STOP_MS`, so that a client that
    uses its connection all the time does not lose a request.
5.  A head of more than 32 KiB gets a 431.
6.  On the unix socket any Host is accepted, because browsers cannot connect to it. `check` recreates a removed socket
    file.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from aiohttp.http import RawRequestMessage

from relay.config import Http
from relay.http import unix_socket
from relay.http.connection import STOPPING, Connection
from relay.http.guard import Forbidden, HostGuard
from relay.http.heads import Heads
from relay.http.request import BodyHandler, Handler, Request
from relay.http.response import RETRY_LATER, Response, error_response
from relay.runtime.address import ListenError, format_address
from relay.runtime.clock import Clock
from relay.runtime.listening import open_sockets
from relay.runtime.log import Gate
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks

_BACKLOG = 512
_PASSED_BACKLOG = 4_096
"""Number of connections of a passed socket that wait during a restart; net.core.somaxconn limits it."""
_IDLE_AT_STOP_MS = 250
_ABORT_MS = 1_000
"""Time limit for the closing of aborted connections, which takes one turn of the event loop."""
_MAX_SWEEP_PERIOD_S = 1.0
_BUG_LOG_INTERVAL_MS = 10_000
_SOCKET_LOG_INTERVAL_MS = 60_000

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
        passed: Sequence[socket.socket] = (),
        passed_unix: Sequence[socket.socket] = (),
    ) -> None:
        """Listening sockets in `passed` replace the addresses of `settings`, those in `passed_unix` the unix socket."""
        self._handler = handler
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
        self._passed = (passed, passed_unix)
        self._heads: tuple[Heads, Heads] | None = None
        """Heads of requests of the TCP sockets, and of the unix sockets."""
        self._unix_server: asyncio.AbstractServer | None = None
        self._unix_inode: int | None = None
        self._tasks: Tasks | None = None
        """The handlers that run as coroutines."""
        self._all_closed = asyncio.Event()
        """Set when the last connection closes."""
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def addresses(self) -> list[str]:
        """The bound addresses with their ports."""
        return [format_address(each.getsockname()) for server in self._servers for each in _sockets(server)]

    async def start(self) -> None:
        """Listen. Raises ListenError, with all sockets closed."""
        loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._open = True
        tcp, unix = self._heads = (self._heads_of(is_unix=False), self._heads_of(is_unix=True))
        passed, passed_unix = self._passed
        try:
            for heads, sockets in ((tcp, passed), (unix, passed_unix)):
                for each in sockets:
                    # This method, unlike create_unix_server, removes no file when the server closes.
                    server = await loop.create_server(self._factory(heads), sock=each, backlog=_PASSED_BACKLOG)
                    self._servers.append(server)
            if self._settings.listen and not passed:
                for opened in await open_sockets(
                    self._settings.listen, Http().listen, socket.SOCK_STREAM, "http.listen"
                ):
                    self._servers.append(await loop.create_server(self._factory(tcp), sock=opened, backlog=_BACKLOG))
            if self._settings.unix_socket and not passed_unix:
                await self._listen_unix()
        except ListenError:
            await self.stop(0)
            raise
        self._metrics.max_connections.set(self._settings.max_connections)
        self._schedule_sweep()

    async def stop(self, within_ms: int) -> None:
        """Stop listening, let complete requests finish within `within_ms`, and close all other connections."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        self._unix_server = None
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._remove_unix_socket()
        if any(self._passed):
            within_ms //= 2
            await self._answer_open_connections(within_ms)
        self._open = False
        for connection in list(self._connections):
            connection.stop()
        if not await self._closed_within(within_ms):
            if self._tasks is not None:
                await self._tasks.cancel_all()
            for connection in list(self._connections):
                connection.abort()
            await self._closed_within(_ABORT_MS)

    async def _answer_open_connections(self, within_ms: int) -> None:
        """Answer the requests that arrive on open connections, and close each connection after its next response."""
        for heads in self._heads or ():
            heads.close_connections()
        for connection in self._connections:
            connection.finish()
        if not await self._closed_within(min(_IDLE_AT_STOP_MS, within_ms)):
            for connection in list(self._connections):
                if connection.idle_since_ms is not None:
                    connection.close()
            await self._closed_within(within_ms)

    async def _closed_within(self, ms: int) -> bool:
        """Return whether all connections close within this time."""
        while self._connections:
            self._all_closed.clear()
            try:
                async with asyncio.timeout(ms / 1000):
                    await self._all_closed.wait()
            except TimeoutError:
                return False
        return True

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
            if connection.expire(now_ms, self._settings.request_timeout_ms):
                self._count_rejected("timeout", "the request was not complete within http.request_timeout")

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
            if not self._connections:
                self._all_closed.set()

    def failed(self, bug: Exception) -> Response:
        """Log an exception in a handler, and return the response to the request."""
        if self._bug_gate.admit("bug", self.now_ms()) is not None:
            _log.error("a request handler failed", exc_info=bug)
        return _BUG

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a handler's coroutine, which must not raise."""
        assert self._tasks is not None
        self._tasks.start("the handler of a request", work)

    def _count_malformed(self) -> None:
        self._count_rejected("malformed", "not an HTTP/1.1 request")

    def _count_rejected(self, reason: str, message: str) -> None:
        self._received.inc()
        self._rejected[reason].inc()
        self._metrics.feed.changed("rejected", [b""], reason, message)

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest; return False if no connection is idle."""
        idle = [
            (since_ms, place, each)
            for place, each in enumerate(self._connections)
            if (since_ms := each.idle_since_ms) is not None
        ]
        if not idle:
            return False
        min(idle)[2].close()
        return True

    # --- one request

    def _decide(self, is_unix: bool, message: RawRequestMessage, peer: object) -> tuple[BodyHandler | Response, str]:
        """Return the handler of requests with this head, or the response to them, and the origin for CORS headers."""
        headers, url = message.headers, message.url
        host = None if is_unix else headers.get("Host")
        authority = url.raw_authority if url.absolute and not is_unix else None
        admitted = self._guard.check(
            url.raw_path, host, headers.get("Origin"), headers.get("Sec-Fetch-Site"), authority
        )
        if isinstance(admitted, Forbidden):
            if message.method == "POST":
                self._count_rejected("forbidden", admitted.error)
            return error_response(403, admitted.error), ""
        try:
            handler = self._handler(Request(message.method, url, headers, peer))
        except Exception as bug:
            handler = self.failed(bug)
        return handler, admitted.cors_origin

    def _schedule_sweep(self) -> None:
        period_s = min(self._settings.request_timeout_ms / 10_000, _MAX_SWEEP_PERIOD_S)
        self._sweeper = asyncio.get_running_loop().call_later(period_s, self._sweep_again)

    def _sweep_again(self) -> None:
        self._schedule_sweep()
        self.sweep(self.now_ms())

    def _heads_of(self, *, is_unix: bool) -> Heads:
        return Heads(partial(self._decide, is_unix), self._count_malformed, asyncio.get_running_loop())

    def _factory(self, heads: Heads) -> Callable[[], Connection]:
        return lambda: Connection(self, heads)

    async def _listen_unix(self) -> None:
        """Create the unix socket and listen on it. Raises ListenError."""
        assert self._heads is not None
        path = Path(self._settings.unix_socket)
        listening = unix_socket.bind_unix(path)
        self._unix_inode = unix_socket.inode(path)
        loop = asyncio.get_running_loop()
        connected = self._factory(self._heads[1])
        self._unix_server = await loop.create_unix_server(connected, sock=listening, backlog=_BACKLOG)
        self._servers.append(self._unix_server)

    def _remove_unix_socket(self) -> None:
        if self._settings.unix_socket:
            unix_socket.remove(Path(self._settings.unix_socket), self._unix_inode)
        self._unix_inode = None


def _sockets(server: asyncio.AbstractServer) -> tuple[socket.socket, ...]:
    """Return the sockets of a server. typeshed's AbstractServer lacks them; both event loops provide them."""
    sockets: tuple[socket.socket, ...] = tuple(server.sockets)  # type: ignore[attr-defined]
    return sockets

"""The sandbox: a stand-in for the upstream events API that can inject faults.

It owns the port and the order of steps on a connection: record the request, plan the response, commit, respond. A fault
can commit later. Rules: no input of a client makes the sandbox fail, nothing is stored on disk, and `stop` raises an
unexpected failure of the sandbox itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable

import structlog

from relay.runtime.clock import Clock
from relay.runtime.tasks import Tasks
from relay.sandbox import connection_faults, responses
from relay.sandbox.application import Application
from relay.sandbox.control import PREFIX, control
from relay.sandbox.faults import FaultScript
from relay.sandbox.record import NO_RESPONSE, Record, RecordedRequest, Report
from relay.sandbox.settings import SandboxSettings
from relay.sandbox.wire import HEAD_LIMIT_BYTES, BadRequest, BodyTooLarge, Head, SandboxConnection

log = structlog.get_logger(__name__)


class Sandbox:
    """One stand-in upstream. Call `start` once and `stop` once. Most settings may change in between."""

    def __init__(
        self,
        settings: SandboxSettings,
        clock: Clock,
        tls: ssl.SSLContext | None = None,
        on_request: Callable[[RecordedRequest, bytes], None] = lambda request, body: None,
    ) -> None:
        """Create a stopped sandbox. `on_request` is called after each request, with its body if it was read."""
        self._on_request = on_request
        self._application = Application(settings, clock)
        self._clock = clock
        self._tls = tls
        self._port = settings.port
        self._server: asyncio.Server | None = None
        self._tasks: Tasks | None = None
        self._open: set[SandboxConnection] = set()
        self._changed = asyncio.Event()

    @property
    def settings(self) -> SandboxSettings:
        return self._application.settings

    @property
    def record(self) -> Record:
        return self._application.record

    @property
    def faults(self) -> FaultScript:
        return self._application.faults

    @property
    def origin(self) -> str:
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"{'https' if self._tls else 'http'}://{host}:{self._port}"

    @property
    def url(self) -> str:
        """Return the URL of the events endpoint."""
        return self.origin + self.settings.path

    async def start(self) -> None:
        """Start to listen. Raise OSError if the address is not available."""
        self._tasks = Tasks()
        await self.open_port()

    async def stop(self) -> None:
        """Abort every connection. Raise TaskFailed if a task of the sandbox failed while it ran."""
        assert self._tasks is not None
        self.close_port()
        for connection in self._open:
            connection.abort()
        await self._tasks.cancel_all()
        if self._tasks.failure.done():
            raise self._tasks.failure.result()

    async def open_port(self) -> None:
        """Listen. After `close_port` the port is the same."""
        self._server = await asyncio.start_server(
            self._connected, self.settings.host, self._port, limit=HEAD_LIMIT_BYTES, backlog=1024, ssl=self._tls
        )
        self._port = self._server.sockets[0].getsockname()[1]

    def close_port(self) -> None:
        """Reject new connections, like a service that is down. Open connections stay open."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def change(self, **changes: object) -> None:
        """Change settings as `Application.change` does."""
        self._application.change(changes)

    def report(self) -> Report:
        return self._application.report()

    async def until(self, done: Callable[[Record], bool]) -> None:
        """Wait until `done` returns true. It is called at once and after each request."""
        while not done(self.record):
            await self._changed.wait()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._tasks is not None
        self._tasks.start("sandbox connection", self._serve_connection(SandboxConnection(reader, writer)))

    async def _serve_connection(self, connection: SandboxConnection) -> None:
        """Serve one connection until either side ends it."""
        self._open.add(connection)
        try:
            fault = self.faults.pick("accept")
            if fault is not None:
                await connection_faults.apply(connection, fault, responses.ACCEPTED)
                return
            while head := await connection.read_head():
                if not await self._serve_request(connection, head):
                    return
        except OSError as error:
            log.debug("sandbox client closed the connection", peer=connection.peer, error=str(error))
        except BadRequest as error:
            log.info("sandbox received an invalid HTTP request", peer=connection.peer, error=str(error))
            with contextlib.suppress(OSError):
                await connection.send(responses.BAD_REQUEST, keep_alive=False)
                await connection.linger()
        finally:
            self._open.discard(connection)
            connection.close()

    async def _serve_request(self, connection: SandboxConnection, head: Head) -> bool:
        """Handle one request. Return whether the connection may carry another request."""
        if head.path.startswith(PREFIX):
            body = await connection.read_body(head, max_body_bytes=0)
            await connection.send(control(self._application, head.method, head.path, body), keep_alive=head.keep_alive)
            return head.keep_alive
        number = self.record.arrived(self._clock.monotonic_ms(), connection.peer)
        try:
            fault = self.faults.pick("head")
            if fault is not None:
                return await connection_faults.apply(connection, fault, responses.ACCEPTED)
            unread_limit_bytes = 0 if self.settings.too_large == "laravel" else self.settings.max_body_bytes
            try:
                raw = await connection.read_body(head, unread_limit_bytes)
            except BodyTooLarge:
                return await self._reject_unread(connection, number)
            return await self._respond(connection, head, raw, number)
        finally:
            self._on_request(self.record.request(number), self.record.body(number))
            self._changed.set()
            self._changed = asyncio.Event()

    async def _respond(self, connection: SandboxConnection, head: Head, raw: bytes, number: int) -> bool:
        """Respond to a complete request. Return whether the connection stays open."""
        plan = self._application.plan(number, head, raw, connection.peer)
        if plan.commit == "before":
            self._application.commit(number, plan)
        if self.settings.latency_ms:
            await asyncio.sleep(self.settings.latency_ms / 1000)
        stays_open = True
        if plan.fault is None or plan.fault.gives_status:
            self.record.responded(number, plan.response.status)
        try:
            if plan.fault is None or plan.fault.action is None:
                await connection.send(plan.response, keep_alive=head.keep_alive)
            else:
                stays_open = await connection_faults.apply(connection, plan.fault, plan.response)
        except OSError:
            self.record.responded(number, NO_RESPONSE)
            raise
        if plan.commit == "late":
            self._application.commit(number, plan)
        return stays_open and head.keep_alive

    async def _reject_unread(self, connection: SandboxConnection, number: int) -> bool:
        if self.settings.too_large == "reset":
            connection.reset()
            return False
        await connection.send(responses.NGINX_TOO_LARGE, keep_alive=False)
        self.record.responded(number, responses.NGINX_TOO_LARGE.status)
        await connection.linger()
        return False

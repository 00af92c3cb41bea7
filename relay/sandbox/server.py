"""The sandbox: a stand-in for the upstream events API that can be told to misbehave.

Owns the port and the order of things on a connection: arrival is recorded, the application plans, what is committed is
committed before the answer unless a fault says otherwise. Rules: it fails for nothing a client sends, it keeps
nothing on disk, and what fails in it all the same is raised by `stop`.
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
from relay.sandbox.faults import Misbehaviour, Misbehaviours
from relay.sandbox.record import NO_RESPONSE, Record, Report
from relay.sandbox.settings import SandboxSettings
from relay.sandbox.wire import HEAD_LIMIT_BYTES, BadRequest, BodyTooLarge, Head, SandboxConnection

log = structlog.get_logger(__name__)


class Sandbox:
    """One stand-in upstream. `start` once, `stop` once; in between nearly everything may be changed."""

    def __init__(self, settings: SandboxSettings, clock: Clock, tls: ssl.SSLContext | None = None) -> None:
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
    def faults(self) -> Misbehaviours:
        return self._application.faults

    @property
    def origin(self) -> str:
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"{'https' if self._tls else 'http'}://{host}:{self._port}"

    @property
    def url(self) -> str:
        """Of the events endpoint."""
        return self.origin + self.settings.path

    async def start(self) -> None:
        """Raises OSError if the address cannot be listened on."""
        self._tasks = Tasks()
        await self.open_port()

    async def stop(self) -> None:
        """Cut every connection. Raises PartDied if the sandbox itself failed while it ran."""
        assert self._tasks is not None
        self.close_port()
        for connection in self._open:
            connection.abort()
        await self._tasks.cancel_all()
        if self._tasks.died.done():
            raise self._tasks.died.result()

    async def open_port(self) -> None:
        """Listen; after `close_port` again, at the same port."""
        self._server = await asyncio.start_server(
            self._connected, self.settings.host, self._port, limit=HEAD_LIMIT_BYTES, backlog=1024, ssl=self._tls
        )
        self._port = self._server.sockets[0].getsockname()[1]

    def close_port(self) -> None:
        """Refuse new connections, as a service that is down; open ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def change(self, **changes: object) -> None:
        """See `Application.change`."""
        self._application.change(changes)

    def report(self) -> Report:
        return self._application.report()

    async def until(self, done: Callable[[Record], bool]) -> None:
        """Wait until the record says so; it is asked at once and after each request."""
        while not done(self.record):
            await self._changed.wait()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._tasks is not None
        self._tasks.start("sandbox connection", self._converse(SandboxConnection(reader, writer)))

    async def _converse(self, connection: SandboxConnection) -> None:
        """Serve one connection until either side ends it."""
        self._open.add(connection)
        try:
            fault = self.faults.pick("accept")
            if fault is not None:
                await self._misbehave(connection, fault, responses.ACCEPTED)
                return
            while head := await connection.read_head():
                if not await self._serve(connection, head):
                    return
        except OSError as error:
            log.debug("sandbox client left", peer=connection.peer, error=str(error))
        except BadRequest as error:
            log.info("sandbox got what is not HTTP", peer=connection.peer, error=str(error))
            with contextlib.suppress(OSError):
                await connection.send(responses.BAD_REQUEST, keep_alive=False)
                await connection.linger()
        finally:
            self._open.discard(connection)
            connection.close()

    async def _serve(self, connection: SandboxConnection, head: Head) -> bool:
        """One request; whether the connection may carry another."""
        if head.path.startswith(PREFIX):
            body = await connection.read_body(head, max_body_bytes=0)
            await connection.send(control(self._application, head.method, head.path, body), keep_alive=head.keep_alive)
            return head.keep_alive
        number = self.record.arrived(self._clock.monotonic_ms(), connection.peer)
        try:
            fault = self.faults.pick("head")
            if fault is not None:
                return await self._misbehave(connection, fault, responses.ACCEPTED)
            unread_limit_bytes = 0 if self.settings.too_large == "laravel" else self.settings.max_body_bytes
            try:
                raw = await connection.read_body(head, unread_limit_bytes)
            except BodyTooLarge:
                return await self._refuse_unread(connection, number)
            return await self._answer(connection, head, raw, number)
        finally:
            self._changed.set()
            self._changed = asyncio.Event()

    async def _answer(self, connection: SandboxConnection, head: Head, raw: bytes, number: int) -> bool:
        """To a request that is here as a whole."""
        plan = self._application.plan(number, head, raw, connection.peer)
        if plan.commit == "before":
            self._application.commit(number, plan)
        if self.settings.latency_ms:
            await asyncio.sleep(self.settings.latency_ms / 1000)
        stays = True
        if plan.fault is None or plan.fault.gives_status:
            self.record.answered(number, plan.answer.status)
        try:
            if plan.fault is None or plan.fault.action is None:
                await connection.send(plan.answer, keep_alive=head.keep_alive)
            else:
                stays = await self._misbehave(connection, plan.fault, plan.answer)
        except OSError:
            self.record.answered(number, NO_RESPONSE)
            raise
        if plan.commit == "late":
            self._application.commit(number, plan)
        return stays and head.keep_alive

    async def _refuse_unread(self, connection: SandboxConnection, number: int) -> bool:
        if self.settings.too_large == "reset":
            connection.reset()
            return False
        await connection.send(responses.NGINX_TOO_LARGE, keep_alive=False)
        self.record.answered(number, responses.NGINX_TOO_LARGE.status)
        await connection.linger()
        return False

    async def _misbehave(
        self, connection: SandboxConnection, fault: Misbehaviour, answer: responses.ScriptedResponse
    ) -> bool:
        assert fault.action is not None
        return await connection_faults.ACTIONS[fault.action](connection, answer, fault.pause_ms)

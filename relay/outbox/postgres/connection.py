"""One connection to the server: opened when it is needed, used by one statement at a time, closed when one hangs.

Rules: a statement is never cancelled, because a commit that waits for its synchronous standby would then be
acknowledged without it. It runs in a task of its own; a caller that is cancelled abandons it. If it takes longer than
the session's timeout, the socket is closed, and its outcome is unknown. The driver repeats a malformed URL with its
password in its error, which is therefore never shown.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from relay.config import OutboxSettings
from relay.outbox import OutboxError, OutboxFull, OutboxUnavailable, OutboxUnusable
from relay.runtime.secret import Secret
from relay.runtime.tasks import Tasks

T = TypeVar("T")
Connection: TypeAlias = "psycopg.AsyncConnection[tuple[Any, ...]]"

_CONNECT_S = 5
_SESSION = (
    "SET idle_in_transaction_session_timeout = '10s'",
    "SET plan_cache_mode = force_generic_plan",
)


def parse_url(url: Secret | None) -> dict[str, Any]:
    """Return the connection parameters of a URL. Raises OutboxUnusable without any part of the URL."""
    if url is None:
        raise OutboxUnusable("outbox.url is not set, or this user cannot read its file")
    try:
        return dict(conninfo_to_dict(url.reveal()))
    except psycopg.Error:
        raise OutboxUnusable(
            "outbox.url is not a PostgreSQL URL: write postgresql://USER:PASSWORD@HOST:5432/DATABASE"
        ) from None


def url_problem(url: Secret | None) -> str | None:
    """Return why a URL cannot be used, or None."""
    try:
        parse_url(url)
    except OutboxUnusable as error:
        return str(error)
    return None


async def rows(connection: Connection, statement: str, values: Any = None) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(statement.encode(), values, binary=True)
    found: list[tuple[Any, ...]] = await cursor.fetchall()
    return found


async def row(connection: Connection, statement: str, values: Any = None) -> tuple[Any, ...]:
    (found,) = await rows(connection, statement, values)
    return found


class Session:
    """One connection for one kind of statements."""

    def __init__(self, settings: OutboxSettings, role: str, tasks: Tasks, timeout_ms: int = 0) -> None:
        """`timeout_ms`: longest time of a statement, outbox.timeout if it is longer."""
        self._timeout_ms = max(timeout_ms, settings.timeout_ms)
        name = f"relay {settings.replica_name} {role}"
        self._parameters = {"connect_timeout": _CONNECT_S, **parse_url(settings.url), "application_name": name}
        self._settings = settings
        self._is_for_appends = role == "append"
        self._tasks = tasks
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Session {self._parameters['application_name']}, {'closed' if self._is_closed else 'open'}>"

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run statements. OutboxUnavailable means that their outcome is unknown."""
        return await asyncio.shield(self._tasks.start("statement", self._locked(work)))

    async def close(self) -> None:
        """Close the connection. A waiting statement ends at once."""
        self._is_closed = True
        if self._connection is not None:
            _shut_down(self._connection)
        async with self._lock:
            await self._drop()

    async def _locked(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async with self._lock:
            if self._is_closed:
                raise OutboxUnavailable("the outbox is closed")
            try:
                connection = self._connection or await self._connect()
                return await self._limited(connection, work)
            except (psycopg.Error, OSError) as error:
                await self._drop()
                raise _failure(error, is_append=self._is_for_appends) from None
            except BaseException:
                await self._drop()
                raise

    async def _limited(self, connection: Connection, work: Callable[[Connection], Awaitable[T]]) -> T:
        async def worked() -> T:
            return await work(connection)

        statement = self._tasks.start("statement", worked())
        while not (await asyncio.wait({statement}, timeout=self._timeout_ms / 1000))[0]:
            _shut_down(connection)
        return statement.result()

    async def _connect(self) -> Connection:
        connection: Connection = await psycopg.AsyncConnection.connect(**self._parameters, autocommit=True)
        self._connection = connection
        await self._limited(connection, self._prepare)
        return connection

    async def _prepare(self, connection: Connection) -> None:
        for statement in _SESSION:
            await connection.execute(statement.encode())
        waits_for_disk = "on" if self._settings.durability == "full" else "off"
        settings = {"search_path": self._settings.schema, "synchronous_commit": waits_for_disk}
        for setting in settings.items():
            await connection.execute("SELECT set_config(%s, %s, false)", setting)

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _shut_down(connection: Connection) -> None:
    """End the wait of a statement. The event loop watches the socket until then, so that it must not be closed."""
    with suppress(OSError, psycopg.Error):
        same = socket.socket(fileno=connection.fileno())
        try:
            same.shutdown(socket.SHUT_RDWR)
        finally:
            same.detach()


def _failure(error: Exception, *, is_append: bool) -> OutboxError:
    """Return the error for callers. Only appends are rejected while the disk is full, all else is tried again."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if is_append and isinstance(error, errors.DiskFull):
        return OutboxFull(f"the disk of the database server is full: {reason}")
    return OutboxUnavailable(f"the database does not respond ({reason}): whether the events were stored is unknown")

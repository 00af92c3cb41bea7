"""One connection to the server: opened when it is needed, used by one statement at a time, closed when one hangs.

Rules: a statement is never cancelled, because a commit that waits for its synchronous standby would then be
acknowledged without it. It runs in a task of its own; a caller that is cancelled abandons it. If it takes longer than
`timeout_s`, the socket is closed, and its outcome is unknown. The text of a URL never reaches the driver, whose errors
repeat it with the password.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from relay.outbox import OutboxError, OutboxFull, OutboxUnavailable, OutboxUnusable
from relay.runtime.tasks import Tasks

T = TypeVar("T")
Connection: TypeAlias = "psycopg.AsyncConnection[tuple[Any, ...]]"

_CONNECT_S = 5
_SESSION = (
    "SET synchronous_commit = on",
    "SET idle_in_transaction_session_timeout = '10s'",
    "SET plan_cache_mode = force_generic_plan",
)


def parse_url(url: str) -> dict[str, Any]:
    """Return the connection parameters of a URL. Raises OutboxUnusable without any part of the URL."""
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.Error:
        raise OutboxUnusable(
            "outbox.url is not a PostgreSQL URL: write postgresql://USER:PASSWORD@HOST:5432/DATABASE"
        ) from None


class Session:
    """One connection for one kind of statements."""

    def __init__(self, parameters: dict[str, Any], schema: str, name: str, timeout_s: float, tasks: Tasks) -> None:
        self._parameters = {"connect_timeout": _CONNECT_S, **parameters, "application_name": name}
        self._schema = schema
        self._timeout_s = timeout_s
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
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _locked(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async with self._lock:
            if self._is_closed:
                raise OutboxUnavailable("the outbox is closed")
            try:
                connection = self._connection or await self._connect()
                return await self._limited(connection, work)
            except (psycopg.Error, OSError) as error:
                await self._drop()
                raise _failure(error) from None
            except BaseException:
                await self._drop()
                raise

    async def _limited(self, connection: Connection, work: Callable[[Connection], Awaitable[T]]) -> T:
        async def worked() -> T:
            return await work(connection)

        statement = self._tasks.start("statement", worked())
        await asyncio.wait({statement}, timeout=self._timeout_s)
        if not statement.done():
            await connection.close()
            await asyncio.wait({statement})
        return statement.result()

    async def _connect(self) -> Connection:
        connection: Connection = await psycopg.AsyncConnection.connect(**self._parameters, autocommit=True)
        for statement in _SESSION:
            await connection.execute(statement.encode())
        await connection.execute("SELECT set_config('search_path', %s, false)", (self._schema,))
        self._connection = connection
        return connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _failure(error: Exception) -> OutboxError:
    """Return the error for callers."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, errors.DiskFull):
        return OutboxFull(f"the disk of the database server is full: {reason}")
    return OutboxUnavailable(f"the database does not respond ({reason}): whether the events were stored is unknown")

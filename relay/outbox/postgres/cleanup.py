"""Cleanup of the database: the ring of tables, and the rows of ended replicas.

`log`, `commits` and `moves` each have a ring of tables. Relays add rows to the tables of the present segment. Rows that
are not needed any more stay until the whole table is emptied with TRUNCATE, which leaves no dead rows, also while a
long transaction holds a snapshot. Before, the few needed rows are copied into the present segment.

Which rows are needed is decided by the database alone, under a lock that excludes writers of this table. So no relay
needs to know which segment the others use, and relays of schema 1, which write into the parents, can run meanwhile.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from psycopg.errors import LockNotAvailable

from relay.outbox.postgres import sql
from relay.outbox.postgres.connection import Connection, row, rows
from relay.outbox.postgres.schema import RING, RINGS

_MIN_SEGMENT_BYTES, _MAX_SEGMENT_BYTES = 1 << 20, 256 << 20
_MAX_SEGMENT_MS = 3_600_000
_COPIED_PART = 8
"""A table is emptied early if at most this part of a segment is copied."""
_MIN_COPIED_ROW_BYTES = 1024
_WASTE_SEGMENTS = 4
"""With more bytes than twice the pending events and this many segments, the next table is emptied in any case."""


def segment_bytes(max_size_bytes: int) -> int:
    return min(max(max_size_bytes // RING, _MIN_SEGMENT_BYTES), _MAX_SEGMENT_BYTES)


async def clean(connection: Connection, segment_bytes: int, keep_ids: int) -> None:
    """Remove what is not needed any more, and begin a new segment if the present one is large or old.

    `keep_ids`: size of the dedupe window.
    """
    (window_start,) = await row(connection, sql.WINDOW_START, (keep_ids,))
    await _remove_ended_replicas(connection, window_start)
    segment, age_ms, pending_bytes = await row(connection, sql.SEGMENT)
    ring = TableRing(connection, segment, window_start)
    await ring.measure()
    for number in ring.old():
        if ring.bytes(f"log{number}"):
            if await ring.few_pending(number, segment_bytes // _COPIED_PART):
                await ring.empty("log", number)
        elif ring.bytes(f"commits{number}"):
            if await ring.is_outside_window(number):
                await ring.empty("commits", number)
        elif number:
            await ring.empty("moves", number)
    await ring.measure()
    present_bytes = ring.present_bytes()
    if present_bytes < segment_bytes and not (age_ms >= _MAX_SEGMENT_MS and ring.bytes(f"log_{segment}")):
        return
    is_wasteful = ring.total_bytes() >= 2 * pending_bytes + _WASTE_SEGMENTS * segment_bytes
    await ring.advance(is_forced=is_wasteful or age_ms >= 2 * _MAX_SEGMENT_MS)


class TableRing:
    """The tables of all segments. A number is the end of a table's name, empty for a parent."""

    def __init__(self, connection: Connection, segment: int, window_start: int) -> None:
        self._connection = connection
        self._segment = segment
        self._window_start = window_start
        self._sizes: dict[str, tuple[int, int]] = {}
        """By table: bytes of its rows, and of everything."""

    def __repr__(self) -> str:
        return f"<TableRing at {self._segment}: {self._sizes}>"

    def old(self) -> list[str]:
        """Return the numbers of all tables but the present ones, oldest first."""
        return ["", *(f"_{(self._segment + turn) % RING}" for turn in range(1, RING))]

    async def measure(self) -> None:
        names = [f"{parent}{number}" for parent in RINGS for number in (*self.old(), f"_{self._segment}")]
        self._sizes = {name: (size, total) for name, size, total in await rows(self._connection, sql.SIZES, (names,))}

    def bytes(self, table: str) -> int:
        return self._sizes[table][0]

    def present_bytes(self) -> int:
        return sum(self._sizes[f"{parent}_{self._segment}"][1] for parent in RINGS)

    def total_bytes(self) -> int:
        return sum(total for _, total in self._sizes.values())

    async def few_pending(self, number: str, most_bytes: int) -> bool:
        """Return whether at most this much has to be copied. Reads no further than necessary."""
        most_rows = most_bytes // _MIN_COPIED_ROW_BYTES
        count = sql.COUNT.format(rows=self._needed("log", number))
        found, body_bytes = await row(self._connection, count, (most_rows + 1,))
        return bool(found <= most_rows and body_bytes <= most_bytes)

    async def is_outside_window(self, number: str) -> bool:
        (last,) = await row(self._connection, f"SELECT max(id) FROM ONLY commits{number}")  # noqa: S608
        return last is not None and 0 < last < self._window_start

    async def advance(self, *, is_forced: bool) -> None:
        """Begin a new segment, if its tables are empty or are to be emptied in any case."""
        following = (self._segment + 1) % RING
        if is_forced:
            for parent in RINGS:
                await self.empty(parent, f"_{following}")
            await self.measure()
        if not any(self.bytes(f"{parent}_{following}") for parent in RINGS):
            await self._connection.execute(sql.SET_SEGMENT.encode(), (following, self._segment))

    async def empty(self, parent: str, number: str) -> None:
        """Copy the needed rows of a table into the present segment, and truncate it. Do nothing while it is locked."""
        table, needed = f"{parent}{number}", self._needed(parent, number)
        if not self.bytes(table):
            return
        with suppress(LockNotAvailable):
            async with self._connection.transaction():  # Copies nothing if a long reader would prevent the end.
                await self._lock(table, "ACCESS EXCLUSIVE")
            async with self._connection.transaction():
                await self._lock(table, "SHARE")
                if parent == "commits":
                    await self._execute(sql.DELETE_MARKS.format(table=table, rows=needed))
                await self._execute(sql.COPY.format(to=f"{parent}_{self._segment}", rows=needed))
                await self._lock(table, "ACCESS EXCLUSIVE")
                await self._execute(sql.TRUNCATE.format(table=table))

    def _needed(self, parent: str, number: str) -> str:
        return sql.NEEDED[parent].format(table=f"{parent}{number}", window_start=self._window_start)

    async def _lock(self, table: str, mode: str) -> None:
        await self._execute(sql.LOCK_WAIT)
        await self._execute(sql.LOCK.format(table=table, mode=mode))

    async def _execute(self, statement: str, values: Any = None) -> None:
        await self._connection.execute(statement.encode(), values)


async def _remove_ended_replicas(connection: Connection, window_start: int) -> None:
    """Remove the rows of replicas that own nothing any more, and add their totals to those of replica 0."""
    async with connection.transaction():
        ended = [replica for (replica,) in await rows(connection, sql.ENDED_REPLICAS, (window_start,))]
        if ended:
            for statement in sql.ADD_ENDED:
                await connection.execute(statement.encode())
            for statement in sql.REMOVE_REPLICAS:
                await connection.execute(statement.encode(), {"replicas": ended})

"""The statements of one forward transaction, and the reading of dead letters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from relay.outbox import DeadLetter, Selection
from relay.outbox.engine.dead_letter_shares import DeadLetterShares
from relay.outbox.postgres import sql
from relay.outbox.postgres.connection import Connection, rows
from relay.outbox.postgres.database import Letters, Move, Moved
from relay.runtime.clock import rfc3339


async def execute_move(connection: Connection, segment: int, replica: int, move: Move) -> Moved:
    """Execute all parts of a forward transaction, after its fence was checked."""
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(sql.ADD_MOVE.format(k=segment).encode(), (replica, move.number, *move.totals))
        for each in move.journals:
            head = (each.window, each.monotonic_ms, replica, each.request, each.ordinal)
            values = (*head, _json(each.flight), each.shift_ms, each.omitted, each.queue_id)
            await cursor.execute(sql.JOURNAL, values)
        for queue in move.settled:
            cursors = (queue.has_many_cursors, _json(queue.cursors))
            await cursor.execute(sql.SETTLE, (*cursors, queue.window, queue.monotonic_ms, queue.queue_id))
        for row in move.dead_rows:
            letter = (row.queue_id, row.event_id, *row.key, *row.dead, move.dead_at_ms)
            await cursor.execute(sql.BURY, (*letter, row.seq))
        letters, discarded = None, 0
        if move.dead_rows:
            letters, discarded = await _limit_letters(connection, move)
        if move.marks:
            seqs, queue_ids, why = map(list, zip(*move.marks, strict=True))
            await cursor.execute(sql.MARK, (seqs, queue_ids, why))
        if move.forgotten:
            await cursor.execute(sql.FORGET, (list(move.forgotten),))
        for ended in move.ended:
            await cursor.execute(sql.DELETE_OWED, (ended.queue_id, ended.replica))
            await cursor.execute(sql.SET_WINDOW, (ended.window, ended.monotonic_ms, ended.queue_id))
    return Moved(await _read_bodies(connection, move.reads), letters, discarded)


async def _read_bodies(connection: Connection, reads: Mapping[int, int | None]) -> dict[int, tuple[int, bytes]]:
    """Read each event from the table to which it was added, and from any table if the cleanup has moved it."""
    bodies: dict[int, tuple[int, bytes]] = {}
    tables = [f"log_{segment}" for segment in {*reads.values()} - {None}]
    for table in (*tables, "log"):
        seqs = [seq for seq, segment in reads.items() if seq not in bodies and table in ("log", f"log_{segment}")]
        if seqs:
            for seq, crc, body in await rows(connection, sql.READ_BODIES.format(table=table), (seqs,)):
                bodies[seq] = crc, body
    return bodies


async def _limit_letters(connection: Connection, move: Move) -> tuple[Letters, int]:
    """Delete dead letters beyond the limits. Return the rest, and the number of deleted ones."""
    number, body_bytes = await _letter_totals(connection)
    if number <= move.max_letters and body_bytes <= move.max_letter_bytes:
        return Letters(number, body_bytes), 0
    shares = DeadLetterShares(move.max_letters, move.max_letter_bytes)
    cursor = await connection.execute(sql.LETTER_SHARES)
    for letter_id, *device, size in await cursor.fetchall():
        shares.add(letter_id, tuple(device), size)
    excess, excess_bytes = shares.remove_excess(number, body_bytes)
    await connection.execute(sql.DELETE_LETTERS, (excess,))
    return Letters(number - len(excess), body_bytes - excess_bytes), len(excess)


async def _letter_totals(connection: Connection) -> tuple[int, int]:
    cursor = await connection.execute(sql.LETTER_TOTALS)
    ((number, body_bytes),) = await cursor.fetchall()
    return number, body_bytes


async def read_letters(connection: Connection, selection: Selection, limit: int, after: int) -> list[DeadLetter]:
    """Return selected dead letters, see `Outbox.dead_letters`."""
    chosen = (selection.device_id, selection.reason, selection.event_id)
    if not (selection.ids or selection.all or any(each is not None for each in chosen)):
        return []
    device_id, reason, event_id = chosen
    values: dict[str, Any] = {"ids": list(selection.ids) or None, "device_id": device_id, "reason": reason}
    values |= {"event_id": event_id, "after": after, "limit": limit}
    query = sql.NEWEST_LETTERS if selection.newest_first else sql.LETTERS
    cursor = await connection.execute(query, values, binary=True)
    return [_letter(*row) for row in await cursor.fetchall()]


def _letter(number: int, event_id: bytes, tenant_id: int, platform: str, device_id: str, *rest: Any) -> DeadLetter:
    reason, status, message, dead_at_ms, body = rest
    key = (tenant_id, platform, device_id)
    return DeadLetter(number, str(UUID(bytes=event_id)), key, reason, status, message, rfc3339(dead_at_ms), body)


def _json(seqs: Mapping[int, int]) -> str:
    return json.dumps(seqs)

"""The transactions of the shared outbox on a PostgreSQL server, see `database`.

Four connections: one for appends, one for forward transactions, one for the cleanup, and one for everything else.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any

from psycopg.errors import UniqueViolation

from relay.config import OutboxSettings
from relay.event.reader import DeviceKey
from relay.outbox import DeadLetter, Durability, OutboxLost, OutboxUnusable, Selection
from relay.outbox.engine.outbox_clock import Anchor
from relay.outbox.postgres import schema, sql
from relay.outbox.postgres.cleanup import clean, segment_bytes
from relay.outbox.postgres.connection import Connection, Session, row, rows
from relay.outbox.postgres.database import (
    OWED_MS,
    Appended,
    AppendTotals,
    AppendTransaction,
    Beat,
    CommitRow,
    ForwardTotals,
    Grant,
    Journal,
    Letters,
    LiveReplica,
    Mark,
    Move,
    Moved,
    NewPart,
    Registered,
    RequeueTransaction,
    SharedQueue,
    View,
    group_of,
)
from relay.outbox.postgres.forward_transaction import execute_move, read_letters
from relay.runtime.tasks import Tasks

_CLEANUP_MS = 600_000
"""Longest time of a cleanup. Nothing waits for it."""


class PostgresServer:
    """See relay.outbox.postgres.database.SharedDatabase."""

    def __init__(self, settings: OutboxSettings) -> None:
        self._schema = settings.schema
        tasks = Tasks()

        def session(role: str) -> Session:
            return Session(settings, role, tasks)

        self._append, self._forward, self._watch = session("append"), session("forward"), session("watch")
        self._cleanup = Session(settings, "cleanup", tasks, _CLEANUP_MS)
        self._segment_bytes = segment_bytes(settings.max_size_bytes)
        self._segment = 0
        """The present segment as of the last beat. An older one is as good."""

    def __repr__(self) -> str:
        return f"<PostgresServer {self._watch!r}>"

    async def close(self) -> None:
        for session in (self._append, self._forward, self._watch, self._cleanup):
            await session.close()

    # -- life ----------------------------------------------------------------------------------------

    async def register(self, name: str) -> Registered:
        async def work(connection: Connection) -> Registered:
            while True:
                with suppress(UniqueViolation):  # Another relay creates the same schema or table at this moment.
                    return await self._register(connection, name)

        return await self._watch.run(work)

    async def _register(self, connection: Connection, name: str) -> Registered:
        async with connection.transaction():
            await self._migrate(connection)
            *time, boot_from_ms, self._segment = await row(connection, sql.TIME)
            (live,) = await row(connection, sql.LIVE)
            (last_at_ms,) = await row(connection, sql.LAST_TIME)
            marks = [Mark(*mark) for mark in await rows(connection, sql.MARKS)]
            (replica,) = await row(connection, sql.REGISTER, (name,))
            await connection.execute(sql.ADD_FENCES, (replica, replica))
        anchor = None if time[0] is None else Anchor(*time)
        return Registered(replica, anchor, boot_from_ms, live > 0, last_at_ms, marks)

    async def _migrate(self, connection: Connection) -> None:
        """Execute the missing migrations. Relays of the last version may run meanwhile."""
        done = 0
        if await row(connection, sql.HAS_TABLES) == (False,):
            await connection.execute(b'CREATE SCHEMA IF NOT EXISTS "%b"' % self._schema.encode())
        else:
            (version,) = await row(connection, sql.VERSION)
            if version > schema.VERSION:
                raise OutboxUnusable("the database was created by a newer relay: start that version")
            (done,) = await row(connection, schema.MIGRATED)
            if done < len(schema.MIGRATIONS):
                await connection.execute(b"LOCK TABLE replicas, meta")  # In the order of a beat.
                (done,) = await row(connection, schema.MIGRATED)
        for migration in schema.MIGRATIONS[done:]:
            for statement in migration:
                await connection.execute(statement.encode())

    async def leave(self, replica: int, anchor: Anchor) -> None:
        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute(sql.END_OWED, (replica,))
                if await rows(connection, sql.SET_FENCES, (replica,)):
                    await connection.execute(sql.FREE_SLOTS, (replica,))
                    (boot_from_ms,) = await row(connection, "SELECT boot_from_ms FROM meta")
                    await connection.execute(sql.SAVE_TIME, (*anchor, boot_from_ms))

        await self._watch.run(work)

    # -- appends -------------------------------------------------------------------------------------

    async def append(self, replica: int, append: AppendTransaction) -> Appended:
        async def work(connection: Connection) -> Appended:
            statement, segment = sql.APPEND.format(k=self._segment), self._segment
            if len(append.parts) == 1:
                parts = [await _append_part(connection, statement, replica, append, append.parts[0])]
            else:
                async with connection.transaction():
                    parts = [await _append_part(connection, statement, replica, append, part) for part in append.parts]
            return Appended([number for number, _ in parts], parts[0][1], segment)

        return await self._append.run(work)

    async def requeue(self, replica: int, requeue: RequeueTransaction) -> CommitRow | None:
        async def work(connection: Connection) -> CommitRow | None:
            async with connection.transaction():
                await check_fence(connection, sql.FENCE, replica, "append")
                return await _requeue(connection, self._segment, replica, requeue)

        return await self._append.run(work)

    async def last_append(self, replica: int) -> tuple[int, Durability, Sequence[CommitRow]]:
        async def work(connection: Connection) -> tuple[int, Durability, Sequence[CommitRow]]:
            await check_fence(connection, sql.FENCE_AND_WAIT, replica, "append")
            found = await rows(connection, sql.LAST_APPEND, {"replica": replica})
            _, durability, _ = await row(connection, sql.STATE)  # The wait for the fence was a write.
            return (found[0][0] if found else 0), durability, [_commit_row(columns) for _, *columns in found]

        return await self._append.run(work)

    # -- forwarding ----------------------------------------------------------------------------------

    async def move(self, replica: int, move: Move) -> Moved:
        async def work(connection: Connection) -> Moved:
            async with connection.transaction():
                await check_fence(connection, sql.FENCE, replica, "forward")
                return await execute_move(connection, self._segment, replica, move)

        return await self._forward.run(work)

    async def last_move(self, replica: int) -> int:
        async def work(connection: Connection) -> int:
            await check_fence(connection, sql.FENCE_AND_WAIT, replica, "forward")
            (number,) = await row(connection, sql.LAST_MOVE, (replica,))
            return int(number)

        return await self._forward.run(work)

    # -- watching ------------------------------------------------------------------------------------

    async def poll(self, positions: Mapping[int, int], limit: int) -> Mapping[int, Sequence[CommitRow]]:
        async def work(connection: Connection) -> Mapping[int, Sequence[CommitRow]]:
            streams: dict[int, list[CommitRow]] = {}
            for found in await rows(connection, sql.POLL, (list(positions), list(positions.values()), limit)):
                streams.setdefault(found[0], []).append(_commit_row(found))
            return streams

        return await self._watch.run(work)

    async def outcomes(self, events: Sequence[tuple[int, int, int]]) -> Sequence[Mark]:
        async def work(connection: Connection) -> Sequence[Mark]:
            seqs, queue_ids, replicas = map(list, zip(*events, strict=True))
            found = await rows(connection, sql.OUTCOMES, (seqs, queue_ids, [str(replica) for replica in replicas]))
            return [Mark(*mark) for mark in found]

        return await self._append.run(work)

    async def remembered(self, queue_ids: Sequence[int]) -> Collection[int]:
        async def work(connection: Connection) -> Collection[int]:
            return {queue_id for (queue_id,) in await rows(connection, sql.REMEMBERED, (list(queue_ids),))}

        return await self._append.run(work)

    async def queues(self, queue_ids: Sequence[int]) -> Mapping[int, tuple[DeviceKey, Mapping[int, int]]]:
        async def work(connection: Connection) -> Mapping[int, tuple[DeviceKey, Mapping[int, int]]]:
            found = await rows(connection, sql.QUEUES, (list(queue_ids),))
            return {queue_id: (tuple(key), _seqs(cursors)) for queue_id, *key, cursors in found}

        return await self._watch.run(work)

    async def beat(self, replica: int, beat: Beat) -> View:
        async def work(connection: Connection) -> View:
            async with connection.transaction():
                await check_fence(connection, sql.FENCE, replica, "forward")
                await connection.execute(sql.BEAT, (beat.events, beat.body_bytes, beat.devices, replica))
                if beat.anchor is not None:
                    await connection.execute(sql.SAVE_TIME, (*beat.anchor, beat.boot_from_ms))
            view, self._segment = await _view(connection, replica)
            return view

        return await self._watch.run(work)

    async def fence(self, replica: int, beat: int) -> bool:
        async def work(connection: Connection) -> bool:
            async with connection.transaction():
                if not await rows(connection, sql.LOCK_REPLICA, (replica, beat)):
                    return False
                if not await rows(connection, sql.SET_FENCES, (replica,)):
                    return False
                await connection.execute(sql.OWE, (replica, replica))
                await connection.execute(sql.FREE_SLOTS, (replica,))
                return True

        return await self._watch.run(work)

    async def claim_groups(self, replica: int, groups: Sequence[int]) -> Grant:
        async def work(connection: Connection) -> Grant:
            async with connection.transaction():
                await check_fence(connection, sql.FENCE, replica, "forward")
                slots = {"replica": replica, "slots": list(groups)}
                claimed = [slot for (slot,) in await rows(connection, sql.CLAIM_SLOTS, slots)]
                queues = [_queue(queue) for queue in await rows(connection, sql.QUEUES_OF_SLOTS, (claimed,))]
                marks = [Mark(*mark) for mark in await rows(connection, sql.MARKS_OF_SLOTS, (claimed,))]
                owed = dict(await rows(connection, sql.OWED_OF_SLOTS, (claimed,)))
            return Grant(claimed, queues, marks, owed)

        return await self._watch.run(work)

    async def release_groups(self, replica: int, groups: Sequence[int]) -> None:
        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await check_fence(connection, sql.FENCE, replica, "forward")
                await connection.execute(sql.RELEASE_SLOTS, (replica, list(groups)))

        await self._watch.run(work)

    async def clean(self, keep_ids: int) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(sql.END_OLD_OWED, (OWED_MS,))
            await clean(connection, self._segment_bytes, keep_ids)

        await self._cleanup.run(work)

    async def kept_commits(self, before_id: int) -> Sequence[int]:
        async def work(connection: Connection) -> Sequence[int]:
            return [number for (number,) in await rows(connection, sql.KEPT_COMMITS, (before_id,))]

        return await self._watch.run(work)

    # -- dead letters --------------------------------------------------------------------------------

    async def letters(self, selection: Selection, limit: int, after: int) -> Sequence[DeadLetter]:
        return await self._watch.run(lambda connection: read_letters(connection, selection, limit, after))

    async def discard(self, selection: Selection, limit: int) -> tuple[int, int]:
        async def work(connection: Connection) -> tuple[int, int]:
            async with connection.transaction():
                letters = await read_letters(connection, selection, limit, 0)
                ids = [letter.id for letter in letters]
                sizes = [size for (size,) in await rows(connection, sql.DELETE_LETTERS, (ids,))]
            return len(sizes), sum(sizes)

        return await self._watch.run(work)


async def check_fence(connection: Connection, statement: str, replica: int, role: str) -> None:
    if not await rows(connection, statement, (replica, role)):
        raise OutboxLost("another relay has taken over the device queues of this one: it starts again")


async def _append_part(
    connection: Connection, statement: str, replica: int, append: AppendTransaction, part: NewPart
) -> tuple[int, Durability]:
    sizes = [len(body) for body in part.bodies]
    new = [(queue_id, group_of(queue_id), *key) for queue_id, key in append.new_queues]
    ids, slots, tenants, platforms, devices = map(list, zip(*new, strict=True)) if new else ([], [], [], [], [])
    values = {
        "replica": replica,
        "n": append.number,
        "accepted": append.accepted,
        "requeued": append.requeued,
        "at_ms": append.at_ms,
        "packed_queue_ids": part.queue_ids.tobytes(),
        "packed_sizes": array("I", sizes).tobytes(),
        "packed_checks": part.checks.tobytes(),
        "ids": b"".join(part.ids),
        "bodies": b"".join(part.bodies),
        "queue_ids": part.queue_ids.tolist(),
        "crcs": list(part.crcs),
        "checks": part.checks.tolist(),
        "starts": [1, *(size + 1 for size in accumulate(sizes[:-1]))],
        "sizes": sizes,
        "new_ids": ids,
        "new_slots": slots,
        "new_tenants": tenants,
        "new_platforms": platforms,
        "new_devices": devices,
    }
    found = await rows(connection, statement, values)
    if not found:
        raise OutboxLost("another relay has taken over the device queues of this one: it starts again")
    number, durability = found[0]
    return number, durability


async def _requeue(connection: Connection, segment: int, replica: int, requeue: RequeueTransaction) -> CommitRow | None:
    letters = sorted(await rows(connection, sql.REQUEUED, (list(requeue.letter_ids),)))
    if not letters:
        return None
    (number,) = await row(connection, "SELECT nextval('commit_id')")
    _, queue_ids, event_ids, tenants, platforms, devices, crcs, checks, bodies = zip(*letters, strict=True)
    columns = array("q", queue_ids), array("I", map(len, bodies)), b"".join(event_ids), array("I", checks)
    totals = (requeue.accepted, requeue.requeued + len(letters))
    commit = CommitRow(replica, number, requeue.at_ms, True, totals[0], totals[1], *columns, segment)
    packed = (commit.queue_ids.tobytes(), commit.sizes.tobytes(), commit.ids, commit.checks.tobytes())
    add_commit, add_event = sql.ADD_COMMIT.format(k=segment), sql.ADD_EVENT.format(k=segment)
    await connection.execute(add_commit.encode(), (replica, number, requeue.number, *totals, requeue.at_ms, *packed))
    for queue_id, *key in sorted({*zip(queue_ids, tenants, platforms, devices, strict=True)}):
        await connection.execute(sql.ADD_QUEUE, (queue_id, group_of(queue_id), *key))
    events = zip(queue_ids, event_ids, crcs, checks, bodies, strict=True)
    async with connection.cursor() as cursor:
        await cursor.executemany(add_event.encode(), [(commit.seq(at), *event) for at, event in enumerate(events)])
    return commit


def _commit_row(columns: Sequence[Any]) -> CommitRow:
    replica, number, at_ms, is_requeue, accepted, requeued, queue_ids, sizes, ids, checks, segment = columns
    packed = array("q", queue_ids), array("I", sizes), ids, array("I", checks)
    return CommitRow(replica, number, at_ms, is_requeue, accepted, requeued, *packed, segment)


async def _view(connection: Connection, replica_of_view: int) -> tuple[View, int]:
    """Return what a replica knows of the others, and the present segment."""
    replicas, appended, moved = [], {}, {}
    for replica, name, beat, events, body_bytes, devices, fenced, accepted, requeued, *totals in await rows(
        connection, sql.VIEW
    ):
        if not fenced:
            replicas.append(LiveReplica(replica, name, beat, events, body_bytes, devices))
        appended[replica], moved[replica] = AppendTotals(accepted, requeued), ForwardTotals(*totals)
    holders = dict(await rows(connection, sql.HOLDERS))
    letters = Letters(*(await row(connection, sql.LETTER_TOTALS)))
    outbox_ms, durability, segment = await row(connection, sql.STATE)
    ended = [(queue_id, fenced) for queue_id, fenced in await rows(connection, sql.ENDED, (replica_of_view,))]
    return View(replicas, holders, appended, moved, letters, outbox_ms, ended, durability), segment


def _seqs(stored: Mapping[str, int]) -> dict[int, int]:
    """Return seqs by replica, as stored in JSON."""
    return {int(replica): seq for replica, seq in stored.items()}


def _queue(columns: tuple[Any, ...]) -> SharedQueue:
    queue_id, tenant_id, platform, device_id, cursors, window, monotonic_ms, *journal, is_forgotten = columns
    request, ordinal, flight, shift_ms, omitted = journal
    entry = None
    if flight is not None:
        entry = Journal(queue_id, window, monotonic_ms, request, ordinal, _seqs(flight), shift_ms, omitted)
    key = (tenant_id, platform, device_id)
    return SharedQueue(queue_id, key, _seqs(cursors), window, monotonic_ms, entry, is_forgotten)

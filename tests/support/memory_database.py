"""The database of the shared outbox in memory: the reference for its SQL, and the database of simulations.

`MemoryStore` contains the committed rows. `MemoryDatabase` is one replica's connection to it. A transaction takes two
turns of the event loop and changes the store in between at once; an append takes its ids at the beginning, so that a
lower seq may become visible after a higher one.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import astuple, dataclass, field
from typing import NamedTuple
from uuid import UUID

from relay.event.reader import DeviceKey
from relay.outbox import DeadLetter, Durability, OutboxLost, OutboxUnavailable, Selection
from relay.outbox.engine.dead_letter_shares import DeadLetterShares
from relay.outbox.engine.outbox_clock import Anchor
from relay.outbox.postgres import database as d
from relay.runtime.clock import rfc3339

from tests.support.letter_pages import page


class LogRow(NamedTuple):
    queue_id: int
    event_id: bytes
    crc: int
    check: int
    body: bytes


class LetterRow(NamedTuple):
    letter: DeadLetter
    row: LogRow


@dataclass
class ReplicaRow:
    name: str
    beat: int = 0
    events: int = 0
    body_bytes: int = 0
    devices: int = 0
    is_fenced: bool = False
    append_number: int = 0
    move_number: int = 0
    appended: d.AppendTotals = field(default_factory=d.AppendTotals)
    moved: d.ForwardTotals = field(default_factory=d.ForwardTotals)


@dataclass
class QueueState:
    key: DeviceKey
    cursors: Mapping[int, int] = field(default_factory=dict)
    window: bytes = b""
    monotonic_ms: int = 0
    holder: int = 0
    journal: d.Journal | None = None
    is_forgotten: bool = False


@dataclass
class MemoryStore:
    replicas: dict[int, ReplicaRow] = field(default_factory=dict)
    queues: dict[int, QueueState] = field(default_factory=dict)
    holders: dict[int, int] = field(default_factory=dict)
    commits: dict[int, tuple[int, d.CommitRow]] = field(default_factory=dict)
    """By id: number of the transaction, and row."""
    log: dict[int, LogRow] = field(default_factory=dict)
    marks: dict[int, d.Mark] = field(default_factory=dict)
    letters: dict[int, LetterRow] = field(default_factory=dict)
    owed: dict[int, dict[int, int | None]] = field(default_factory=dict)
    """By queue id: the fenced replicas whose requests may still reach the upstream, and since when; None: over."""
    anchor: Anchor | None = None
    boot_from_ms: int = 0
    next_replica: int = 1
    next_id: int = 1
    next_letter: int = 1

    def copy(self) -> MemoryStore:
        return deepcopy(self)

    def is_fenced(self, replica: int) -> bool:
        return replica not in self.replicas or self.replicas[replica].is_fenced

    def remove_ended_replicas(self) -> None:
        """Add the totals of the replicas that own nothing any more to those of replica 0."""
        used = {row.replica for _, row in self.commits.values()} | {*self.holders.values()}
        used.update(replica for replicas in self.owed.values() for replica in replicas)
        ended = [number for number in self.replicas if number and self.is_fenced(number) and number not in used]
        for row in [self.replicas.pop(number) for number in ended]:
            total = self.replicas.setdefault(0, ReplicaRow("ended", is_fenced=True))
            total.appended = d.AppendTotals(*map(sum, zip(total.appended, row.appended, strict=True)))
            total.moved = d.ForwardTotals(*map(sum, zip(total.moved, row.moved, strict=True)))

    def end_owed(self, is_over: Callable[[int, int], bool]) -> None:
        """Record which owed requests are over."""
        for replicas in self.owed.values():
            replicas.update({replica: None for replica, since in replicas.items() if since and is_over(replica, since)})

    def fence(self, replica: int) -> None:
        self.replicas[replica].is_fenced = True
        self.holders = {group: holder for group, holder in self.holders.items() if holder != replica}
        for queue_id, queue in self.queues.items():
            if queue.holder == replica and queue.journal is not None:
                self.owed.setdefault(queue_id, {})[replica] = 1 if self.anchor is None else self.anchor.outbox_ms + 1


class MemoryDatabase:
    """See relay.outbox.postgres.database.SharedDatabase."""

    durability: Durability = "full"

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self._is_closed = False

    async def _turn(self) -> None:
        """Let other tasks run, as while a statement is on its way."""
        await asyncio.sleep(0)
        if self._is_closed:
            raise OutboxUnavailable("the outbox is closed")

    def _check(self, replica: int) -> ReplicaRow:
        if self.store.is_fenced(replica):
            raise OutboxLost("another relay has taken over")
        return self.store.replicas[replica]

    async def register(self, name: str) -> d.Registered:
        await self._turn()
        store = self.store
        live = any(not row.is_fenced for row in store.replicas.values())
        replica, store.next_replica = store.next_replica, store.next_replica + 1
        store.replicas[replica] = ReplicaRow(name)
        last_at_ms = max((row.at_ms for _, row in store.commits.values()), default=0)
        return d.Registered(replica, store.anchor, store.boot_from_ms, live, last_at_ms, list(store.marks.values()))

    async def append(self, replica: int, append: d.AppendTransaction) -> d.Appended:
        await self._turn()
        store = self.store
        ids = [store.next_id + at for at in range(len(append.parts))]
        store.next_id += len(ids)
        await self._turn()
        row = self._check(replica)
        for queue_id, key in append.new_queues:
            store.queues.setdefault(queue_id, QueueState(key)).is_forgotten = False
        for number, part in zip(ids, append.parts, strict=True):
            sizes = array("I", map(len, part.bodies))
            totals = (append.accepted, append.requeued)
            columns = (part.queue_ids, sizes, b"".join(part.ids), part.checks, None)
            commit = d.CommitRow(replica, number, append.at_ms, False, *totals, *columns)
            store.commits[number] = append.number, commit
            for at, event in enumerate(zip(part.queue_ids, part.ids, part.crcs, part.checks, part.bodies, strict=True)):
                store.log[commit.seq(at)] = LogRow(*event)
        row.append_number, row.appended = append.number, d.AppendTotals(append.accepted, append.requeued)
        await self._turn()
        return d.Appended(ids, self.durability, None)

    async def requeue(self, replica: int, requeue: d.RequeueTransaction) -> d.CommitRow | None:
        await self._turn()
        store, row = self.store, self._check(replica)
        found = [store.letters.pop(number) for number in requeue.letter_ids if number in store.letters]
        if not found:
            return None
        number, store.next_id = store.next_id, store.next_id + 1
        for each in found:
            store.queues.setdefault(each.row.queue_id, QueueState(each.letter.device_key)).is_forgotten = False
        totals = (requeue.accepted, requeue.requeued + len(found))
        queue_ids, ids, _, checks, bodies = zip(*(each.row for each in found), strict=True)
        columns = (array("q", queue_ids), array("I", map(len, bodies)), b"".join(ids), array("I", checks), None)
        commit = d.CommitRow(replica, number, requeue.at_ms, True, *totals, *columns)
        store.commits[number] = requeue.number, commit
        store.log.update((commit.seq(at), each.row) for at, each in enumerate(found))
        row.append_number, row.appended = requeue.number, d.AppendTotals(*totals)
        return commit

    async def last_append(self, replica: int) -> tuple[int, Durability, Sequence[d.CommitRow]]:
        await self._turn()
        row = self._check(replica)
        commits = [
            commit
            for number, commit in self.store.commits.values()
            if commit.replica == replica and number == row.append_number
        ]
        return row.append_number, self.durability, commits

    async def move(self, replica: int, move: d.Move) -> d.Moved:
        await self._turn()
        store, row = self.store, self._check(replica)
        assert move.number == row.move_number + 1, "a transaction twice, or out of order"
        for journal in move.journals:
            queue = store.queues[journal.queue_id]
            queue.journal, queue.holder, queue.is_forgotten = journal, replica, False
            queue.window, queue.monotonic_ms = journal.window, journal.monotonic_ms
        for settled in move.settled:
            queue = store.queues[settled.queue_id]
            queue.journal, queue.cursors = None, {**queue.cursors, **settled.cursors}
            queue.window, queue.monotonic_ms = settled.window, settled.monotonic_ms
        for dead in move.dead_rows:
            self._add_letter(dead, move.dead_at_ms)
        discarded = self._limit_letters(move) if move.dead_rows else 0
        bodies = {seq: (store.log[seq].crc, store.log[seq].body) for seq in move.reads if seq in store.log}
        store.marks.update((mark.seq, mark) for mark in move.marks)
        for mark in move.marks:
            store.log.pop(mark.seq, None)
        for settled in move.settled:
            self._remove_passed(settled)
        for queue_id in move.forgotten:
            store.queues[queue_id].is_forgotten = True
        for ended in move.ended:
            del store.owed[ended.queue_id][ended.replica]
            queue = store.queues[ended.queue_id]
            queue.window, queue.monotonic_ms = ended.window, ended.monotonic_ms
        row.move_number, row.moved = move.number, move.totals
        letters = self._letter_totals() if move.dead_rows else None
        await self._turn()
        return d.Moved(bodies, letters, discarded)

    def _remove_passed(self, settled: d.SettledQueue) -> None:
        """Delete the events up to the cursors."""
        store = self.store
        for seq in [seq for seq, row in store.log.items() if row.queue_id == settled.queue_id]:
            if seq <= settled.cursors.get(store.commits[seq >> d.POSITION_BITS][1].replica, 0):
                del store.log[seq]

    def _add_letter(self, dead: d.DeadRow, dead_at_ms: int) -> None:
        store = self.store
        number, store.next_letter = store.next_letter, store.next_letter + 1
        row = store.log.get(dead.seq) or LogRow(dead.queue_id, dead.event_id, 0, 0, b"")
        event_id = str(UUID(bytes=dead.event_id))
        letter = DeadLetter(number, event_id, dead.key, *dead.dead, rfc3339(dead_at_ms), row.body)
        store.letters[number] = LetterRow(letter, row)

    def _limit_letters(self, move: d.Move) -> int:
        letters = self.store.letters
        shares = DeadLetterShares(move.max_letters, move.max_letter_bytes)
        for number, each in letters.items():
            shares.add(number, each.letter.device_key, len(each.row.body))
        excess, _ = shares.remove_excess(*self._letter_totals())
        for number in excess:
            del letters[number]
        return len(excess)

    def _letter_totals(self) -> d.Letters:
        return d.Letters(len(self.store.letters), sum(len(each.row.body) for each in self.store.letters.values()))

    async def last_move(self, replica: int) -> int:
        await self._turn()
        return self._check(replica).move_number

    async def poll(self, positions: Mapping[int, int], limit: int) -> Mapping[int, Sequence[d.CommitRow]]:
        await self._turn()
        streams: dict[int, list[d.CommitRow]] = {}
        for number in sorted(self.store.commits):
            _, row = self.store.commits[number]
            stream = streams.setdefault(row.replica, [])
            if row.id > positions.get(row.replica, 0) and len(stream) < limit:
                stream.append(row)
        await self._turn()
        return streams

    async def outcomes(self, events: Sequence[tuple[int, int, int]]) -> Sequence[d.Mark]:
        await self._turn()
        marks, queues = self.store.marks, self.store.queues
        return [
            marks.get(seq, d.Mark(seq, queue_id, "delivered"))
            for seq, queue_id, replica in events
            if seq in marks or seq <= queues[queue_id].cursors.get(replica, 0)
        ]

    async def remembered(self, queue_ids: Sequence[int]) -> Collection[int]:
        await self._turn()
        queues = self.store.queues
        return {queue_id for queue_id in queue_ids if queue_id in queues and not queues[queue_id].is_forgotten}

    async def queues(self, queue_ids: Sequence[int]) -> Mapping[int, tuple[DeviceKey, Mapping[int, int]]]:
        await self._turn()
        return {
            queue_id: (self.store.queues[queue_id].key, self.store.queues[queue_id].cursors) for queue_id in queue_ids
        }

    async def beat(self, replica: int, beat: d.Beat) -> d.View:
        await self._turn()
        store, row = self.store, self._check(replica)
        row.beat, row.events, row.body_bytes, row.devices = row.beat + 1, *beat[2:]
        if beat.anchor is not None:
            store.anchor, store.boot_from_ms = beat.anchor, beat.boot_from_ms
        live = [
            d.LiveReplica(number, row.name, row.beat, row.events, row.body_bytes, row.devices)
            for number, row in store.replicas.items()
            if not row.is_fenced
        ]
        appended = {number: row.appended for number, row in store.replicas.items()}
        moved = {number: row.moved for number, row in store.replicas.items()}
        outbox_ms = 0 if store.anchor is None else store.anchor.outbox_ms
        own = {number for number in store.owed if store.holders.get(d.group_of(number)) == replica}
        ended = [(number, fenced) for number in own for fenced, since in store.owed[number].items() if since is None]
        totals = (appended, moved, self._letter_totals(), outbox_ms, ended)
        view = d.View(live, dict(store.holders), *totals, self.durability)
        await self._turn()
        return view

    async def fence(self, replica: int, beat: int) -> bool:
        await self._turn()
        if self.store.is_fenced(replica) or self.store.replicas[replica].beat != beat:
            return False
        self.store.fence(replica)
        await self._turn()
        return True

    async def claim_groups(self, replica: int, groups: Sequence[int]) -> d.Grant:
        await self._turn()
        store, _ = self.store, self._check(replica)
        free = [group for group in groups if store.holders.get(group, replica) == replica]
        store.holders.update(dict.fromkeys(free, replica))
        rows = {number: queue for number, queue in store.queues.items() if d.group_of(number) in free}
        queues = [
            d.SharedQueue(
                number, queue.key, queue.cursors, queue.window, queue.monotonic_ms, queue.journal, queue.is_forgotten
            )
            for number, queue in rows.items()
        ]
        marks = [mark for mark in store.marks.values() if d.group_of(mark.queue_id) in free]
        owed = {queue_id: len(each) for queue_id, each in store.owed.items() if each and queue_id in rows}
        await self._turn()
        return d.Grant(free, queues, marks, owed)

    async def release_groups(self, replica: int, groups: Sequence[int]) -> None:
        await self._turn()
        self._check(replica)
        for group in groups:
            if self.store.holders.get(group) == replica:
                del self.store.holders[group]
        await self._turn()

    async def letters(self, selection: Selection, limit: int, after: int) -> Sequence[DeadLetter]:
        await self._turn()
        found = page(self._selected(selection), after, newest_first=selection.newest_first)
        return [each.letter for _, each in found][:limit]

    def _selected(self, selection: Selection) -> list[tuple[int, LetterRow]]:
        ids, device_id, reason, everything, event_id, _ = astuple(selection)
        if not (ids or everything or device_id is not None or reason is not None or event_id is not None):
            return []
        wanted = None if event_id is None else str(UUID(bytes=event_id))
        chosen = [each for each in self.store.letters.items() if not ids or each[0] in ids]
        chosen = [each for each in chosen if device_id in (None, each[1].letter.device_key[2])]
        chosen = [each for each in chosen if reason in (None, each[1].letter.reason)]
        return [each for each in chosen if wanted in (None, each[1].letter.event_id)]

    async def discard(self, selection: Selection, limit: int) -> tuple[int, int]:
        await self._turn()
        chosen = self._selected(selection)[:limit]
        for number, _ in chosen:
            del self.store.letters[number]
        return len(chosen), sum(len(each.row.body) for _, each in chosen)

    async def clean(self, keep_ids: int) -> None:
        await self._turn()
        store, kept = self.store, 0
        last = {row.replica: number for number, (_, row) in store.commits.items() if not store.is_fenced(row.replica)}
        full = {seq >> d.POSITION_BITS for seq in store.log}
        for number in sorted(store.commits, reverse=True):
            _, row = store.commits[number]
            if kept >= keep_ids and number not in full and number != last.get(row.replica):
                del store.commits[number]
                for at in range(len(row.sizes)):
                    store.marks.pop(row.seq(at), None)
            kept += len(row.sizes)
        now_ms = 0 if store.anchor is None else store.anchor.outbox_ms
        store.end_owed(lambda _, since_ms: since_ms < now_ms - d.OWED_MS)
        store.remove_ended_replicas()

    async def kept_commits(self, before_id: int) -> Sequence[int]:
        await self._turn()
        return [number for number in self.store.commits if number < before_id]

    async def leave(self, replica: int, anchor: Anchor) -> None:
        await self._turn()
        self.store.end_owed(lambda fenced, _: fenced == replica)
        if not self.store.is_fenced(replica):
            self.store.anchor = anchor
            self.store.replicas[replica].is_fenced = True
            self.store.holders = {group: held for group, held in self.store.holders.items() if held != replica}

    async def close(self) -> None:
        self._is_closed = True

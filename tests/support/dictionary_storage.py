"""A store in dictionaries: the smallest one that the engine can run an outbox on.

A commit executes its commands without an await in between, so that no other task sees half of it. The store knows no
machines, so it has no quarantined events. `copy` returns the store that a kill leaves.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import takewhile
from typing import Any, NamedTuple
from uuid import UUID

from relay.config import OutboxSettings
from relay.outbox import DeadLetter, MayForget, OutboxError, OutboxFull, Selection
from relay.outbox.engine import commands as c
from relay.outbox.engine.checksum import has_inserted_time
from relay.outbox.engine.dead_letter_shares import DeadLetterShares
from relay.outbox.engine.dedupe_window import DEAD, DedupeWindow, IdSlice, split_ids
from relay.outbox.engine.opened_queues import OpenedQueues, QueueRow
from relay.outbox.engine.outbox_clock import Anchor
from relay.outbox.engine.storage import Committed, LogChunk, Opened, Space, SpaceLimits, StoredTotals
from relay.runtime.clock import Clock, rfc3339

from tests.support.letter_pages import page

_ROW_BYTES = 64


class Row(NamedTuple):
    """A row. The defaults stand for a row that does not exist."""

    queue_id: int = 0
    event_id: bytes = bytes(16)
    at_ms: int = 0
    crc: int = -1
    check: int = 0
    """CRC-32 of the received bytes; 0 if it is unknown."""
    body: bytes = b""
    is_receipt: bool = True
    """Whether the event was received at `at_ms`."""


@dataclass
class DictionaryStorage:
    """See relay.outbox.engine.storage.Storage. The command X is executed by the method do_X."""

    settings: OutboxSettings
    clock: Clock
    rows: dict[int, Row] = field(default_factory=dict)
    queues: dict[int, QueueRow] = field(default_factory=dict)
    letters: dict[int, tuple[Row, DeadLetter]] = field(default_factory=dict)
    remembered: dict[int, IdSlice] = field(default_factory=dict)
    """Deleted rows by seq."""
    totals: StoredTotals = field(default_factory=lambda: StoredTotals(0, 0, 0, 0, 0, 0, 0))
    next_queue_id: int = 1
    next_letter: int = 1
    saved: c.SaveClocks = field(default_factory=lambda: c.SaveClocks(Anchor(0, 0, 0, ""), 0, 0, False))
    is_open = is_untidy = was_replaced = was_moved = False
    is_verified = True

    @property
    def file_bytes(self) -> int:
        return self._letter_bytes() + sum(len(row.body) + _ROW_BYTES for row in self.rows.values())

    def pending(self) -> list[int]:
        """Return the seqs of the pending events."""
        cursors = {queue_id: queue.cursor for queue_id, queue in self.queues.items()}
        return [seq for seq, row in self.rows.items() if seq > cursors.get(row.queue_id, seq)]

    def copy(self) -> DictionaryStorage:
        rows, queues, letters, remembered = map(dict, (self.rows, self.queues, self.letters, self.remembered))
        return replace(self, rows=rows, queues=queues, letters=letters, remembered=remembered)

    def configure(self, settings: OutboxSettings) -> SpaceLimits:
        size = settings.max_size_bytes
        return SpaceLimits(size, 0, size - size // 16, 1 << 20, size // 4, 4096, size, size, _ROW_BYTES)

    def cost_bytes(self, body_bytes: Sequence[int]) -> int:
        return sum(body_bytes) + _ROW_BYTES * len(body_bytes)

    def lock(self) -> None: ...

    unlock = find_fault = lock

    async def tidy(self) -> None: ...

    recreate = tidy

    async def open(self, may_forget: MayForget | None = None) -> Opened:
        self.is_open = True
        anchor, boot, boot_from_ms, _ = self.saved
        same_boot = anchor.boot_id == self.clock.boot_id
        if may_forget is not None:
            self._forget_free(may_forget, boot if same_boot else None)
        clocks = (boot, boot_from_ms, anchor) if same_boot else (boot + 1, None, anchor if anchor.boot_id else None)
        head = (self.totals._replace(dead_letters=len(self.letters)), self.next_queue_id, self._letter_bytes(), *clocks)
        last_at_ms = max((row.at_ms for row in self.rows.values()), default=0)
        rows = [IdSlice(seq, row.event_id, [row.queue_id], None, [row.check]) for seq, row in self.rows.items()]
        slices = [*self.remembered.values(), *rows]
        window = DedupeWindow.restored(self.settings.dedupe_window, self.totals.last_seq, slices)
        tail = (OpenedQueues(clocks[0], self.queues.values()), window, Space(self.file_bytes, 0, False))
        return Opened(*head, next(iter(self.rows), self.totals.last_seq + 1), last_at_ms, *tail)

    def _forget_free(self, may_forget: MayForget, boot: int | None) -> None:
        used = {self.rows[seq].queue_id for seq in self.pending()}
        for queue_id, queue in list(self.queues.items()):
            is_idle = queue.request is None and queue_id not in used
            if is_idle and (not queue.window or (queue.boot == boot and may_forget(queue.window))):
                del self.queues[queue_id]

    async def close(self) -> None:
        self.is_open = False

    async def commit(self, commands: Sequence[c.Command]) -> Committed:
        await asyncio.sleep(0)
        if self.file_bytes > 4 * self.settings.max_size_bytes:
            raise OutboxFull("the disk is full")
        results = [getattr(self, f"do_{type(command).__name__}")(command) for command in commands]
        return Committed(results, Space(self.file_bytes, 0, False))

    async def read_log(self, after_seq: int, to_seq: int) -> LogChunk | None:
        rows = [(seq, row.queue_id, len(row.body)) for seq, row in self.rows.items() if after_seq < seq <= to_seq]
        return LogChunk(*(array("q", column) for column in zip(*rows, strict=True)), rows[-1][0]) if rows else None

    def distrust(self, missing: int, orphans: int) -> OutboxError:
        raise AssertionError(f"{missing} events are missing, {orphans} have no queue")

    def _count(self, **by: int) -> None:
        totals = self.totals
        self.totals = totals._replace(**{name: getattr(totals, name) + more for name, more in by.items()})

    def _letter_bytes(self) -> int:
        return sum(len(row.body) for row, _ in self.letters.values())

    def _select(self, selection: Selection, after: int = 0) -> list[tuple[Row, DeadLetter]]:
        ids, device, reason, everything, event_id, newest_first = astuple(selection)
        if not (ids or everything or {device, reason, event_id} != {None}):
            return []
        ordered = page(self.letters.items(), after, newest_first=newest_first)
        chosen = [each for at, each in ordered if (not ids or at in ids) and device in (None, each[1].device_key[2])]
        return [each for each in chosen if event_id in (None, each[0].event_id) and reason in (None, each[1].reason)]

    def do_AddQueues(self, command: c.AddQueues) -> None:
        for queue_id, key in command.queues:
            self.queues[queue_id] = QueueRow(queue_id, key, command.cursor, b"", 0, None, None, None, None)
            self.next_queue_id = max(self.next_queue_id, queue_id + 1)

    def do_InsertEvents(self, command: c.InsertEvents) -> None:
        columns = zip(command.queue_ids, command.ids, command.crcs, command.received_crcs, command.bodies, strict=True)
        for seq, (queue_id, event_id, crc, received, body) in enumerate(columns, command.first_seq):
            self.rows[seq] = Row(queue_id, event_id, command.at_ms, crc, received or crc, body)
        self._count(last_seq=len(command.ids))

    def do_ClaimEvents(self, command: c.ClaimEvents) -> c.ClaimedEvents:
        rows = [self.rows.get(seq, Row()) for part in command.wanted for seq in part.seqs]
        marks = [has_inserted_time(row.body, row.crc) for row in rows]
        found, dead, journal = command.sort([row.body for row in rows], marks, self._times)
        for part, entry in zip(command.wanted, journal, strict=True):
            self._move(part.queue_id, part.window, command.boot, entry)
        return c.ClaimedEvents(found, self._dead_letter(dead, command.dead_letter_limits))

    def _times(self, seqs: Sequence[int]) -> list[tuple[int, bool]]:
        return [(self.rows[seq].at_ms, self.rows[seq].is_receipt) for seq in seqs]

    def do_SettleEvents(self, command: c.SettleEvents) -> c.DeadLettered:
        for cursor, delivered, window, boot, queue_id in command.moves:
            self._move(queue_id, window, boot, (None,) * 6, cursor)
            self._count(delivered=delivered)
        for seq, row in [(seq, self.rows.pop(seq)) for seq in command.ahead]:
            self.remembered[seq] = IdSlice(seq, row.event_id, [row.queue_id], b"\0", [row.check])
        return self._dead_letter(command.dead_events, command.dead_letter_limits)

    def _move(self, queue_id: int, window: bytes, boot: int, entry: Sequence[Any], cursor: int = 0) -> None:
        if (old := self.queues.get(queue_id)) is not None:
            cursor = max(old.cursor, cursor)
            self.queues[queue_id] = QueueRow(queue_id, old.key, cursor, window, boot, *entry[:5], omitted=entry[5])

    def _dead_letter(self, dead_events: Sequence[c.DeadEvent], limits: c.DeadLetterLimits) -> c.DeadLettered:
        if not dead_events:
            return c.DeadLettered(0, 0, 0)
        bytes_before = self._letter_bytes()
        for seq, queue_id, dead in dead_events:
            row = self.rows.pop(seq, Row())
            self.remembered[seq] = IdSlice(seq, row.event_id, [queue_id], bytes([DEAD]), [row.check])
            number, self.next_letter = self.next_letter, self.next_letter + 1
            key, event_id, dead_at = self.queues[queue_id].key, str(UUID(bytes=row.event_id)), rfc3339(limits.now_ms)
            self.letters[number] = (row, DeadLetter(number, event_id, key, *dead, dead_at, row.body))
        self._count(dead_lettered=len(dead_events))
        shares = DeadLetterShares(limits.max_letters, limits.max_body_bytes)
        for number, (row, letter) in self.letters.items():
            shares.add(number, letter.device_key, len(row.body))
        excess, _ = shares.remove_excess(len(self.letters), self._letter_bytes())
        for number in excess:
            del self.letters[number]
        return c.DeadLettered(len(dead_events), len(excess), self._letter_bytes() - bytes_before)

    def do_ForgetQueues(self, command: c.ForgetQueues) -> None:
        for queue_id in command.queue_ids:
            del self.queues[queue_id]
        self.next_queue_id = max(self.next_queue_id, command.next_queue_id)

    def do_DropEvents(self, command: c.DropEvents) -> c.Dropped:
        self._count(dropped=command.events)
        bodies = [self.rows[seq].body for seq in command.reported_seqs]
        return c.Dropped(self._delete(command.seq_range, {*command.in_flight}), bodies)

    def do_DeleteSettled(self, command: c.DeleteSettled) -> c.Deleted:
        deleted = self._delete(command.seq_range, set(self.pending()))
        return c.Deleted(deleted, next(iter(self.rows), None), next(reversed(self.rows), None))

    def _delete(self, seq_range: c.SeqRange, kept: set[int]) -> int:
        """Delete the rows of a range but the kept ones, and remember their ids."""
        columns = zip(split_ids(seq_range.ids), seq_range.marks, array("I", seq_range.checks), strict=True)
        for seq, (event_id, mark, check) in enumerate(columns, seq_range.kept_from_seq):
            self.remembered[seq] = IdSlice(seq, event_id, [0], bytes([mark]), [check])
        self.remembered = {seq: row for seq, row in self.remembered.items() if seq > seq_range.forget_to_seq}
        seqs = set(range(seq_range.first_seq, seq_range.last_seq + 1)) - kept
        return sum(self.rows.pop(seq, None) is not None for seq in seqs)

    def do_FindOlder(self, command: c.FindOlder) -> int | None:
        rows = [seq for seq in self.rows if seq >= command.first_seq]
        return max(takewhile(lambda seq: self.rows[seq].at_ms < command.before_ms, rows), default=None)

    def do_ReadAppendTime(self, command: c.ReadAppendTime) -> int | None:
        return self.rows[command.seq].at_ms if command.seq in self.rows else None

    def do_ReadDeadLetters(self, command: c.ReadDeadLetters) -> Sequence[DeadLetter]:
        return [letter for _, letter in self._select(command.selection, command.after)][: command.limit]

    def do_ChooseDeadLetters(self, command: c.ChooseDeadLetters) -> Sequence[c.ChosenLetter]:
        chosen = self._select(command.selection)[: command.limit]
        return [c.ChosenLetter(letter.id, letter.device_key, row.event_id, len(row.body)) for row, letter in chosen]

    def do_RequeueDeadLetters(self, command: c.RequeueDeadLetters) -> set[int]:
        wanted = [(number, queue_id) for number, queue_id in command.wanted if number in self.letters]
        for seq, (number, queue_id) in enumerate(wanted, command.first_seq):
            row, _ = self.letters.pop(number)
            self.rows[seq] = row._replace(queue_id=queue_id, at_ms=command.at_ms, is_receipt=False, check=0)
        self._count(requeued=len(wanted), last_seq=len(wanted))
        return {number for number, _ in wanted}

    def do_DiscardDeadLetters(self, command: c.DiscardDeadLetters) -> tuple[int, int]:
        rows = [self.letters.pop(letter.id)[0] for _, letter in self._select(command.selection)[: command.limit]]
        return len(rows), sum(len(row.body) for row in rows)

    def do_SaveClocks(self, command: c.SaveClocks) -> None:
        self.saved = command

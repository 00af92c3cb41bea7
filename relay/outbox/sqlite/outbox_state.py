"""The state of the outbox in memory, as of the last commit.

Rule: the state changes only after the commit that makes the change has returned (except for
`release`, which changes no row). Only the event loop uses it. It contains no SQL.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from relay.config import OutboxSettings
from relay.event.reader import DeviceKey, Event
from relay.outbox import ClaimPart, EventState, Ledger, OutboxShareUsed, RestoredQueue
from relay.outbox.engine.conflicts import Conflict
from relay.outbox.engine.dedupe_window import DEAD, DROPPED, REMEMBERED_BYTES, DedupeWindow
from relay.outbox.engine.fair_share import is_crowded, over_share
from relay.outbox.engine.outbox_clock import OutboxTime
from relay.outbox.engine.queue_index import Index
from relay.outbox.sqlite.connection import PAGE_BYTES
from relay.outbox.sqlite.loading import Chunk, Opened
from relay.outbox.sqlite.statements import DeadLettered, DeadLetterLimits, Range, Reclaimed
from relay.runtime.clock import Clock

_GARBAGE_ROWS = 512
"""Minimum number of settled rows to delete at once, so that a single event does not cost a delete."""
_IDLE_GARBAGE_ROWS = 4096
"""Minimum number of settled rows for a commit that only deletes."""
_TRUNCATED_ROWS = 20_000
"""Largest log that one statement empties when no event is pending, in about 10 ms."""
_ROW_BYTES = 60
_COMMON_ROW_BYTES = 400
_FREE_PAGES = 256
"""A file with fewer free pages is not vacuumed."""


@dataclass(frozen=True, slots=True)
class SpaceLimits:
    """Limits of the parts of the file, calculated from outbox.max_size."""

    max_bytes: int
    wal_bytes: int
    """Maximum size of the write-ahead log; a checkpoint precedes a commit that would exceed it."""
    append_bytes: int
    """Maximum size of the used pages for an append. The rest is for settlements, queues and dead letters."""
    commit_bytes: int
    """Maximum size of the bodies in one commit."""
    dead_letter_bytes: int
    reclaim_rows: int
    """Maximum number of rows that one commit deletes."""
    reclaim_pages: int
    """Maximum number of pages of these rows."""
    vacuum_pages: int
    """Maximum number of free pages that one commit removes from the file."""

    @classmethod
    def of(cls, settings: OutboxSettings) -> SpaceLimits:
        size = settings.max_size_bytes
        wal = max(min(4 << 20, size // 4), 16 * PAGE_BYTES)
        return cls(
            max_bytes=size,
            wal_bytes=wal,
            append_bytes=size - wal - size // 16,
            commit_bytes=wal // 4,
            dead_letter_bytes=size // 4,
            reclaim_rows=min(4096, wal // 1024),
            reclaim_pages=wal // PAGE_BYTES // 2,
            vacuum_pages=wal // PAGE_BYTES // 4,
        )


class DeletionRange(NamedTuple):
    """A range of seqs whose settled rows are to be deleted."""

    first_seq: int
    last_seq: int
    kind: Literal["front", "holes", "tail", "all"]
    """front: oldest rows, all settled; holes: settled rows among pending ones; tail: newest rows; all: every row."""


@dataclass(slots=True)
class OutboxState:
    """The state of one open file."""

    settings: OutboxSettings
    limits: SpaceLimits
    time: OutboxTime
    dedupe_window: DedupeWindow
    boot: int
    boot_from_ms: int
    """Outbox time when this boot began."""
    index: Index = field(default_factory=Index)
    next_seq: int = 1
    next_queue_id: int = 1
    next_request: int = 1
    requeued: int = 0
    delivered: int = 0
    dead_lettered: int = 0
    dropped: int = 0
    adopted: int = 0
    """Number of rows that `adopt` appended a second time."""
    quarantined: int = 0
    """Number of pending events of another machine. Valid after loading."""
    dead_letters: int = 0
    dead_letter_bytes: int = 0
    first_row: int = 1
    """Lower bound of the seqs in the log."""
    last_row: int = 0
    """Upper bound of the seqs in the log."""
    rows: int = 0
    """Number of rows in the log, including settled rows. Valid after loading."""
    done_to: int = 0
    """No event with a seq up to here is pending. Updated only when necessary, because that reads every queue."""
    sweep_from: int = 1
    look_again_at: int = 0
    """Minimum number of settled rows for the next search for deletable rows, which reads every queue."""
    pages: int = 0
    free_pages: int = 0
    vacuum_useless_at: int = 0
    """Number of pages when a vacuum freed none, because a copy of the file has lost auto_vacuum."""
    oldest_seq: int | None = None
    """Seq of the oldest pending event when its time was last read."""
    oldest_at_ms: int = 0
    """Outbox time when the event `oldest_seq` was appended."""
    loaded: bool = False
    loading_from: int = 0
    """Rows up to this seq have been loaded."""
    load_to: int = 0
    older: Index = field(default_factory=Index)
    """The loaded rows, while loading."""
    cursors: dict[int, int] = field(default_factory=dict)
    quarantined_ranges: dict[int, range] = field(default_factory=dict)
    """By queue id: the range of seqs that may be quarantined, while loading."""
    orphans: int = 0
    """Number of loaded rows with an unknown queue: settled rows of a forgotten queue, or rows changed by the disk."""
    opened: Opened | None = None
    """The content of the file at its opening, while loading."""
    restored_queues: Sequence[RestoredQueue] = ()
    unsettled: Sequence[Sequence[ClaimPart]] = ()
    changed: set[int] = field(default_factory=set)
    """Ids of queues whose changes have not been reported to the backlog callback."""

    @classmethod
    def of(cls, opened: Opened, settings: OutboxSettings, clock: Clock) -> OutboxState:
        time = OutboxTime(clock, opened.anchor, opened.last_at_ms)
        state = cls(
            settings,
            SpaceLimits.of(settings),
            time,
            opened.dedupe_window,
            opened.boot,
            time.now_ms() if opened.boot_from_ms is None else opened.boot_from_ms,
            next_seq=opened.last_seq + 1,
            next_queue_id=opened.next_queue_id,
            next_request=max((row.request or 0 for row in opened.queues), default=0) + 1,
            requeued=opened.requeued,
            delivered=opened.delivered,
            dead_lettered=opened.dead_lettered,
            dropped=opened.dropped,
            adopted=opened.adopted,
            dead_letters=opened.dead_letters,
            dead_letter_bytes=opened.dead_letter_bytes,
            first_row=opened.first_row,
            last_row=opened.last_seq,
            sweep_from=opened.first_row,
            pages=opened.pages,
            free_pages=opened.free_pages,
            loading_from=opened.first_row - 1,
            load_to=opened.last_seq,
            opened=opened,
        )
        for row in opened.queues:
            state.index.add(row.queue_id, row.key)
            state.older.add(row.queue_id, row.key)
            state.cursors[row.queue_id] = row.cursor
            if row.quarantined_to is not None:
                state.quarantined_ranges[row.queue_id] = range((row.quarantined_after or 0) + 1, row.quarantined_to + 1)
        return state

    def ledger(self) -> Ledger:
        appended = self.next_seq - 1 - self.adopted
        done = self.delivered + self.dead_lettered + self.dropped
        return Ledger(
            appended - self.requeued, self.requeued, self.delivered, self.dead_lettered, self.dropped, appended - done
        )

    @property
    def pending(self) -> int:
        return self.next_seq - 1 - self.adopted - self.delivered - self.dead_lettered - self.dropped

    @property
    def queued(self) -> int:
        """Pending events that are not quarantined."""
        return self.pending - self.quarantined

    @property
    def used_bytes(self) -> int:
        return (self.pages - self.free_pages) * PAGE_BYTES

    @property
    def crowded(self) -> bool:
        """Whether settled rows must be deleted at once to make space."""
        return self.room_bytes() < self.limits.append_bytes // 8

    @property
    def wasteful(self) -> bool:
        """Whether more than half of the file is free pages, so that a vacuum is worthwhile."""
        return self.free_pages > max(self.pages - self.free_pages, _FREE_PAGES) and self.pages != self.vacuum_useless_at

    @property
    def needs_cleanup(self) -> bool:
        """Whether there are enough settled rows for a commit that only deletes."""
        return self.rows - self.pending >= max(_IDLE_GARBAGE_ROWS, 3 * self.pending)

    def state_of(self, event_id: bytes) -> EventState | None:
        found = self.dedupe_window.find(event_id)
        if found is None:
            return None
        if found.mark == DROPPED:
            return "dropped"
        if found.mark == DEAD:
            return "dead_lettered"
        queue = self.index.queues.get(found.queue_id)
        if queue is not None and (found.seq in queue or found.seq in queue.quarantined):
            return "pending"
        unread = not self.loaded and found.seq <= self.load_to
        return "pending" if unread and found.seq > self.cursors.get(found.queue_id, found.seq) else "delivered"

    def conflict_of(self, event: Event) -> Conflict | None:
        """Return the conflict if an event with the same id and other bytes is stored."""
        found = self.dedupe_window.find(event.event_id)
        if found is None or found.mark == DROPPED or found.check in (0, event.check):
            return None
        queue = self.index.queues.get(found.queue_id)
        return Conflict(event, None if queue is None else queue.key)

    def room_bytes(self) -> int:
        """Return by how many bytes appends may increase the used pages."""
        return self.limits.append_bytes - self.used_bytes

    def share_problem(self, room_bytes: int, keys: Iterable[DeviceKey] | None = None) -> str:
        """Return why one of these devices (None: of all) exceeds its fair share, or ""; see `fair_share`."""
        if self.settings.when_full != "reject" or not is_crowded(room_bytes, self.limits.append_bytes):
            return ""
        queues, by_key = self.index.queues, self.index.by_key
        numbers = queues if keys is None else [number for key in keys if (number := by_key.get(key)) is not None]
        used = (queues[number].body_bytes + _ROW_BYTES * len(queues[number]) for number in numbers)
        return str(OutboxShareUsed()) if any(over_share(each, room_bytes) for each in used) else ""

    def dead_letter_limits(self, clock: Clock) -> DeadLetterLimits:
        return DeadLetterLimits(self.settings.max_dead_letters, self.limits.dead_letter_bytes, clock.wall_ms())

    def dead_lettered_rows(self, dead_lettered_rows: DeadLettered) -> None:
        self.dead_lettered += dead_lettered_rows.events
        self.dead_letters += dead_lettered_rows.events - dead_lettered_rows.discarded
        self.dead_letter_bytes += dead_lettered_rows.body_bytes
        self.rows -= dead_lettered_rows.events

    def range(self, first_seq: int, last_seq: int) -> Range:
        """Return a range of the log with the part of the dedupe window to remember for it."""
        return Range(
            first_seq,
            last_seq,
            *self.dedupe_window.packed(first_seq, last_seq),
            self.next_seq - 1 - self.dedupe_window.window,
        )

    def reclaimable(self, body_bytes: int | None) -> DeletionRange | None:
        """Return the rows to delete in a commit that appends `body_bytes`; None: a commit that only
        deletes.

        A commit writes each page that it frees, unless it reuses the page. So settled rows stay
        until an append needs their pages, space runs out, or the outbox is idle; rows before
        pending rows stay longer (see Owner). Emptying the whole log writes none of its pages.
        Neither does deleting the newest rows, whose pages are usually the last of the file and are
        cut off in the same commit.
        """
        garbage = self.rows - self.pending
        if not self.loaded or garbage <= 0:
            return None
        if self.rows == garbage and _GARBAGE_ROWS <= self.rows <= _TRUNCATED_ROWS:
            # The ids of newer events were stored when their rows were deleted.
            return DeletionRange(self.first_row, self.last_row, "all")
        if body_bytes is None:
            wanted = self.needs_cleanup and not self.index.busy
        else:
            wanted = garbage >= _GARBAGE_ROWS and self.free_pages * PAGE_BYTES < body_bytes * 5 // 4
        if not (self.crowded or (wanted and garbage >= self.look_again_at)):
            return None
        leaves = max(min(self.rows, self.pages - self.free_pages), 1)
        max_rows = min(self.limits.reclaim_rows, self.limits.reclaim_pages * self.rows // leaves)
        rows = max_rows
        if body_bytes is not None and not self.crowded:
            rows = min(max(body_bytes // _COMMON_ROW_BYTES, _GARBAGE_ROWS), max_rows)
        if not self.pending and not body_bytes:
            # Ids behind the rows of the log would be moved by each cut at the end of the file.
            missing_bytes = self._bytes_to_remember() - self.free_pages * PAGE_BYTES
            if missing_bytes > 0:
                rows = min(missing_bytes // _COMMON_ROW_BYTES + 1, max_rows)
                return DeletionRange(self.first_row, self.first_row + rows - 1, "front")
            return DeletionRange(max(self.first_row, self.last_row - rows + 1), self.last_row, "tail")
        if self.done_to - self.first_row + 1 < min(garbage, rows):
            first_pending = self.index.first_row_seq()
            self.done_to = (self.next_seq if first_pending is None else first_pending) - 1
        if self.done_to - self.first_row + 1 >= min(garbage, _GARBAGE_ROWS):
            return DeletionRange(self.first_row, min(self.done_to, self.first_row + rows - 1), "front")
        if garbage * (8 if self.crowded else 2) > self.rows:
            if not self.first_row <= self.sweep_from < self.next_seq:
                self.sweep_from = max(self.first_row, self.done_to + 1)
            return DeletionRange(self.sweep_from, min(self.sweep_from + max_rows // 2, self.next_seq) - 1, "holes")
        self.look_again_at = garbage + _GARBAGE_ROWS
        return None

    def _bytes_to_remember(self) -> int:
        """Return the size of the ids to store when the rows of the dedupe window are deleted."""
        rows = min(self.last_row - (self.next_seq - 1 - self.dedupe_window.window), self.rows)
        return max(rows, 0) * REMEMBERED_BYTES

    def reclaimed(self, seq_range: DeletionRange, reclaimed: Reclaimed) -> None:
        self.rows -= reclaimed.rows
        self.look_again_at = 0
        if seq_range.kind == "holes":
            self.sweep_from = seq_range.last_seq + 1
        self.first_row = self.next_seq if reclaimed.first_row is None else reclaimed.first_row
        self.last_row = self.next_seq - 1 if reclaimed.last_row is None else reclaimed.last_row

    def load(self, chunk: Chunk) -> None:
        """Add a loaded chunk of the log. Call `finish_loading` after the last chunk."""
        queues, cursors, quarantined = self.older.queues, self.cursors, self.quarantined_ranges
        for seq, number, size in zip(chunk.seqs, chunk.queues, chunk.sizes, strict=True):
            cursor = cursors.get(number)
            if cursor is None:
                self.orphans += 1
            elif seq > cursor:
                queues[number].append(seq, size)
            elif number in quarantined and seq in quarantined[number]:
                queues[number].quarantined.append(seq)
        self.rows += len(chunk.seqs)
        self.loading_from = chunk.last_seq

    def missing(self) -> int:
        """Return the number of events that are pending by the ledger and missing from the loaded log."""
        return self.pending - sum(
            len(queue) + len(queue.quarantined) for index in (self.index, self.older) for queue in index.queues.values()
        )

    def finish_loading(self, *, promise: bool) -> None:
        """Put the loaded events before the events appended since. `promise`: whether to send the journal's requests."""
        opened = self.opened
        assert opened is not None
        for number, older in self.older.queues.items():
            queue = self.index.queues.get(number)
            if queue is not None and len(older):
                queue.prepend(older)
            if queue is not None:
                queue.quarantined = older.quarantined
                self.quarantined += len(queue.quarantined)
        self.restored_queues = [
            RestoredQueue(row.queue_id, row.key, row.window, row.boot == self.boot) for row in opened.queues
        ]
        self.unsettled = self._unsettled(opened) if promise else ()
        self.older, self.cursors, self.opened, self.quarantined_ranges = Index(), {}, None, {}
        self.loaded = True
        self.changed.update(number for number, queue in self.index.queues.items() if len(queue))

    def agrees_with(self, reopened: OutboxState) -> bool:
        """Return whether the reopened file matches this state, after a commit with an unknown outcome."""
        return (
            self.ledger() == reopened.ledger()
            and self.dead_letters == reopened.dead_letters
            and self.index.queues.keys() == reopened.index.queues.keys()
        )

    def inherit(self, old: OutboxState) -> None:
        """Keep the events in flight, and reuse no queue id while this process runs."""
        self.next_queue_id = max(self.next_queue_id, old.next_queue_id)
        for number, queue in old.index.queues.items():
            if queue.in_flight is not None and number in self.index.queues:
                self.index.queues[number].in_flight = queue.in_flight
                self.index.queues[number].shift_ms = queue.shift_ms

    def _unsettled(self, opened: Opened) -> Sequence[Sequence[ClaimPart]]:
        """Return the requests of the journal whose events all exist. They stay reserved until they are claimed."""
        requests: dict[int, list[tuple[int, ClaimPart]]] = {}
        for row in opened.queues:
            queue = self.index.queues.get(row.queue_id)
            if row.request is None or queue is None or queue.first_seq != row.first_seq:
                continue
            assert row.last_seq is not None
            events = queue.count_to(row.last_seq)
            if queue.in_flight is None:
                queue.in_flight = array("Q", queue.seqs(events))
                queue.shift_ms = row.shift_ms
            requests.setdefault(row.request, []).append((row.ordinal or 0, ClaimPart(row.queue_id, events)))
        return [[part for _, part in sorted(requests[number])] for number in sorted(requests)]

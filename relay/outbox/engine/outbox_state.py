"""The state of the outbox in memory, as of the last commit.

Rule: the state changes only after the commit that makes the change has returned (except for `release`, which changes
no row). Only the event loop uses it. It contains nothing that a particular store needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from relay.event.reader import DeviceKey, Event
from relay.outbox import Backlog, EventState, Ledger, OutboxShareUsed, RestoredState, TooManyDevices
from relay.outbox.engine.commands import DeadLettered, DeadLetterLimits, Deleted, SeqRange
from relay.outbox.engine.conflicts import Conflict
from relay.outbox.engine.dedupe_window import DEAD, DROPPED, DedupeWindow
from relay.outbox.engine.deletion import Circumstances, DeletionRange, LogExtent, Search, choose, needs_cleanup
from relay.outbox.engine.fair_share import is_crowded, over_share
from relay.outbox.engine.limits import OutboxLimits
from relay.outbox.engine.loading import Loaded, LoadingLog
from relay.outbox.engine.outbox_clock import Boot, OutboxTime
from relay.outbox.engine.queue_index import Index
from relay.outbox.engine.storage import LogChunk, Opened, Space, StoredTotals
from relay.runtime.clock import Clock

_ROW_BYTES = 60


class Oldest(NamedTuple):
    """The oldest pending event when its time was last read."""

    seq: int
    at_ms: int
    """Outbox time when it was appended."""


@dataclass(slots=True)
class Totals:
    """The ledger, and the numbers of stored dead letters and quarantined events."""

    appended: int
    """Seq of the newest event. Each event was accepted, requeued or adopted when it got its seq."""
    requeued: int
    delivered: int
    dead_lettered: int
    dropped: int
    adopted: int
    """Number of events that `adopt` appended a second time."""
    dead_letters: int
    dead_letter_bytes: int
    quarantined: int = 0
    """Number of pending events of another machine. Valid after loading."""

    @classmethod
    def of(cls, stored: StoredTotals, dead_letter_bytes: int) -> Totals:
        return cls(*stored, dead_letter_bytes)

    @property
    def pending(self) -> int:
        return self.appended - self.adopted - self.delivered - self.dead_lettered - self.dropped

    @property
    def queued(self) -> int:
        """Pending events that are not quarantined."""
        return self.pending - self.quarantined

    def ledger(self) -> Ledger:
        accepted = self.appended - self.adopted - self.requeued
        return Ledger(accepted, self.requeued, self.delivered, self.dead_lettered, self.dropped, self.pending)

    def count_dead_lettered(self, rows: DeadLettered) -> None:
        self.dead_lettered += rows.events
        self.dead_letters += rows.events - rows.discarded
        self.dead_letter_bytes += rows.body_bytes

    def count_removed_letters(self, letters: int, body_bytes: int) -> None:
        """Count dead letters that were requeued or discarded."""
        self.dead_letters -= letters
        self.dead_letter_bytes -= body_bytes

    def count_corrected(self, missing: int) -> None:
        """Count events that a failing disk has removed, or added (`missing` < 0)."""
        if missing > 0:
            self.dead_lettered += missing
        else:
            self.delivered += missing


@dataclass(slots=True, repr=False)
class OutboxState:
    """The state of one open store."""

    limits: OutboxLimits
    time: OutboxTime
    boot: Boot
    dedupe_window: DedupeWindow
    totals: Totals
    log: LogExtent
    space: Space
    phase: LoadingLog | Loaded
    next_request: int
    index: Index
    oldest: Oldest | None = None
    changed: set[int] = field(default_factory=set)
    """Ids of queues whose changes have not been reported to the holder."""

    @classmethod
    def of(cls, opened: Opened, limits: OutboxLimits, clock: Clock) -> OutboxState:
        time = OutboxTime(clock, opened.anchor, opened.last_at_ms)
        state = cls(
            limits,
            time,
            Boot(opened.boot, time.now_ms() if opened.boot_from_ms is None else opened.boot_from_ms),
            opened.dedupe_window,
            Totals.of(opened.totals, opened.dead_letter_bytes),
            LogExtent(opened.first_row, opened.totals.last_seq, search=Search(sweep_from=opened.first_row)),
            opened.space,
            LoadingLog(opened),
            next_request=opened.queues.last_request + 1,
            index=opened.queues.index,
        )
        state.index.reserve(opened.next_queue_id)
        return state

    def __repr__(self) -> str:
        return f"<OutboxState {self.phase!r}: {self.totals.ledger()}>"

    # -- what it contains ----------------------------------------------------------------------------

    @property
    def is_loaded(self) -> bool:
        return isinstance(self.phase, Loaded)

    @property
    def next_seq(self) -> int:
        return self.totals.appended + 1

    def state_of(self, event_id: bytes) -> EventState | None:
        found = self.dedupe_window.find(event_id)
        if found is None:
            return None
        if found.mark == DROPPED:
            return "dropped"
        if found.mark == DEAD:
            return "dead_lettered"
        if self.index.is_pending(found.queue_id, found.seq):
            return "pending"
        unread = isinstance(self.phase, LoadingLog) and self.phase.is_pending(found.queue_id, found.seq)
        return "pending" if unread else "delivered"

    def conflict_of(self, event: Event) -> Conflict | None:
        """Return the conflict if an event with the same id and other bytes is stored."""
        found = self.dedupe_window.find(event.event_id)
        if found is None or found.mark == DROPPED or found.check in (0, event.check):
            return None
        return Conflict(event, self.index.key_of(found.queue_id))

    def range(self, first_seq: int, last_seq: int) -> SeqRange:
        """Return a range of the log with the part of the dedupe window to remember for it."""
        packed = self.dedupe_window.packed(first_seq, last_seq)
        return SeqRange(first_seq, last_seq, *packed, self.totals.appended - self.dedupe_window.window)

    def agrees_with(self, reopened: OutboxState) -> bool:
        """Return whether the reopened store matches this state, after a commit with an unknown outcome."""
        return (
            self.totals.ledger() == reopened.totals.ledger()
            and self.totals.dead_letters == reopened.totals.dead_letters
            and self.index.by_key == reopened.index.by_key
        )

    # -- space ---------------------------------------------------------------------------------------

    def room_bytes(self) -> int:
        """Return by how many bytes appends may increase the used space."""
        return self.limits.space.append_bytes - self.space.used_bytes

    @property
    def is_crowded(self) -> bool:
        """Whether settled rows must be deleted at once to make space."""
        return self.room_bytes() < self.limits.space.append_bytes // 8

    @property
    def needs_cleanup(self) -> bool:
        """Whether there are enough settled rows for a commit that only deletes."""
        return needs_cleanup(self.log.rows, self.totals.pending)

    def deletable(self, body_bytes: int | None) -> DeletionRange | None:
        """Return the rows to delete in a commit that appends `body_bytes`; None: a commit that only deletes."""
        if not self.is_loaded or self.log.rows <= self.totals.pending:
            return None
        now = Circumstances(
            self.next_seq,
            self.totals.pending,
            self.space,
            self.limits.space,
            self.is_crowded,
            self.dedupe_window.window,
            self.index.is_busy,
            self.index.first_row_seq,
        )
        chosen, self.log.search = choose(self.log, now, body_bytes)
        return chosen

    def share_problem(self, room_bytes: int, keys: Iterable[DeviceKey] | None = None) -> str:
        """Return why one of these devices (None: of all) exceeds its fair share, or ""; see `fair_share`."""
        settings, space = self.limits
        if settings.when_full != "reject" or not is_crowded(room_bytes, space.append_bytes):
            return ""
        backlogs: Iterable[Backlog] = self.index
        if keys is not None:
            backlogs = filter(None, map(self.index.backlog, filter(None, map(self.index.by_key.get, keys))))
        used = (body_bytes + _ROW_BYTES * events for _, _, events, body_bytes in backlogs)
        return str(OutboxShareUsed()) if any(over_share(each, room_bytes) for each in used) else ""

    def beyond_max_devices(self, appends: Sequence[Sequence[Event]]) -> dict[int, TooManyDevices]:
        """Return the errors of appends with too many further devices, by index. `appends` share a commit."""
        max_devices = self.limits.settings.max_devices
        free = max_devices - len(self.index.by_key)
        if free >= sum(map(len, appends)):
            return {}
        errors: dict[int, TooManyDevices] = {}
        admitted: set[DeviceKey] = set()
        for at, events in enumerate(appends):
            further = self._further_devices(events) - admitted
            if further and len(further) > free - len(admitted):
                errors[at] = TooManyDevices(min(further), max_devices)
            else:
                admitted |= further
        return errors

    def _further_devices(self, events: Iterable[Event]) -> set[DeviceKey]:
        """Return the devices of the events that have no device queue, except those of duplicates."""
        by_key, known = self.index.by_key, self.dedupe_window.known
        return {event.device_key for event in events if event.device_key not in by_key and event.event_id not in known}

    def dead_letter_limits(self) -> DeadLetterLimits:
        settings, space = self.limits
        return DeadLetterLimits(settings.max_dead_letters, space.dead_letter_bytes, self.time.wall_ms())

    # -- changes, after a commit ---------------------------------------------------------------------

    def configure(self, limits: OutboxLimits) -> None:
        self.limits = limits

    def measure(self, space: Space) -> None:
        self.space = space

    def add_queues(self, queue_ids: Mapping[DeviceKey, int]) -> None:
        for key, queue_id in queue_ids.items():
            self.index.add(queue_id, key)

    def append(
        self, queue_ids: Sequence[int], sizes: Sequence[int], ids: Sequence[bytes], checks: Sequence[int], at_ms: int
    ) -> None:
        """Add new events, given by columns."""
        first_seq = self.next_seq
        if not self.totals.queued:
            self.oldest = Oldest(first_seq, at_ms)
        if isinstance(self.phase, LoadingLog):
            self.phase.append(queue_ids, sizes)
        else:
            self.index.append(range(first_seq, first_seq + len(sizes)), queue_ids, sizes)
        self.dedupe_window.extend(first_seq, ids, queue_ids, checks)
        self._append_rows(queue_ids, len(sizes))

    def requeue(self, queue_ids: Sequence[int], sizes: Sequence[int], ids: Sequence[bytes]) -> None:
        """Add events that were dead letters."""
        self._append_again(queue_ids, sizes, ids)
        self.totals.requeued += len(sizes)
        self.totals.count_removed_letters(len(sizes), sum(sizes))

    def adopt(self, queue_ids: Sequence[int], sizes: Sequence[int], ids: Sequence[bytes]) -> None:
        """Add events that were quarantined, and whose old rows are deleted."""
        self._append_again(queue_ids, sizes, ids)
        self.totals.adopted += len(sizes)
        self.log.rows -= len(sizes)

    def forget_quarantined(self, chosen: Sequence[tuple[int, int]]) -> None:
        """Remove the oldest quarantined events, given by (seq, queue id)."""
        for number, events in Counter(queue_id for _, queue_id in chosen).items():
            self.index.queue(number).forget_quarantined(events)
            self.index.calm(number)
        self.totals.quarantined -= len(chosen)

    def drop_quarantined(self, chosen: Sequence[tuple[int, int]], rows: int) -> None:
        """Remove the oldest quarantined events, of which `rows` still had a row."""
        self.forget_quarantined(chosen)
        for seq, _ in chosen:
            self.dedupe_window.mark(seq, DROPPED)
        self.log.rows -= rows
        self.totals.dropped += rows

    def _append_again(self, queue_ids: Sequence[int], sizes: Sequence[int], ids: Sequence[bytes]) -> None:
        """Add events that have been in the outbox before. Each keeps its check in the dedupe window."""
        self.dedupe_window.extend(self.next_seq, ids, queue_ids)
        self.index.append(range(self.next_seq, self.next_seq + len(sizes)), queue_ids, sizes)
        self._append_rows(queue_ids, len(sizes))

    def _append_rows(self, queue_ids: Sequence[int], events: int) -> None:
        self.totals.appended += events
        self.log.append(events, self.totals.appended)
        self.changed.update(queue_ids)

    def deliver(self, queue_id: int, cursor: int) -> int:
        """Remove the events of a queue up to a seq. Return their number."""
        queue = self.index.queue(queue_id)
        events = queue.count_to(cursor)
        queue.remove(0, events)
        self.index.calm(queue_id)
        self.totals.delivered += events
        self.changed.add(queue_id)
        return events

    def deliver_ahead(self, queue_id: int, seq: int) -> int:
        """Remove an event that was delivered before a pending one of its queue, and whose row is deleted. Return 1."""
        self.index.queue(queue_id).remove_seq(seq)
        self.totals.delivered += 1
        self.log.rows -= 1
        self.changed.add(queue_id)
        return 1

    def dead_letter(self, queue_id: int, seq: int) -> None:
        """Remove an event that has become a dead letter from its queue."""
        self.index.queue(queue_id).remove_seq(seq)
        self.index.calm(queue_id)
        self.dedupe_window.mark(seq, DEAD)
        self.changed.add(queue_id)

    def count_dead_lettered(self, rows: DeadLettered) -> None:
        self.totals.count_dead_lettered(rows)
        self.log.rows -= rows.events

    def drop(self, queue_id: int, after: int, seqs: Sequence[int]) -> None:
        """Remove events of a queue, after its first `after` events."""
        self.index.queue(queue_id).remove(after, len(seqs))
        self.index.calm(queue_id)
        for seq in seqs:
            self.dedupe_window.mark(seq, DROPPED)
        self.totals.dropped += len(seqs)
        self.changed.add(queue_id)

    def delete(self, seq_range: DeletionRange, deleted: Deleted) -> None:
        self.log.delete(seq_range, deleted, self.next_seq)

    def begin_request(self) -> None:
        self.next_request += 1

    def observe_oldest(self, seq: int, at_ms: int | None) -> None:
        if at_ms is not None:
            self.oldest = Oldest(seq, at_ms)

    def take_changed(self) -> set[int]:
        """Return the ids of the queues that have changed since the last call."""
        changed, self.changed = self.changed, set()
        return changed

    # -- loading -------------------------------------------------------------------------------------

    def load(self, chunk: LogChunk) -> None:
        """Add a loaded chunk of the log. Call `finish_loading` after the last chunk."""
        assert isinstance(self.phase, LoadingLog), self.phase
        self.phase.add(chunk)
        self.log.rows += len(chunk.seqs)

    def missing(self) -> int:
        """Return the number of events that are pending by the ledger and missing from the loaded log."""
        assert isinstance(self.phase, LoadingLog), self.phase
        return self.totals.pending - self.phase.pending

    def finish_loading(self, *, restores_requests: bool) -> RestoredState:
        """Add the loaded events. `restores_requests`: whether the requests of the journal are in flight."""
        assert isinstance(self.phase, LoadingLog), self.phase
        restored = self.phase.finish(restores_requests=restores_requests)
        self.totals.quarantined = self.index.quarantined()
        self.phase = Loaded()
        return restored

    def inherit(self, old: OutboxState) -> None:
        """Keep the events in flight, and reuse no queue id while this process runs."""
        self.index.reserve(old.index.next_queue_id)
        for number, queue in old.index.in_flight().items():
            if (found := self.index.find(number)) is not None:
                found.inherit(queue)

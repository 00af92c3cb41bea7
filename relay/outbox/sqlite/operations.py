"""The calls of the outbox as parts of a commit.

Each class plans the steps of one call, and changes the state after the commit. The rules are those
of `commit_plan`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial

from relay.outbox import Claimed, ClaimPart, DropReason, Settled
from relay.outbox.engine.dedupe_window import DEAD, DROPPED
from relay.outbox.sqlite import loading, statements
from relay.outbox.sqlite.commit_plan import QUEUE_PAGES, Draft, Op
from relay.outbox.sqlite.outbox_state import DeletionRange, OutboxState
from relay.outbox.sqlite.statements import ClaimedRows, DeadEvent, DeadLettered, Move, Reclaimed, Wanted
from relay.outbox.sqlite.transaction import Step
from relay.runtime.metrics import Metrics


class Claim(Op[Sequence[Claimed]]):
    """Journal one request, and read its events, see Outbox.claim."""

    patient = True

    def __init__(self, parts: Sequence[ClaimPart], true_ms: int | None, promised: set[int], metrics: Metrics) -> None:
        super().__init__()
        self._parts = parts
        self._true_ms = true_ms
        self._promised = promised
        self._metrics = metrics

    @property
    def pages(self) -> int | None:
        return QUEUE_PAGES * len(self._parts)

    def plan(self, draft: Draft) -> bool:
        state = draft.state
        if any(part.queue_id in draft.unclear for part in self._parts):
            return False
        shift_ms = 0 if self._true_ms is None else self._true_ms - draft.now_ms
        wanted = []
        for queue_id, events, window in self._parts:
            skip = draft.skipped.get(queue_id, 0)
            queue = state.index.queues.get(queue_id)
            if queue is None:  # it was lost with a broken file
                wanted.append(Wanted(queue_id, array("Q"), array("I"), window, 0))
                continue
            busy = queue.in_flight is not None and not skip and queue_id not in self._promised
            assert not busy, f"queue {queue_id} is in flight already"
            sent_ms = None if skip else queue.shift_ms
            shift = shift_ms if sent_ms is None else sent_ms
            wanted.append(Wanted(queue_id, queue.seqs(events, skip), queue.sizes(events, skip), window, shift))
        step = partial(
            statements.claim,
            request=draft.next_request,
            boot=state.boot,
            boot_from_ms=state.boot_from_ms,
            wanted=wanted,
            dead_letter_limits=state.dead_letter_limits(draft.clock),
        )
        draft.next_request += 1
        draft.unclear.update(part.queue_id for part in self._parts)
        draft.add(self, step)
        return True

    def apply(self, state: OutboxState, result: tuple[list[ClaimedRows], DeadLettered]) -> Sequence[Claimed]:
        read, dead_lettered_rows = result
        state.next_request += 1
        count_dead_lettered(state, dead_lettered_rows, ["corrupt"] * dead_lettered_rows.events, self._metrics)
        claimed = []
        for (number, _, _), part in zip(self._parts, read, strict=True):
            for seq in part.corrupt:
                _remove_dead(state, number, seq)
            if number in state.index.queues:
                state.index.queues[number].in_flight = part.seqs if part.seqs else None
                state.index.queues[number].shift_ms = part.shift_ms if part.seqs else None
            self._promised.discard(number)
            claimed.append(Claimed(number, part.bodies, part.timestamps))
        return claimed


class Settle(Op[None]):
    """Record the outcome of claimed events, see Outbox.settle."""

    patient = True

    def __init__(self, settled: Sequence[Settled], promised: set[int], metrics: Metrics) -> None:
        super().__init__()
        self._settled = settled
        self._promised = promised
        self._metrics = metrics
        self._moves: list[Move] = []
        self._dead_events: list[DeadEvent] = []

    @property
    def pages(self) -> int | None:
        return None if self._dead_events else QUEUE_PAGES * len(self._settled)

    def plan(self, draft: Draft) -> bool:
        state = draft.state
        if any(each.queue_id in draft.unclear for each in self._settled):
            return False
        for number, delivered, dead, window in self._settled:
            queue = state.index.queues.get(number)
            if queue is None:  # it was lost with a broken file
                continue
            seqs = queue.in_flight if queue.in_flight is not None else array("Q")
            assert seqs or not (delivered or dead), f"queue {number} has no events in flight"
            # After a failed commit the file may contain this settle already.
            dead_events = [DeadEvent(seqs[at], number, why) for at, why in dead.items() if seqs[at] in queue]
            here = len(seqs) if queue.seqs(len(seqs)) == seqs else sum(seq in queue for seq in seqs)
            self._dead_events += dead_events
            cursor, done = (seqs[-1], here - len(dead_events)) if delivered else (0, 0)
            self._moves.append(Move(cursor, done, window, state.boot, number))
            if delivered and here == len(seqs):
                draft.skipped[number] = len(seqs)
            else:
                draft.unclear.add(number)
        dead_letter_limits = state.dead_letter_limits(draft.clock)
        draft.add(
            self,
            partial(
                statements.settle,
                moves=self._moves,
                dead_events=self._dead_events,
                dead_letter_limits=dead_letter_limits,
            ),
        )
        return True

    def apply(self, state: OutboxState, result: DeadLettered) -> None:
        count_dead_lettered(state, result, [dead_event.dead.reason for dead_event in self._dead_events], self._metrics)
        for dead_event in self._dead_events:
            _remove_dead(state, dead_event.queue_id, dead_event.seq)
        for cursor, delivered, _, _, number in self._moves:
            queue = state.index.queues[number]
            queue.in_flight = queue.shift_ms = None
            self._promised.discard(number)
            if cursor:
                events = queue.count_to(cursor)
                assert events == delivered
                queue.remove(0, events)
                state.delivered += events
                self._metrics.events_delivered.inc(events)
                state.changed.add(number)


class Forget(Op[None]):
    """Delete idle device queues, see Outbox.forget."""

    def __init__(self, queue_ids: Sequence[int]) -> None:
        super().__init__()
        self._queues = queue_ids
        self._idle: list[int] = []

    def plan(self, draft: Draft) -> bool:
        if draft.unclear.intersection(self._queues):
            return False
        queues, appended_to = draft.state.index.queues, draft.appended_to()
        self._idle = [
            number
            for number in self._queues
            if (queue := queues.get(number)) is not None
            and not len(queue)
            and not queue.quarantined
            and queue.in_flight is None
            and number not in appended_to
        ]
        draft.unclear.update(self._idle)
        draft.add(self, partial(statements.forget, queue_ids=self._idle, next_queue_id=draft.state.next_queue_id))
        return True

    def apply(self, state: OutboxState, result: None) -> None:
        for number in self._idle:
            state.index.forget(number)


class Drop(Op[int]):
    """Drop the pending events of a range of seqs, except events in flight."""

    def __init__(self, reason: DropReason, first_seq: int, last_seq: int, metrics: Metrics) -> None:
        super().__init__()
        self._reason = reason
        self._first = first_seq
        self._last = last_seq
        self._metrics = metrics
        self._from: list[tuple[int, int, array[int]]] = []
        """For each queue: its id, the number of its pending events before the range, and the seqs to drop."""
        self._kept: list[int] = []

    def plan(self, draft: Draft) -> bool:
        state = draft.state
        if draft.unclear or draft.skipped:
            return False
        for number, queue in state.index.queues.items():
            in_flight = queue.in_flight if queue.in_flight is not None else array("Q")
            self._kept += [seq for seq in in_flight if self._first <= seq <= self._last]
            events = queue.count_to(self._last) - len(in_flight)
            if events > 0:
                self._from.append((number, len(in_flight), queue.seqs(events, len(in_flight))))
        seq_range = state.range(self._first, self._last)
        marks = bytearray(seq_range.marks)
        for _, _, seqs in self._from:
            for seq in seqs:
                if seq >= seq_range.kept_from_seq:
                    marks[seq - seq_range.kept_from_seq] = DROPPED
        draft.unclear.update(number for number, _, _ in self._from)
        draft.add_before(
            self,
            partial(
                statements.drop,
                seq_range=seq_range._replace(marks=bytes(marks)),
                events=sum(len(seqs) for _, _, seqs in self._from),
                in_flight=self._kept,
                quarantined=state.quarantined > 0,
            ),
        )
        return True

    def apply(self, state: OutboxState, result: int) -> int:
        events = 0
        for number, before, seqs in self._from:
            state.index.queues[number].remove(before, len(seqs))
            state.changed.add(number)
            events += len(seqs)
            for seq in seqs:
                state.dedupe_window.mark(seq, DROPPED)
        state.dropped += events
        self._metrics.events_dropped.labels(self._reason).inc(events)
        first_left = state.first_row
        if self._first <= state.first_row and not state.quarantined:
            first_left = min(self._kept, default=self._last + 1)
        state.reclaimed(DeletionRange(self._first, self._last, "front"), Reclaimed(result, first_left, state.last_row))
        return events


class Reclaim(Op[None]):
    """Delete settled rows, see OutboxState.reclaimable."""

    def __init__(self, seq_range: DeletionRange) -> None:
        super().__init__()
        self._stretch = seq_range

    def plan(self, draft: Draft) -> bool:
        first_seq, last_seq, kind = self._stretch
        state = draft.state
        self.is_expensive = kind in ("front", "holes") and state.pending > 0
        seq_range, pages = state.range(first_seq, last_seq), state.limits.reclaim_pages
        draft.add_before(self, partial(statements.reclaim, seq_range=seq_range, kind=kind, pages=pages))
        return True

    def apply(self, state: OutboxState, result: Reclaimed) -> None:
        state.reclaimed(self._stretch, result)


class Vacuum(Op[None]):
    """Remove free pages from the file."""

    def __init__(self) -> None:
        super().__init__()
        self._pages_before = 0

    def plan(self, draft: Draft) -> bool:
        self._pages_before = draft.state.pages
        draft.add(self, partial(statements.vacuum, pages=draft.state.limits.vacuum_pages))
        return True

    def apply(self, state: OutboxState, result: None) -> None:
        if state.pages >= self._pages_before:
            state.vacuum_useless_at = state.pages


class SaveOutboxTime(Op[None]):
    """Store the readings of the clocks, see relay.outbox.engine.outbox_clock."""

    def __init__(self, clean: bool = False) -> None:
        super().__init__()
        self._clean = clean

    def plan(self, draft: Draft) -> bool:
        draft.add(self, self.step(draft.state))
        return True

    def step(self, state: OutboxState) -> Step:
        boot = (state.boot, state.boot_from_ms)
        return partial(statements.anchor, now=state.time.anchor(), boot=boot, clean=self._clean)

    def apply(self, state: OutboxState, result: None) -> None:
        """Change nothing: only a restart reads the values."""


class Reconcile(Op[None]):
    """Balance the ledger with a log that a failing disk has changed.

    Missing events are counted as dead-lettered, although there is no dead letter of them. Events
    that reappeared (`missing` < 0) are counted as not delivered.
    """

    def __init__(self, missing: int, metrics: Metrics) -> None:
        super().__init__()
        self._missing = missing
        self._metrics = metrics

    def plan(self, draft: Draft) -> bool:
        draft.add(self, partial(statements.reconcile, missing=self._missing))
        return True

    def apply(self, state: OutboxState, result: None) -> None:
        if self._missing > 0:
            state.dead_lettered += self._missing
            self._metrics.events_dead_lettered.labels("corrupt").inc(self._missing)
        else:
            state.delivered += self._missing


class FindOlder(Op[int | None]):
    """Find the last seq of the rows from `first_seq` on that are all older, among a few thousand rows."""

    def __init__(self, first_seq: int, before_ms: int) -> None:
        super().__init__()
        self._first = first_seq
        self._before_ms = before_ms

    def plan(self, draft: Draft) -> bool:
        draft.add(self, partial(loading.last_older, first_seq=self._first, before_ms=self._before_ms))
        return True

    def apply(self, state: OutboxState, result: int | None) -> int | None:
        return result


class FindOldest(Op[None]):
    """Read when the oldest pending event was appended."""

    def __init__(self, seq: int) -> None:
        super().__init__()
        self._seq = seq

    def plan(self, draft: Draft) -> bool:
        draft.add(self, partial(loading.read_at_ms, seq=self._seq))
        return True

    def apply(self, state: OutboxState, result: int | None) -> None:
        if result is not None:
            state.oldest_seq, state.oldest_at_ms = self._seq, result


def count_dead_lettered(
    state: OutboxState, dead_lettered_rows: DeadLettered, reasons: Sequence[str], metrics: Metrics
) -> None:
    state.dead_lettered_rows(dead_lettered_rows)
    metrics.dead_letters_discarded.inc(dead_lettered_rows.discarded)
    for reason in reasons:
        metrics.events_dead_lettered.labels(reason).inc()


def _remove_dead(state: OutboxState, number: int, seq: int) -> None:
    """Remove an event that has become a dead letter from its queue."""
    state.index.queues[number].remove_seq(seq)
    state.dedupe_window.mark(seq, DEAD)
    state.changed.add(number)

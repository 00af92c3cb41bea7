"""The calls of the outbox as parts of a commit.

Each class plans the command of one call, and changes the state after the commit. The rules are those of `commit_plan`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, TypeVar

from relay.event.reader import DeviceKey
from relay.outbox import NOTHING_OMITTED, Claimed, ClaimPart, Dead, DropReason, Settled
from relay.outbox.engine import commands as c
from relay.outbox.engine.commit_plan import Draft, Op
from relay.outbox.engine.dedupe_window import DROPPED
from relay.outbox.engine.deletion import DeletionRange
from relay.outbox.engine.outbox_state import OutboxState
from relay.outbox.engine.stored_queue import Flight, packed
from relay.runtime.metrics import Metrics

T = TypeVar("T")

REPORTED_AT_ONCE = 256
"""Dropped events of one commit whose types the followers receive: reading 256 bodies takes at most 16 MiB."""


class Execute(Op[T]):
    """Execute one command that needs no plan. `apply` changes the state, and returns the result of the call."""

    def __init__(self, command: c.Command, apply: Callable[[OutboxState, Any], T] = lambda _, result: result) -> None:
        super().__init__()
        self._command = command
        self._apply = apply

    def plan(self, draft: Draft) -> bool:
        draft.add(self, self._command)
        return True

    def apply(self, state: OutboxState, result: Any) -> T:
        return self._apply(state, result)


class Claim(Op[Sequence[Claimed]]):
    """Journal one request, and read its events, see Outbox.claim."""

    patient = True

    def __init__(self, parts: Sequence[ClaimPart], true_ms: int | None, metrics: Metrics) -> None:
        super().__init__()
        self._parts = parts
        self._true_ms = true_ms
        self._metrics = metrics
        self._omitted: dict[int, Mapping[int, Dead | None]] = {}
        """By index in `parts`."""

    def plan(self, draft: Draft) -> bool:
        state = draft.state
        if any(part.queue_id in draft.unclear for part in self._parts):
            return False
        shift_ms = 0 if self._true_ms is None else self._true_ms - draft.now_ms
        wanted = []
        for at, (queue_id, events, window, _) in enumerate(self._parts):
            skip = draft.skipped.get(queue_id, 0)
            queue = state.index.find(queue_id)
            if queue is None:  # it was lost with a broken store
                wanted.append(c.WantedEvents(queue_id, array("Q"), array("I"), window, 0))
                continue
            busy = queue.in_flight is not None and not skip and not queue.is_restored
            assert not busy, f"queue {queue_id} is in flight already"
            sent_ms = None if skip else queue.shift_ms
            shift = shift_ms if sent_ms is None else sent_ms
            seqs, sizes = queue.seqs(events, skip), queue.sizes(events, skip)
            if self._parts[at].omitted:
                wanted.append(self._without_omitted(at, seqs, sizes, shift))
            else:
                wanted.append(c.WantedEvents(queue_id, seqs, sizes, window, shift))
        draft.unclear.update(part.queue_id for part in self._parts)
        draft.add(self, c.ClaimEvents(draft.take_request(), *state.boot, wanted, state.dead_letter_limits()))
        return True

    def _without_omitted(self, at: int, seqs: array[int], sizes: array[int], shift_ms: int) -> c.WantedEvents:
        """Plan a part that omits events, and record which ones it omits."""
        queue_id, _, window, omitted = self._parts[at]
        here = self._omitted[at] = {seq: omitted[seq] for seq in seqs if seq in omitted}
        kept = [(seq, size) for seq, size in zip(seqs, sizes, strict=True) if seq not in here]
        columns = array("Q", [seq for seq, _ in kept]), array("I", [size for _, size in kept])
        return c.WantedEvents(queue_id, *columns, window, shift_ms, list(here), packed(here))

    def apply(self, state: OutboxState, result: c.ClaimedEvents) -> Sequence[Claimed]:
        state.begin_request()
        if corrupt := result.dead_lettered.events:
            count_dead_lettered(state, result.dead_lettered, ["corrupt"] * corrupt, self._metrics)
        claimed = []
        for at, ((number, _, _, _), part) in enumerate(zip(self._parts, result.rows, strict=True)):
            for seq in part.corrupt:
                state.dead_letter(number, seq)
            if (queue := state.index.find(number)) is not None:
                omitted = self._omitted.get(at, NOTHING_OMITTED)
                seqs = array("Q", sorted((*part.seqs, *omitted))) if omitted else part.seqs
                queue.claim(Flight(seqs, omitted), part.shift_ms)
                state.index.calm(number)
            claimed.append(Claimed(number, part.bodies, part.seqs, part.timestamps))
        return claimed


class Settle(Op[None]):
    """Record the outcome of claimed events, see Outbox.settle."""

    patient = True

    def __init__(self, settled: Sequence[Settled], metrics: Metrics) -> None:
        super().__init__()
        self._settled = settled
        self._metrics = metrics
        self._moves: list[c.QueueMove] = []
        self._dead_events: list[c.DeadEvent] = []
        self._ahead: list[tuple[int, int]] = []
        """(Queue id, seq) of events that were delivered before a pending event of their queue."""

    def plan(self, draft: Draft) -> bool:
        state = draft.state
        if any(each.queue_id in draft.unclear for each in self._settled):
            return False
        for number, delivered, dead, window in self._settled:
            queue = state.index.find(number)
            if queue is None:  # it was lost with a broken store
                continue
            flight = queue.in_flight if queue.in_flight is not None else Flight(array("Q"))
            seqs, sent = flight.seqs, flight.sent
            assert seqs or not (delivered or dead), f"queue {number} has no events in flight"
            why_dead = {sent[at]: why for at, why in dead.items()}
            if delivered:
                why_dead |= {seq: why for seq, why in flight.omitted.items() if why is not None}
            # After a failed commit the store may contain this settle already.
            dead_events = [c.DeadEvent(seq, number, why) for seq, why in why_dead.items() if seq in queue]
            here = len(seqs) if queue.seqs(len(seqs)) == seqs else sum(seq in queue for seq in seqs)
            self._dead_events += dead_events
            cursor, done = (seqs[-1], here - len(dead_events)) if delivered else (0, 0)
            staying = [seq for seq in flight.omitted if seq not in why_dead and seq in queue] if delivered else []
            if staying:
                first, done = min(staying), done - len(staying)
                cursor = max((seq for seq in seqs if seq < first), default=0)
                self._ahead += [(number, seq) for seq in sent if seq > first and seq not in why_dead and seq in queue]
            self._moves.append(c.QueueMove(cursor, done, window, state.boot.number, number))
            if delivered and here == len(seqs) and not staying:
                draft.skipped[number] = len(seqs)
            else:
                draft.unclear.add(number)
        ahead = [seq for _, seq in self._ahead]
        draft.add(self, c.SettleEvents(self._moves, self._dead_events, state.dead_letter_limits(), ahead))
        return True

    def apply(self, state: OutboxState, result: c.DeadLettered) -> None:
        if self._dead_events:
            reasons = [dead_event.dead.reason for dead_event in self._dead_events]
            count_dead_lettered(state, result, reasons, self._metrics)
        for dead_event in self._dead_events:
            state.dead_letter(dead_event.queue_id, dead_event.seq)
        events = sum(state.deliver_ahead(queue_id, seq) for queue_id, seq in self._ahead)
        for move in self._moves:
            state.index.queue(move.queue_id).release()
            if move.cursor:
                events += state.deliver(move.queue_id, move.cursor)
            state.index.calm(move.queue_id)
        assert events == sum(move.delivered for move in self._moves)
        self._metrics.events_delivered.inc(events)


class Forget(Op[None]):
    """Delete idle device queues, see Outbox.forget."""

    def __init__(self, queue_ids: Sequence[int]) -> None:
        super().__init__()
        self._queues = queue_ids
        self._idle: list[int] = []

    def plan(self, draft: Draft) -> bool:
        if draft.unclear.intersection(self._queues):
            return False
        index, appended_to = draft.state.index, draft.appended_to()
        self._idle = [
            number for number in dict.fromkeys(self._queues) if number not in appended_to and index.is_idle(number)
        ]
        draft.unclear.update(self._idle)
        draft.add(self, c.ForgetQueues(self._idle, index.next_queue_id))
        return True

    def apply(self, state: OutboxState, result: None) -> None:
        for number in self._idle:
            state.index.forget(number)


class Drop(Op[int]):
    """Drop the pending events of a range of seqs, except events in flight."""

    def __init__(self, reason: DropReason, first_seq: int, last_seq: int, metrics: Metrics) -> None:
        super().__init__()
        self._reason = reason
        self._range = DeletionRange(first_seq, last_seq, "front")
        self._metrics = metrics
        self._from: list[tuple[int, int, array[int]]] = []
        """For each queue: its id, the number of its pending events before the range, and the seqs to drop."""
        self._kept: list[int] = []

    def plan(self, draft: Draft) -> bool:
        state = draft.state
        if draft.unclear or draft.skipped:
            return False
        first_seq, last_seq, _ = self._range
        for number, in_flight, seqs in state.index.pending_to(last_seq):
            self._kept += [seq for seq in in_flight if first_seq <= seq <= last_seq]
            if seqs:
                self._from.append((number, len(in_flight), seqs))
        seq_range = state.range(first_seq, last_seq)
        marks = bytearray(seq_range.marks)
        for _, _, seqs in self._from:
            for seq in seqs:
                if seq >= seq_range.kept_from_seq:
                    marks[seq - seq_range.kept_from_seq] = DROPPED
        draft.unclear.update(number for number, _, _ in self._from)
        draft.dropped.update(*(seqs for _, _, seqs in self._from))
        events = sum(len(seqs) for _, _, seqs in self._from)
        quarantined = state.totals.quarantined > 0
        reported = reported_of(self._metrics, chain.from_iterable(seqs for _, _, seqs in self._from))
        seq_range = seq_range._replace(marks=bytes(marks))
        draft.add_before(self, c.DropEvents(seq_range, events, self._kept, quarantined, reported))
        return True

    def apply(self, state: OutboxState, result: c.Dropped) -> int:
        events = 0
        for number, before, seqs in self._from:
            state.drop(number, before, seqs)
            events += len(seqs)
        self._metrics.events_dropped.labels(self._reason).inc(events)
        self._metrics.feed.dropped(self._reason, self._dropped(state), result.bodies)
        first_left, last_row = state.log.first_row, state.log.last_row
        if self._range.first_seq <= first_left and not state.totals.quarantined:
            first_left = min(self._kept, default=self._range.last_seq + 1)
        state.delete(self._range, c.Deleted(result.rows, first_left, last_row))
        return events

    def _dropped(self, state: OutboxState) -> Iterator[tuple[bytes, DeviceKey | None]]:
        """Yield the id and the device of each dropped event, b"" for an id that is not in the dedupe window."""
        for number, _, seqs in self._from:
            key = state.index.key_of(number)
            yield from ((state.dedupe_window.packed(seq, seq).ids, key) for seq in seqs)


class Delete(Op[None]):
    """Delete settled rows, see OutboxState.deletable."""

    def __init__(self, seq_range: DeletionRange) -> None:
        super().__init__()
        self._range = seq_range

    def plan(self, draft: Draft) -> bool:
        first_seq, last_seq, kind = self._range
        state = draft.state
        self.is_expensive = kind in ("front", "holes") and state.totals.pending > 0
        max_bytes = state.limits.space.delete_bytes
        draft.add_before(self, c.DeleteSettled(state.range(first_seq, last_seq), kind, max_bytes))
        return True

    def apply(self, state: OutboxState, result: c.Deleted) -> None:
        state.delete(self._range, result)


def correct(missing: int, metrics: Metrics) -> Op[None]:
    """Return the call that balances the ledger with a log that a failing disk has changed.

    Missing events are counted as dead-lettered, although there is no dead letter of them. Events that reappeared
    (`missing` < 0) are counted as not delivered.
    """

    def apply(state: OutboxState, _: None) -> None:
        state.totals.count_corrected(missing)
        metrics.events_dead_lettered.labels("corrupt").inc(max(missing, 0))

    return Execute(c.CorrectLedger(missing), apply)


def find_oldest(seq: int) -> Op[None]:
    """Return the call that reads when the oldest pending event was appended."""
    return Execute(c.ReadAppendTime(seq), lambda state, at_ms: state.observe_oldest(seq, at_ms))


def save_clocks(state: OutboxState, *, is_clean: bool = False) -> c.SaveClocks:
    """Return the command that stores the readings of the clocks. Only a restart reads them."""
    return c.SaveClocks(state.time.anchor(), *state.boot, is_clean)


def shrink(state: OutboxState) -> Op[Any]:
    return Execute(c.Shrink(state.limits.space.shrink_bytes))


def reported_of(metrics: Metrics, dropped_seqs: Iterable[int]) -> Sequence[int]:
    """Return the seqs of the first dropped events, whose bodies the followers receive."""
    return list(islice(dropped_seqs, REPORTED_AT_ONCE)) if metrics.feed.is_followed else ()


def count_dead_lettered(
    state: OutboxState, dead_lettered: c.DeadLettered, reasons: Sequence[str], metrics: Metrics
) -> None:
    state.count_dead_lettered(dead_lettered)
    metrics.dead_letters_discarded.inc(dead_lettered.discarded)
    for reason in reasons:
        metrics.events_dead_lettered.labels(reason).inc()

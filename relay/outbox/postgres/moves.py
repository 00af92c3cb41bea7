"""The calls of the forwarder as parts of a forward transaction.

Rules: planning changes only the draft. A call whose queues are part of an earlier call of the same draft waits for the
next transaction.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from relay.event.reader import DeviceKey
from relay.outbox import Claimed, ClaimPart, Dead, DropReason, Settled, Timestamp
from relay.outbox.engine.checksum import has_inserted_time
from relay.outbox.engine.operations import reported_of
from relay.outbox.engine.stored_queue import Flight, packed
from relay.outbox.postgres.database import (
    DeadRow,
    EndedRequest,
    ForwardTotals,
    Journal,
    Mark,
    Move,
    Moved,
    SettledQueue,
    group_of,
)
from relay.outbox.postgres.queues import HeldQueue
from relay.outbox.postgres.state import ReplicaState
from relay.runtime.clock import Clock
from relay.runtime.metrics import Metrics

T = TypeVar("T")

_MANY_CURSORS = 16
"""With more cursors in a device queue, those of removed replicas are removed."""


class MoveDraft:
    """The plan of the next forward transaction."""

    def __init__(self, state: ReplicaState, clock: Clock, number: int) -> None:
        self.state = state
        self.clock = clock
        self.calls: list[MoveCall[Any]] = []
        self.queue_ids: set[int] = set()
        self.totals = state.moved
        self.journals: list[Journal] = []
        self.settled: list[SettledQueue] = []
        self.dead_rows: list[DeadRow] = []
        self.marks: list[Mark] = []
        self.reads: dict[int, int | None] = {}
        self.forgotten: list[int] = []
        self.ended: list[EndedRequest] = []
        self._number = number

    def __repr__(self) -> str:
        return f"<MoveDraft {self._number}: {self.calls}>"

    def add(self, call: MoveCall[Any]) -> bool:
        """Plan a call. Return False if it has to wait for the next transaction."""
        if self.queue_ids.intersection(call.queue_ids):
            return False
        self.queue_ids.update(call.queue_ids)
        call.plan(self)
        self.calls.append(call)
        for queue_id in call.queue_ids:
            if queue_id in self.state.queues:
                self.state.queues[queue_id].is_busy = True
        return True

    def count(self, delivered: int = 0, dead_lettered: int = 0, dropped: int = 0, duplicates: int = 0) -> None:
        added = (delivered, dead_lettered, dropped, duplicates)
        self.totals = ForwardTotals(*(total + more for total, more in zip(self.totals, added, strict=True)))

    def move(self) -> Move:
        settings = self.state.settings
        return Move(
            self._number,
            self.totals,
            self.clock.wall_ms(),
            settings.max_dead_letters,
            settings.max_size_bytes // 4,
            self.journals,
            self.settled,
            self.dead_rows,
            self.marks,
            self.reads,
            self.forgotten,
            self.ended,
        )

    def apply(self, moved: Moved) -> None:
        """Change the state after the commit, and set the results of the calls."""
        self.state.moved = self.totals
        self.state.commits.mark(self.marks)
        if moved.letters is not None:
            self.state.count_letters(moved.letters)
        for call in self.calls:
            result = call.apply(self.state, moved)
            if not call.result.done():
                call.result.set_result(result)
        self._end()

    def fail(self, error: Exception) -> None:
        for call in self.calls:
            if not call.result.done():
                call.result.set_exception(error)
        self._end()

    def _end(self) -> None:
        for queue_id in self.queue_ids & self.state.queues.keys():
            self.state.queues[queue_id].is_busy = False


class MoveCall(ABC, Generic[T]):
    """A call that waits for its transaction."""

    def __init__(self, queue_ids: Sequence[int]) -> None:
        self.queue_ids = queue_ids
        self.result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    @abstractmethod
    def plan(self, draft: MoveDraft) -> None: ...

    @abstractmethod
    def apply(self, state: ReplicaState, moved: Moved) -> T: ...


class ClaimCall(MoveCall[Sequence[Claimed]]):
    """Journal one request, and read its events. `corrupt` contains the seqs that must become dead letters."""

    def __init__(self, parts: Sequence[ClaimPart], true_ms: int | None, request: int) -> None:
        super().__init__([part.queue_id for part in parts])
        self._parts = parts
        self._true_ms = true_ms
        self._request = request
        self._seqs: dict[int, array[int]] = {}
        self._shifts: dict[int, int] = {}
        self._omitted: dict[int, dict[int, Dead | None]] = {}
        self.corrupt: dict[int, list[int]] = {}
        """By queue id."""

    def plan(self, draft: MoveDraft) -> None:
        state = draft.state
        shift_ms = 0 if self._true_ms is None else self._true_ms - state.now_ms()
        for ordinal, (queue_id, events, window, omitted) in enumerate(self._parts):
            queue = state.queues.get(queue_id)
            if queue is None or not len(queue):
                continue
            seqs = self._seqs[queue_id] = queue.front(min(events, len(queue)))
            shift = self._shifts[queue_id] = shift_ms if queue.shift_ms is None else queue.shift_ms
            flight = state.commits.last_seqs(seqs)
            now = draft.clock.monotonic_ms()
            here = self._omitted[queue_id] = {seq: omitted[seq] for seq in seqs if seq in omitted}
            entry = (self._request, ordinal, flight, shift, packed(here))
            draft.journals.append(Journal(queue_id, window, now, *entry))
            draft.reads |= {seq: state.commits.row_of(seq).segment for seq in seqs if seq not in here}

    def apply(self, state: ReplicaState, moved: Moved) -> Sequence[Claimed]:
        claimed = []
        for queue_id, *_ in self._parts:
            queue = state.queues.get(queue_id)
            good: list[tuple[int, bool, bytes]] = []
            omitted = self._omitted.get(queue_id, {})
            for seq in self._seqs.get(queue_id, ()):
                if seq in omitted:
                    continue
                crc, body = moved.bodies.get(seq, (0, b""))
                mark = has_inserted_time(body, crc) if seq in moved.bodies else None
                if mark is None:
                    self.corrupt.setdefault(queue_id, []).append(seq)
                else:
                    good.append((seq, mark, body))
            shift = self._shifts.get(queue_id, 0)
            if queue is not None:
                seqs = array("Q", sorted((*omitted, *(seq for seq, _, _ in good))))
                queue.claim(Flight(seqs, omitted), shift)
            timestamps = {at: _timestamp(state, seq, shift) for at, (seq, mark, _) in enumerate(good) if mark and shift}
            claimed.append(Claimed(queue_id, [body for *_, body in good], [seq for seq, *_ in good], timestamps))
        return claimed


def _timestamp(state: ReplicaState, seq: int, shift_ms: int) -> Timestamp:
    row = state.commits.row_of(seq)
    return Timestamp(row.at_ms + shift_ms, not row.is_requeue and row.at_ms >= state.boot_from_ms)


class SettleCall(MoveCall[None]):
    """Record the outcome of claimed events."""

    def __init__(self, settled: Sequence[Settled], metrics: Metrics) -> None:
        super().__init__([each.queue_id for each in settled])
        self._settled = settled
        self._metrics = metrics
        self._dead: dict[int, dict[int, Dead]] = {}
        self._delivered: dict[int, list[int]] = {}
        self._cursors: dict[int, dict[int, int]] = {}

    def plan(self, draft: MoveDraft) -> None:
        state = draft.state
        for queue_id, delivered, dead, window in self._settled:
            queue = state.queues.get(queue_id)
            if queue is None:
                continue
            flight = queue.in_flight or Flight(array("Q"))
            sent = flight.sent
            why_dead = self._dead[queue_id] = {sent[at]: why for at, why in dead.items()}
            done = self._delivered[queue_id] = list[int]()
            cursors: dict[int, int] = {}
            if delivered:
                why_dead |= {seq: why for seq, why in flight.omitted.items() if why is not None}
                done += [seq for seq in sent if seq not in why_dead]
                if all(seq in why_dead for seq in flight.omitted):
                    cursors = state.commits.last_seqs(flight.seqs)
                else:  # An event before them stays pending.
                    draft.marks += [Mark(seq, queue_id, "delivered") for seq in done]
            bury(draft, queue_id, why_dead)
            draft.count(delivered=len(done))
            self._cursors[queue_id] = cursors
            has_many = len(queue.cursors) > _MANY_CURSORS
            draft.settled.append(SettledQueue(queue_id, cursors, window, draft.clock.monotonic_ms(), has_many))

    def apply(self, state: ReplicaState, moved: Moved) -> None:
        for queue_id, *_ in self._settled:
            queue = state.queues.get(queue_id)
            if queue is None:
                continue
            queue.advance(self._cursors[queue_id])
            queue.release()
            done, why_dead = self._delivered[queue_id], self._dead[queue_id]
            queue.remove([*done, *why_dead])
            self._metrics.events_delivered.inc(len(done))
            for why in why_dead.values():
                self._metrics.events_dead_lettered.labels(why.reason).inc()
            state.changed.add(queue_id)
        self._metrics.dead_letters_discarded.inc(moved.discarded)


class BuryCall(MoveCall[None]):
    """Move corrupt events of a request to the dead letters. Without other events, nothing is in flight."""

    def __init__(self, corrupt: Mapping[int, Sequence[int]], windows: Mapping[int, bytes], metrics: Metrics) -> None:
        super().__init__(list(corrupt))
        self._corrupt = corrupt
        self._windows = windows
        self._metrics = metrics

    def plan(self, draft: MoveDraft) -> None:
        why = Dead("corrupt", None, "checksum does not match")
        # A queue that was released meanwhile is the next holder's.
        self._corrupt = {number: seqs for number, seqs in self._corrupt.items() if number in draft.state.queues}
        for queue_id, seqs in self._corrupt.items():
            bury(draft, queue_id, dict.fromkeys(seqs, why))
            queue = draft.state.queues[queue_id]
            if queue.in_flight is None:
                now = draft.clock.monotonic_ms()
                draft.settled.append(SettledQueue(queue_id, {}, self._windows[queue_id], now, False))

    def apply(self, state: ReplicaState, moved: Moved) -> None:
        for queue_id, seqs in self._corrupt.items():
            state.queues[queue_id].remove(seqs)
            state.changed.add(queue_id)
            self._metrics.events_dead_lettered.labels("corrupt").inc(len(seqs))
        self._metrics.dead_letters_discarded.inc(moved.discarded)


class RemoveCall(MoveCall[int]):
    """Remove pending events that are not in flight: dropped events, or duplicates (`reason` is None)."""

    def __init__(self, marks: Sequence[Mark], reason: DropReason | None, metrics: Metrics) -> None:
        super().__init__(list({mark.queue_id for mark in marks}))
        self._marks = marks
        self._reason = reason
        self._metrics = metrics

    def plan(self, draft: MoveDraft) -> None:
        is_drop = self._reason is not None
        state = draft.state
        self._marks = [mark for mark in self._marks if group_of(mark.queue_id) in state.groups]
        if is_drop:  # Meanwhile events may have been claimed or settled.
            removable = {
                seq
                for number in self.queue_ids
                if number in state.queues
                for seq, _ in state.queues[number].droppable()
            }
            self._marks = [mark for mark in self._marks if mark.seq in removable]
        draft.marks += self._marks
        if is_drop:
            reported = reported_of(self._metrics, [mark.seq for mark in self._marks])
            draft.reads |= {seq: state.commits.row_of(seq).segment for seq in reported}
        draft.count(dropped=len(self._marks) * is_drop, duplicates=len(self._marks) * (not is_drop))

    def apply(self, state: ReplicaState, moved: Moved) -> int:
        seqs: dict[int, list[int]] = {}
        for mark in self._marks:
            seqs.setdefault(mark.queue_id, []).append(mark.seq)
        for queue_id, gone in seqs.items():
            if self._reason is not None and queue_id in state.queues:
                state.queues[queue_id].remove(gone)
                state.changed.add(queue_id)
        if self._reason is not None:
            self._metrics.events_dropped.labels(self._reason).inc(len(self._marks))
            bodies = [moved.bodies.get(mark.seq, (0, b""))[1] for mark in self._marks]
            self._metrics.feed.dropped(self._reason, self._dropped(state), bodies)
        return len(self._marks)

    def _dropped(self, state: ReplicaState) -> Iterator[tuple[bytes, DeviceKey | None]]:
        for mark in self._marks:
            key = state.queues[mark.queue_id].key if mark.queue_id in state.queues else None
            yield state.commits.event_id(mark.seq), key


class ForgetCall(MoveCall[None]):
    """Forget device queues without pending events."""

    def plan(self, draft: MoveDraft) -> None:
        queues = draft.state.queues
        self._idle = [each for each in self.queue_ids if each in queues and _is_idle(queues[each])]
        draft.forgotten += self._idle

    def apply(self, state: ReplicaState, moved: Moved) -> None:
        state.forget([queue_id for queue_id in self._idle if _is_idle(state.queues[queue_id])])


class EndCall(MoveCall[None]):
    """Store that an owed request is over."""

    def __init__(self, ended: EndedRequest) -> None:
        super().__init__([ended.queue_id])
        self._ended = ended

    def plan(self, draft: MoveDraft) -> None:
        if group_of(self._ended.queue_id) in draft.state.groups:
            draft.ended.append(self._ended)

    def apply(self, state: ReplicaState, moved: Moved) -> None: ...


def _is_idle(queue: HeldQueue) -> bool:
    return not len(queue) and queue.in_flight is None


def bury(draft: MoveDraft, queue_id: int, dead: Mapping[int, Dead]) -> None:
    """Plan to move events to the dead letters."""
    state = draft.state
    for seq, why in dead.items():
        draft.dead_rows.append(DeadRow(seq, queue_id, state.queues[queue_id].key, state.commits.event_id(seq), why))
        draft.marks.append(Mark(seq, queue_id, "dead"))
    draft.count(dead_lettered=len(dead))

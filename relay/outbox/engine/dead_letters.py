"""The calls for operators as parts of a commit: dead letters, and quarantined events of a cloned installation.

Rules: each call changes a limited number of events. A requeued event gets a new seq and keeps its checksum, so that a
corrupt event is detected again and never sent. Adopting an event does not change the ledger's totals.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from relay.outbox import Selection
from relay.outbox.engine import commands as c
from relay.outbox.engine.commit_plan import Draft, Op
from relay.outbox.engine.operations import Execute, reported_of
from relay.outbox.engine.outbox_state import OutboxState
from relay.runtime.metrics import Metrics

_EVENTS_AT_ONCE = 256
"""Maximum number of dead letters or quarantined events that one commit changes."""


def choose(selection: Selection, limit: int) -> Op[Sequence[c.ChosenLetter]]:
    """Return the call that chooses the dead letters that one commit can requeue."""

    def apply(state: OutboxState, chosen: Sequence[c.ChosenLetter]) -> Sequence[c.ChosenLetter]:
        sums = accumulate(letter.body_bytes for letter in chosen)
        fitting = sum(body_bytes <= state.limits.space.commit_bytes for body_bytes in sums)
        return chosen[: max(fitting, 1)]

    return Execute(c.ChooseDeadLetters(selection, min(limit, _EVENTS_AT_ONCE)), apply)


def discard(selection: Selection, limit: int) -> Op[int]:
    """Return the call that deletes selected dead letters."""

    def apply(state: OutboxState, removed: tuple[int, int]) -> int:
        state.totals.count_removed_letters(*removed)
        return removed[0]

    return Execute(c.DiscardDeadLetters(selection, min(limit, _EVENTS_AT_ONCE)), apply)


class Requeue(Op[int]):
    """Append chosen dead letters to the queues of their devices."""

    def __init__(self, chosen: Sequence[c.ChosenLetter], metrics: Metrics) -> None:
        super().__init__()
        self._chosen = chosen
        self._metrics = metrics
        self._queues: list[int] = []

    def plan(self, draft: Draft) -> bool:
        rejection = draft.beyond_max_devices(chosen.key for chosen in self._chosen)
        if rejection is not None:
            self.reject(rejection)
            return True
        self._queues = [draft.queue_id(chosen.key) for chosen in self._chosen]
        if draft.unclear.intersection(self._queues):
            return False
        wanted = list(zip((chosen.id for chosen in self._chosen), self._queues, strict=True))
        draft.add(self, c.RequeueDeadLetters(wanted, draft.next_seq, draft.now_ms))
        draft.unclear.update(self._queues)
        return True

    def apply(self, state: OutboxState, result: set[int]) -> int:
        """Add the requeued events. `result`: the ids of the dead letters that still existed."""
        moved = [at for at, chosen in enumerate(self._chosen) if chosen.id in result]
        sizes = [self._chosen[at].body_bytes for at in moved]
        state.requeue([self._queues[at] for at in moved], sizes, [self._chosen[at].event_id for at in moved])
        self._metrics.events_requeued.inc(len(moved))
        return len(moved)


class Adopt(Op[int]):
    """Append the oldest quarantined events again, at most `limit`."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = min(limit, _EVENTS_AT_ONCE)
        self._chosen: Sequence[tuple[int, int]] = ()

    def plan(self, draft: Draft) -> bool:
        self._chosen = draft.state.index.first_quarantined(self._limit)
        queues = {queue_id for _, queue_id in self._chosen}
        if draft.unclear & queues:
            return False
        max_bytes = draft.state.limits.space.commit_bytes
        draft.add(self, c.AdoptEvents(self._chosen, draft.next_seq, draft.now_ms, max_bytes))
        draft.unclear.update(queues)
        return True

    def apply(self, state: OutboxState, result: c.AdoptedEvents) -> int:
        state.forget_quarantined(self._chosen[: result.tried])
        _, queue_ids, ids, sizes = zip(*result.events, strict=True) if result.events else ((), (), (), ())
        state.adopt(queue_ids, sizes, ids)
        return result.tried


class DropQuarantined(Op[int]):
    """Drop the oldest quarantined events, at most `limit`."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        super().__init__()
        self._limit = min(limit, _EVENTS_AT_ONCE)
        self._metrics = metrics
        self._chosen: Sequence[tuple[int, int]] = ()

    def plan(self, draft: Draft) -> bool:
        self._chosen = draft.state.index.first_quarantined(self._limit)
        seqs = [seq for seq, _ in self._chosen]
        draft.add(self, c.DiscardQuarantined(seqs, reported_of(self._metrics, seqs)))
        return True

    def apply(self, state: OutboxState, result: c.Dropped) -> int:
        state.drop_quarantined(self._chosen, result.rows)
        self._metrics.events_dropped.labels("discarded").inc(result.rows)
        self._metrics.feed.changed("dropped", filter(None, result.bodies), "discarded")
        return len(self._chosen)

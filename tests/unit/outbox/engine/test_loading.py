"""The phases of the state in memory: LoadingLog, with its progress, and Loaded."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from relay.config import OutboxSettings
from relay.event.reader import DeviceKey
from relay.outbox import ClaimPart, RestoredQueue
from relay.outbox.engine.dedupe_window import DedupeWindow
from relay.outbox.engine.limits import OutboxLimits
from relay.outbox.engine.opened_queues import OpenedQueues, QueueRow
from relay.outbox.engine.outbox_state import OutboxState
from relay.outbox.engine.storage import LogChunk, Opened, Space, SpaceLimits, StoredTotals
from relay.outbox.engine.stored_queue import Flight

from tests.contract.boxes import PHONE, TV, FakeClock

SPACE = SpaceLimits(1 << 20, 0, 1 << 20, 1 << 20, 1 << 20, 4096, 1 << 20, 1 << 20, 4096)


def row(queue_id: int, key: DeviceKey, cursor: int, **journal: Any) -> QueueRow:
    entry = dict.fromkeys(("request", "ordinal", "first_seq", "last_seq")) | journal
    return QueueRow(queue_id, key, cursor, b"window", 1, **entry)


def state_of(*rows: QueueRow) -> OutboxState:
    """Return the state of a store with the events 1 to 6: 1, 3 and 5 of queue 1, the others of queue 2."""
    totals = StoredTotals(6, 0, 1, 0, 0, 0, 0)
    opened = Opened(totals, 3, 0, 1, 0, None, 1, 0, OpenedQueues(1, rows), DedupeWindow(10), Space(0, 0, False))
    return OutboxState.of(opened, OutboxLimits(OutboxSettings(), SPACE), FakeClock())


def chunk(*seqs: int) -> LogChunk:
    queues = [1 if seq % 2 else 2 for seq in seqs]
    return LogChunk(array("q", seqs), array("q", queues), array("q", [10] * len(seqs)), seqs[-1])


def pending(state: OutboxState, queue_id: int) -> list[int]:
    return list(state.index.queue(queue_id).seqs(100))


def test_phase_shows_its_progress_until_everything_is_loaded() -> None:
    state = state_of(row(1, TV, 1), row(2, PHONE, 0))
    assert (repr(state.phase), state.is_loaded) == ("LoadingLog(0 of 6)", False)
    state.load(chunk(1, 2, 3))
    assert (repr(state.phase), state.missing()) == ("LoadingLog(3 of 6)", 3)
    state.load(chunk(4, 5, 6))
    assert state.missing() == 0
    state.finish_loading(restores_requests=True)
    assert (repr(state.phase), state.is_loaded) == ("Loaded", True)
    assert (pending(state, 1), pending(state, 2)) == ([3, 5], [2, 4, 6])


def test_loaded_events_precede_events_that_were_appended_meanwhile() -> None:
    state = state_of(row(1, TV, 1), row(2, PHONE, 0))
    state.append([1], [10], [bytes([7] * 16)], [0], at_ms=0)
    state.load(chunk(*range(1, 7)))
    state.finish_loading(restores_requests=True)
    assert pending(state, 1) == [3, 5, 7]


def test_requests_of_the_journal_are_in_flight_until_they_are_claimed() -> None:
    state = state_of(
        row(1, TV, 1, request=4, ordinal=1, first_seq=3, last_seq=5),
        row(2, PHONE, 0, request=4, ordinal=0, first_seq=2, last_seq=4),
    )
    state.load(chunk(*range(1, 7)))
    restored = state.finish_loading(restores_requests=True)
    assert restored.unsettled == [[ClaimPart(2, 2), ClaimPart(1, 2)]]
    assert list(restored.queues) == [RestoredQueue(1, TV, b"window", 0), RestoredQueue(2, PHONE, b"window", 0)]
    queue = state.index.queue(1)
    assert (queue.is_restored, queue.in_flight) == (True, Flight(array("Q", [3, 5])))
    queue.claim(Flight(array("Q", [3])), 0)
    assert (queue.is_restored, queue.in_flight) == (False, Flight(array("Q", [3])))


@pytest.mark.parametrize(
    ("first_seq", "restores", "unsettled"),
    [
        pytest.param(3, False, (), id="the caller of load has its answer already"),
        pytest.param(2, True, [], id="the first event of the request is missing"),
    ],
)
def test_other_requests_of_the_journal_are_not_in_flight(first_seq: int, restores: bool, unsettled: object) -> None:
    state = state_of(row(1, TV, 1, request=4, ordinal=0, first_seq=first_seq, last_seq=5), row(2, PHONE, 0))
    state.load(chunk(*range(1, 7)))
    assert state.finish_loading(restores_requests=restores).unsettled == unsettled
    assert state.index.queue(1).in_flight is None


def test_rows_without_a_queue_are_counted() -> None:
    state = state_of(row(1, TV, 1))
    state.load(chunk(*range(1, 7)))
    assert (state.phase.orphans, state.missing()) == (3, 3)


def test_a_loaded_state_loads_nothing_more() -> None:
    state = state_of(row(1, TV, 1), row(2, PHONE, 0))
    state.load(chunk(*range(1, 7)))
    state.finish_loading(restores_requests=True)
    for call in (lambda: state.load(chunk(7)), state.missing, lambda: state.finish_loading(restores_requests=True)):
        with pytest.raises(AssertionError, match="Loaded"):
            call()

"""The diagnosis of the first batch of a device queue: its transitions, its counts and the size of the next request."""

from __future__ import annotations

from dataclasses import replace

import pytest
from relay.policy.diagnosis import (
    CONTENT_MS,
    HEALTHY,
    POISON_FAILURES,
    POISON_MS,
    Alone,
    BatchDelayed,
    BatchDelivered,
    BatchFailed,
    BatchRejected,
    BatchRemoved,
    Bisecting,
    Diagnosis,
    EventsNamed,
    EventTooLarge,
    FailureSeen,
    Healthy,
    LaterChosen,
    LaterFailed,
    LimitMet,
    Outcome,
    ProbingLater,
    ProbingSmaller,
    Remainder,
    RemainderEnded,
    Separated,
    SharedBatchFailed,
    State,
)
from relay.policy.omitted_events import DeadLetterCause, OmittedEvent

FULL = 500
NAMED = (OmittedEvent(4, DeadLetterCause("refused", 422, "bad")),)
BEFORE = (OmittedEvent(4, None), OmittedEvent(5, None))
STATES: list[State] = [
    Healthy(), Separated(), ProbingSmaller(8), ProbingSmaller(8, 20), Bisecting(20), Remainder(NAMED),
    ProbingLater(BEFORE),
]  # fmt: skip
TABLE: list[tuple[Outcome, list[State]]] = [
    # The states after each outcome of a batch that failed three times, in the order of STATES.
    (BatchDelivered(5), [Healthy(), Healthy(), Healthy(), Bisecting(15), Bisecting(15), Healthy(), Separated()]),
    (BatchDelivered(20), [*[Healthy()] * 6, Separated()]),
    (BatchRemoved(1), [Healthy()] * 7),
    (EventsNamed(()), [Remainder(())] * 7),
    (RemainderEnded(), [*STATES[:5], Separated(), Separated()]),
    (BatchRejected(6), [*[Bisecting(6)] * 2, *[ProbingSmaller(8, 6)] * 2, *[Bisecting(6)] * 3]),
    (EventTooLarge(), [*[Bisecting(1)] * 2, *[ProbingSmaller(8, 1)] * 2, *[Bisecting(1)] * 3]),
    (FailureSeen(9, None), STATES),
    (
        BatchFailed(6, 9, others_succeed=False, success_at=None),
        [*[ProbingSmaller(3)] * 3, *[ProbingSmaller(3, 20)] * 2, *[ProbingSmaller(3)] * 2],
    ),
    (BatchFailed(6, 9, others_succeed=True, success_at=8), [Bisecting(6)] * 7),
    (BatchFailed(6, 9, others_succeed=True, success_at=8, at_once=True), [Bisecting(6)] * 7),
    (LaterChosen(BEFORE), [ProbingLater(BEFORE)] * 7),
    (SharedBatchFailed(others_succeed=False), [Separated(), *STATES[1:]]),
    (SharedBatchFailed(others_succeed=True), [Separated(), *STATES[1:]]),
    (BatchDelayed(), STATES),
    (LimitMet(), [Separated(), *STATES[1:]]),
]


@pytest.mark.parametrize(
    ("before", "outcome", "after"),
    [(before, outcome, after) for outcome, row in TABLE for before, after in zip(STATES, row, strict=True)],
    ids=repr,
)
def test_each_state_after_each_outcome(before: State, outcome: Outcome, after: State) -> None:
    assert Diagnosis(before, failures=3).after(outcome).state == after


def test_the_first_failures_of_a_remainder_leave_it_exact() -> None:
    remainder = HEALTHY.after(EventsNamed(NAMED))
    outcomes = (
        BatchFailed(1, 9, others_succeed=True, success_at=8),
        SharedBatchFailed(others_succeed=True),
        LimitMet(),
    )
    assert {remainder.after(outcome).state for outcome in outcomes} == {Remainder(NAMED)}
    assert remainder.after(RemainderEnded()).state == Healthy()


@pytest.mark.parametrize(
    ("outcome", "states"),
    [
        (BatchFailed(6, 9, others_succeed=True, success_at=8), [Separated(), Separated(), Bisecting(6)]),
        (BatchFailed(6, 9, others_succeed=False, success_at=8), [Separated(), Separated(), ProbingSmaller(3)]),
        (BatchFailed(6, 9, others_succeed=True, success_at=8, at_once=True), [Bisecting(6)] * 3),
        (BatchFailed(6, 9, False, success_at=8, at_once=True), [Separated(), Separated(), ProbingSmaller(3)]),
        (SharedBatchFailed(others_succeed=False), [Healthy(), Healthy(), Separated()]),
        (SharedBatchFailed(others_succeed=True), [Separated()] * 3),
    ],
    ids=repr,
)
def test_the_third_failure_of_a_batch_starts_smaller_requests(outcome: Outcome, states: list[State]) -> None:
    diagnosis, seen = HEALTHY, []
    for _ in states:
        diagnosis = diagnosis.after(outcome)
        seen.append(diagnosis.state)
    assert seen == states


@pytest.mark.parametrize(
    ("outcome", "failures"),
    [
        (BatchDelivered(5), 0),
        (BatchRemoved(1), 0),
        (LaterChosen(BEFORE), 1),
        (BatchRejected(6), 1),
        (EventsNamed(NAMED), 0),
        (RemainderEnded(), 1),
        (EventTooLarge(), 2),
        (FailureSeen(9, None), 1),
        (BatchFailed(6, 9, others_succeed=False, success_at=None), 2),
        (SharedBatchFailed(others_succeed=False), 2),
        (BatchDelayed(), 2),
        (LimitMet(), 1),
    ],
    ids=repr,
)
def test_the_failures_of_a_batch_are_counted_until_it_is_delivered_or_removed(outcome: Outcome, failures: int) -> None:
    assert Diagnosis(Separated(), failures=1).after(outcome).failures == failures


@pytest.mark.parametrize(
    ("state", "most", "own"),
    [
        (Healthy(), FULL, False),
        (Separated(), FULL, True),
        (Remainder(NAMED), FULL, True),
        (ProbingSmaller(8), 8, True),
        (ProbingSmaller(8, 20), 8, True),
        (ProbingSmaller(8, 6), 3, True),
        (Bisecting(20), 10, True),
        (Bisecting(1), 1, True),
        (Bisecting(2_000), FULL, True),
    ],
    ids=repr,
)
def test_the_next_request_of_each_state(state: State, most: int, own: bool) -> None:
    diagnosis = Diagnosis(state, failures=3)
    assert (diagnosis.max_events(FULL), diagnosis.needs_own_request()) == (most, own)


@pytest.mark.parametrize(
    "impossible",
    [
        lambda: Bisecting(0),
        lambda: ProbingSmaller(0),
        lambda: Alone(0, 0, 0),
        lambda: Alone(1, 0, 0, evident=2),
        lambda: Diagnosis(ProbingSmaller(8), failures=2),
        lambda: Diagnosis(ProbingSmaller(8), failures=3, smaller_succeeded=True),
        lambda: Diagnosis(Healthy(), failures=1, alone=Alone(1, 0, 0)),
        lambda: Diagnosis(Remainder(NAMED), failures=1, alone=Alone(1, 0, 0)),
        lambda: Diagnosis(Separated(), failures=0, alone=Alone(1, 0, 0)),
        lambda: Diagnosis(at_fault=True),
        lambda: HEALTHY.after(BatchRejected(1)),
    ],
)
def test_an_impossible_diagnosis_is_rejected(impossible) -> None:
    with pytest.raises(AssertionError):
        impossible()


def test_the_representation_shows_the_state() -> None:
    assert repr(Diagnosis(Bisecting(4), failures=3)).startswith("Diagnosis(state=Bisecting(prefix=4), failures=3,")


def fail(
    diagnosis: Diagnosis, events: int, now: int = 0, *, others_succeed: bool = False, success_at: int | None = None
) -> Diagnosis:
    return diagnosis.after(BatchFailed(events, now, others_succeed, success_at))


def test_a_delivered_half_narrows_the_suspect_half() -> None:
    diagnosis = HEALTHY.after(BatchRejected(500)).after(BatchDelivered(250))
    assert diagnosis.max_events(FULL) == 125


def test_a_failing_batch_is_halved_after_three_failures_while_others_succeed() -> None:
    diagnosis, sizes = HEALTHY, []
    for _ in range(5):
        diagnosis = fail(diagnosis, diagnosis.max_events(FULL), others_succeed=True)
        sizes.append(diagnosis.max_events(FULL))
    assert sizes == [500, 500, 250, 125, 62]


def test_in_an_outage_probes_become_smaller_without_a_suspect() -> None:
    diagnosis = HEALTHY
    for _ in range(20):
        diagnosis = fail(diagnosis, diagnosis.max_events(FULL))
    assert diagnosis.state == ProbingSmaller(1)
    assert diagnosis.after(BatchDelivered(1)).max_events(FULL) == FULL


def test_a_successful_smaller_probe_makes_the_batch_suspect() -> None:
    diagnosis = Diagnosis(ProbingSmaller(250), failures=3).after(BatchDelivered(250))
    for _ in range(3):
        diagnosis = fail(diagnosis, 500)
    assert diagnosis.state == Bisecting(500)


@pytest.mark.parametrize("outcome", [BatchRemoved(1), BatchDelivered(1)])
def test_a_successful_smaller_probe_is_forgotten_with_its_batch(outcome: Outcome) -> None:
    """Otherwise the next outage would make a batch suspect although nothing smaller succeeded."""
    diagnosis = Diagnosis(ProbingSmaller(250), failures=3).after(BatchDelivered(250)).after(outcome)
    assert diagnosis is HEALTHY


@pytest.mark.parametrize(
    ("failed_at", "success_at", "at_fault"), [(None, 8, False), (5, None, False), (5, 5, False), (5, 6, True)]
)
def test_a_batch_is_at_fault_if_the_endpoint_succeeds_between_two_failures(
    failed_at: int | None, success_at: int | None, at_fault: bool
) -> None:
    diagnosis = replace(HEALTHY, failed_at=failed_at).after(FailureSeen(9, success_at))
    assert (diagnosis.at_fault, diagnosis.failed_at) == (at_fault, 9)
    assert diagnosis.after(FailureSeen(9, None)).at_fault is at_fault


@pytest.mark.parametrize(("over_ms", "minutes"), [(CONTENT_MS, 9), (POISON_MS, 10)])
def test_poison_requires_ten_isolated_failures_over_nine_or_ten_minutes(over_ms: int, minutes: int) -> None:
    assert over_ms == minutes * 60_000
    diagnosis, gap_ms = HEALTHY, over_ms // (POISON_FAILURES - 1)
    for i in range(POISON_FAILURES):
        assert not diagnosis.is_poisoned(over_ms, i * gap_ms)
        diagnosis = fail(diagnosis, 1, i * gap_ms, others_succeed=True, success_at=i * gap_ms - 1)
    assert not diagnosis.is_poisoned(over_ms, over_ms - 1)
    assert diagnosis.is_poisoned(over_ms, over_ms)


def test_quick_failures_do_not_mean_poison() -> None:
    diagnosis = HEALTHY
    for i in range(100):
        diagnosis = fail(diagnosis, 1, i * 1_000, others_succeed=True, success_at=i * 1_000 - 1)
    assert not diagnosis.is_poisoned(CONTENT_MS, 100_000)


def test_failures_of_an_outage_do_not_count_towards_poison() -> None:
    """The only success of another device follows the first failure."""
    diagnosis = fail(HEALTHY, 1, 0)
    for i in range(1, 100):
        diagnosis = fail(diagnosis, 1, i * 100_000, success_at=500)
    assert not diagnosis.is_poisoned(CONTENT_MS, 10_000_000)


def test_failures_in_larger_batches_do_not_count_towards_poison() -> None:
    diagnosis = HEALTHY
    for i in range(100):
        diagnosis = fail(diagnosis, 2, i * 100_000, others_succeed=True, success_at=i * 100_000 - 1)
    assert not diagnosis.is_poisoned(CONTENT_MS, 10_000_000)


def test_an_event_is_isolated_once_it_failed_alone_and_its_batch_is_at_fault() -> None:
    assert not fail(HEALTHY, 1, others_succeed=True).is_isolated(), "it may have failed by chance"
    diagnosis = HEALTHY.after(BatchFailed(2, 0, others_succeed=True, success_at=None, at_once=True))
    assert not diagnosis.is_isolated()
    assert diagnosis.after(BatchFailed(1, 0, others_succeed=True, success_at=None)).is_isolated()


# -- a later event

LATER = ProbingLater(BEFORE)
ALONE = Alone(10, 0, 0, status=403)
SUSPECTED = Diagnosis(Bisecting(1), failures=12, alone=ALONE)


def fails_alone(diagnosis: Diagnosis, status: int, now: int = 600_000) -> Diagnosis:
    return diagnosis.after(BatchFailed(1, now, others_succeed=True, success_at=None, status=status))


def test_a_later_event_is_needed_after_ten_failures_alone_over_nine_minutes() -> None:
    assert SUSPECTED.needs_contrast(540_000)
    assert not SUSPECTED.needs_contrast(539_999)
    assert not replace(SUSPECTED, alone=Alone(9, 0, 0)).needs_contrast(540_000)
    assert not Diagnosis(Bisecting(1)).needs_contrast(540_000)


def test_each_later_event_that_fails_is_passed_over_until_none_is_left() -> None:
    diagnosis, seen = SUSPECTED, []
    for seq in (5, 6, 8):
        omitted = diagnosis.before_later(4, events=4)
        seen.append([event.seq for event in omitted])
        diagnosis = diagnosis.after(LaterChosen(omitted)).after(LaterFailed(seq))
        assert (diagnosis.state, diagnosis.alone) == (Bisecting(1), ALONE)
    assert seen == [[4], [4, 5], [4, 5, 6]]
    assert [event.seq for event in diagnosis.before_later(4, events=4)] == [4]
    assert [event.seq for event in diagnosis.before_later(4, events=9)] == [4, 5, 6, 8]
    assert [event.seq for event in diagnosis.before_later(3, events=9)] == [3]


@pytest.mark.parametrize(("status", "contrast"), [(403, "shown"), (500, "none")])
def test_after_the_delivery_of_a_later_event_only_the_same_status_shows_the_cause(status: int, contrast: str) -> None:
    delivered = replace(SUSPECTED, state=LATER).after(BatchDelivered(3))
    assert (delivered.state, delivered.overtaken) == (Bisecting(1), 2)
    assert not delivered.is_poisoned(CONTENT_MS, 600_000)
    again = fails_alone(delivered, status)
    assert again.alone is not None
    assert again.alone.contrast == contrast
    assert again.is_poisoned(CONTENT_MS, 600_000) is (contrast == "shown")
    assert again.needs_contrast(600_000) is (contrast == "none")


def test_an_event_that_failed_as_a_later_one_is_tried_alone_once_it_is_the_first() -> None:
    diagnosis = replace(SUSPECTED, front=(4, 5, 6), overtaken=3).after(BatchRemoved(1))
    assert diagnosis == Diagnosis(Bisecting(2), front=(5, 6), overtaken=2)
    assert diagnosis.max_events(FULL) == 1


@pytest.mark.parametrize(
    ("overtaken", "outcome", "after"),
    [
        (3, BatchDelivered(2), 1),
        (3, BatchDelivered(4), 0),
        (3, BatchRemoved(1), 2),
        (3, EventsNamed(NAMED), 3),
        (3, LaterFailed(7), 3),
        (0, BatchDelivered(3), 2),
        (2, BatchDelivered(3), 2),
        (4, BatchDelivered(3), 3),
    ],
    ids=repr,
)
def test_overtaken_events_are_counted_until_they_are_delivered_or_removed(
    overtaken: int, outcome: Outcome, after: int
) -> None:
    is_later = outcome == LaterFailed(7) or (outcome == BatchDelivered(3))
    state = LATER if is_later else Bisecting(1)
    assert Diagnosis(state, overtaken=overtaken).after(outcome).overtaken == after

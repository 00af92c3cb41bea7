"""A device's queue: its beat, and what it learns of a bad event at its front."""

from __future__ import annotations

import pytest
from relay.policy.device_queue import POISON_FAILURES, POISON_MS, DeviceQueue, linger_end, phase
from relay.policy.rate_window import Window

FULL = 500


@pytest.fixture
def queue() -> DeviceQueue:
    return DeviceQueue(1, (1, "tv", "a"), Window())


def fail(
    queue: DeviceQueue, events: int, now: int = 0, *, others_succeed: bool = False, success_at: int | None = None
) -> None:
    queue.failed(events, now, others_succeed=others_succeed, success_at=success_at)


def test_a_refused_batch_is_halved_from_the_front(queue: DeviceQueue) -> None:
    assert not queue.rejected(500)
    assert queue.max_events(FULL) == 250
    assert not queue.rejected(250)
    assert queue.max_events(FULL) == 125


def test_what_gets_through_narrows_the_rest(queue: DeviceQueue) -> None:
    queue.rejected(500)
    queue.delivered(250)
    assert queue.max_events(FULL) == 125


def test_an_event_refused_alone_is_found(queue: DeviceQueue) -> None:
    queue.rejected(2)
    assert queue.max_events(FULL) == 1
    assert queue.rejected(1)
    assert queue.max_events(FULL) == FULL


def test_a_suspect_batch_keeps_no_company_until_its_bad_event_is_found(queue: DeviceQueue) -> None:
    queue.rejected(500)
    assert queue.needs_own_request()
    queue.reset_diagnosis()
    assert not queue.needs_own_request()


def test_a_batch_that_keeps_failing_while_others_are_served_is_halved_after_three_tries(queue: DeviceQueue) -> None:
    sizes = []
    for _ in range(5):
        fail(queue, queue.max_events(FULL), others_succeed=True)
        sizes.append(queue.max_events(FULL))
    assert sizes == [500, 500, 250, 125, 62]


def test_in_an_outage_probes_get_smaller_but_nothing_is_suspected(queue: DeviceQueue) -> None:
    for _ in range(20):
        fail(queue, queue.max_events(FULL))
    assert queue.max_events(FULL) == 1
    assert not queue.suspect
    queue.delivered(1)
    assert queue.max_events(FULL) == FULL


def test_a_smaller_probe_that_gets_through_is_evidence_against_the_batch(queue: DeviceQueue) -> None:
    for _ in range(3):
        fail(queue, 500)
    queue.delivered(250)
    for _ in range(3):
        fail(queue, 500)
    assert queue.suspect == 500


def test_in_company_a_lane_is_patient_before_it_travels_by_itself(queue: DeviceQueue) -> None:
    for isolated in (False, False, True):
        queue.failed_in_shared_batch(others_succeed=False)
        assert queue.needs_own_request() is isolated


def test_a_company_that_fails_while_others_are_served_is_parted_at_once(queue: DeviceQueue) -> None:
    queue.failed_in_shared_batch(others_succeed=True)
    assert queue.needs_own_request()


def test_poison_takes_ten_lone_failures_over_ten_minutes(queue: DeviceQueue) -> None:
    gap_ms = POISON_MS // (POISON_FAILURES - 1)
    for i in range(POISON_FAILURES):
        assert not queue.is_poisoned(i * gap_ms)
        fail(queue, 1, i * gap_ms, others_succeed=True, success_at=i * gap_ms - 1)
    assert not queue.is_poisoned(POISON_MS - 1)
    assert queue.is_poisoned(POISON_MS)


def test_ten_quick_failures_are_not_enough(queue: DeviceQueue) -> None:
    for i in range(100):
        fail(queue, 1, i * 1_000, others_succeed=True, success_at=i * 1_000 - 1)
    assert not queue.is_poisoned(100_000)


def test_failures_of_an_outage_do_not_count_towards_poison(queue: DeviceQueue) -> None:
    """Others were served once, right after its first failure; then nobody was."""
    fail(queue, 1, 0)
    for i in range(1, 100):
        fail(queue, 1, i * 100_000, success_at=500)
    assert not queue.is_poisoned(10_000_000)


def test_failures_in_larger_batches_do_not_count_towards_poison(queue: DeviceQueue) -> None:
    for i in range(100):
        fail(queue, 2, i * 100_000, others_succeed=True, success_at=i * 100_000 - 1)
    assert not queue.is_poisoned(10_000_000)


@pytest.mark.parametrize("arrived", [0, 1, 4_999, 5_000, 123_456_789])
def test_an_event_waits_for_company_until_its_devices_next_beat(arrived: int) -> None:
    due_at = linger_end(3, arrived, 5_000)
    assert arrived < due_at <= arrived + 5_000
    assert due_at % 5_000 == 3


def test_without_linger_nothing_waits() -> None:
    assert linger_end(3, 17, 0) == 17


def test_beats_differ_between_devices_and_last_for_ever() -> None:
    beats = {phase((1, "tv", f"device-{i}")) % 5_000 for i in range(1_000)}
    assert len(beats) > 850
    assert phase((1, "tv", "device-7")) == 1845752627

"""The phase of a device queue and the diagnosis of its first batch."""

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


def test_a_rejected_batch_is_halved_from_the_front(queue: DeviceQueue) -> None:
    assert not queue.rejected(500)
    assert queue.max_events(FULL) == 250
    assert not queue.rejected(250)
    assert queue.max_events(FULL) == 125


def test_a_delivered_half_narrows_the_suspect_half(queue: DeviceQueue) -> None:
    queue.rejected(500)
    queue.delivered(250)
    assert queue.max_events(FULL) == 125


def test_an_event_rejected_alone_is_found(queue: DeviceQueue) -> None:
    queue.rejected(2)
    assert queue.max_events(FULL) == 1
    assert queue.rejected(1)
    assert queue.max_events(FULL) == FULL


def test_a_suspect_batch_shares_no_request_until_its_bad_event_is_found(queue: DeviceQueue) -> None:
    queue.rejected(500)
    assert queue.needs_own_request()
    queue.reset_diagnosis()
    assert not queue.needs_own_request()


def test_a_failing_batch_is_halved_after_three_failures_while_others_succeed(queue: DeviceQueue) -> None:
    sizes = []
    for _ in range(5):
        fail(queue, queue.max_events(FULL), others_succeed=True)
        sizes.append(queue.max_events(FULL))
    assert sizes == [500, 500, 250, 125, 62]


def test_in_an_outage_probes_become_smaller_without_a_suspect(queue: DeviceQueue) -> None:
    for _ in range(20):
        fail(queue, queue.max_events(FULL))
    assert queue.max_events(FULL) == 1
    assert not queue.suspect
    queue.delivered(1)
    assert queue.max_events(FULL) == FULL


def test_a_successful_smaller_probe_makes_the_batch_suspect(queue: DeviceQueue) -> None:
    for _ in range(3):
        fail(queue, 500)
    queue.delivered(250)
    for _ in range(3):
        fail(queue, 500)
    assert queue.suspect == 500


def test_a_successful_smaller_probe_is_forgotten_with_its_batch(queue: DeviceQueue) -> None:
    """Without it, the next outage would make the batch suspect although nothing smaller succeeded."""
    for _ in range(3):
        fail(queue, 500)
    queue.delivered(250)
    queue.reset_diagnosis()
    for _ in range(3):
        fail(queue, 500)
    assert not queue.suspect
    assert queue.max_events(FULL) == 250


def test_a_device_queue_is_isolated_after_three_failures_of_mixed_batches(queue: DeviceQueue) -> None:
    for isolated in (False, False, True):
        queue.failed_in_shared_batch(others_succeed=False)
        assert queue.needs_own_request() is isolated


def test_a_mixed_batch_that_fails_while_others_succeed_is_separated_immediately(queue: DeviceQueue) -> None:
    queue.failed_in_shared_batch(others_succeed=True)
    assert queue.needs_own_request()


def test_a_failed_mixed_batch_does_not_end_the_isolation_of_a_device_queue(queue: DeviceQueue) -> None:
    """A request that was in flight at a crash is resent with all its devices, also after a 429 of a shared limit."""
    queue.isolated = True
    queue.failed_in_shared_batch(others_succeed=False)
    assert queue.needs_own_request()


def test_poison_requires_ten_isolated_failures_over_ten_minutes(queue: DeviceQueue) -> None:
    gap_ms = POISON_MS // (POISON_FAILURES - 1)
    for i in range(POISON_FAILURES):
        assert not queue.is_poisoned(i * gap_ms)
        fail(queue, 1, i * gap_ms, others_succeed=True, success_at=i * gap_ms - 1)
    assert not queue.is_poisoned(POISON_MS - 1)
    assert queue.is_poisoned(POISON_MS)


def test_quick_failures_do_not_mean_poison(queue: DeviceQueue) -> None:
    for i in range(100):
        fail(queue, 1, i * 1_000, others_succeed=True, success_at=i * 1_000 - 1)
    assert not queue.is_poisoned(100_000)


def test_failures_of_an_outage_do_not_count_towards_poison(queue: DeviceQueue) -> None:
    """The only success of another device follows the first failure."""
    fail(queue, 1, 0)
    for i in range(1, 100):
        fail(queue, 1, i * 100_000, success_at=500)
    assert not queue.is_poisoned(10_000_000)


def test_failures_in_larger_batches_do_not_count_towards_poison(queue: DeviceQueue) -> None:
    for i in range(100):
        fail(queue, 2, i * 100_000, others_succeed=True, success_at=i * 100_000 - 1)
    assert not queue.is_poisoned(10_000_000)


@pytest.mark.parametrize("arrived", [0, 1, 4_999, 5_000, 123_456_789])
def test_the_linger_time_ends_at_the_next_phase_of_the_device(arrived: int) -> None:
    due_at = linger_end(3, arrived, 5_000)
    assert arrived < due_at <= arrived + 5_000
    assert due_at % 5_000 == 3


def test_without_linger_events_are_due_on_arrival() -> None:
    assert linger_end(3, 17, 0) == 17


def test_phases_differ_between_devices_and_do_not_change() -> None:
    beats = {phase((1, "tv", f"device-{i}")) % 5_000 for i in range(1_000)}
    assert len(beats) > 850
    assert phase((1, "tv", "device-7")) == 1845752627

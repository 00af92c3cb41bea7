"""The moves of a device queue, and its phase."""

from __future__ import annotations

import pytest
from relay.policy.device_queue import DeviceQueue, linger_end, may_forget, phase
from relay.policy.omitted_events import OmittedEvent
from relay.policy.position import IDLE, RESERVED, Lingering, Position

from tests.unit.policy.harness import LIMITS


@pytest.fixture
def queue() -> DeviceQueue:
    """Return a device queue with two pending events that is ready."""
    queue = DeviceQueue(1, (1, "tv", "a"))
    queue.set_backlog(2, 800)
    queue.arrive(100)
    queue.become_ready()
    return queue


@pytest.mark.parametrize(
    ("sent", "remaining", "grew_at", "cut", "position"),
    [
        (2, 0, None, False, IDLE),
        (2, 2, None, False, Lingering(900)),
        (1, 1, None, False, Lingering(900)),
        (1, 2, 850, False, Lingering(900)),
        (2, 1, 850, False, Lingering(linger_end(phase((1, "tv", "a")), 850, LIMITS.linger_ms))),
        (2, LIMITS.max_events, 850, False, Lingering(900)),
        (2, 1, 850, True, Lingering(900)),
    ],
)
def test_when_pending_events_are_due_after_a_request(
    queue: DeviceQueue, sent: int, remaining: int, grew_at: int | None, cut: bool, position: Position
) -> None:
    queue.send(sent, "free", 900)
    if grew_at is not None:
        queue.position.grew(grew_at)
    if cut:
        queue.cut()
    queue.set_backlog(remaining, 400 * remaining)
    queue.settle(900, LIMITS, None)
    assert queue.position == position


def test_events_that_are_resent_exactly_are_reserved_when_their_request_is_settled(queue: DeviceQueue) -> None:
    queue.send(2, "occupied", 900)
    queue.reserve()
    queue.settle(900, LIMITS, None)
    assert queue.position is RESERVED


def test_a_turn_without_events_makes_the_device_queue_idle(queue: DeviceQueue) -> None:
    queue.set_backlog(0, 0)
    queue.become_empty()
    queue.postpone(900)
    assert queue.position is IDLE


def test_only_a_device_queue_without_events_is_idle(queue: DeviceQueue) -> None:
    queue.reserve()
    with pytest.raises(AssertionError):
        queue.end_reservation()


def test_only_a_device_queue_with_events_lingers() -> None:
    queue = DeviceQueue(1, (1, "tv", "a"))
    with pytest.raises(AssertionError):
        queue.arrive(100)


def test_only_a_request_in_flight_uses_a_request_slot(queue: DeviceQueue) -> None:
    with pytest.raises(AssertionError):
        queue.use_slot("occupied")
    queue.send(2, "occupied", 900)
    assert queue.use_slot("stalled") == "occupied"
    assert queue.use_slot("free") == "stalled"


def test_the_representation_shows_the_position_the_pause_and_the_diagnosis(queue: DeviceQueue) -> None:
    assert repr(queue).startswith("DeviceQueue(1, 2 events, Ready(), Pause(until=0, ")
    assert "Diagnosis(state=Healthy()" in repr(queue)


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


@pytest.mark.parametrize("responses", [0, 3])
@pytest.mark.parametrize(("delivered", "rejected", "is_known"), [(0, 0, False), (2, 2, False), (2, 1, True)])
def test_a_device_is_known_after_a_delivery_also_after_a_restart(
    queue: DeviceQueue, responses: int, delivered: int, rejected: int, is_known: bool
) -> None:
    for _ in range(responses):
        queue.responded(900)
    queue.delivered(delivered, rejected)
    assert queue.is_known is is_known

    restored = DeviceQueue(1, queue.key)
    restored.restore(queue.pack(950, LIMITS.window_ms), 1_000, LIMITS.device_per_window, 0)
    assert restored.is_known is is_known
    assert restored.occupied(1_000, LIMITS) == responses


@pytest.mark.parametrize("responses", [0, 1])
def test_only_a_new_device_with_a_free_window_may_be_forgotten_at_a_start(queue: DeviceQueue, responses: int) -> None:
    for _ in range(responses):
        queue.responded(900)
    packed = queue.pack(950, LIMITS.window_ms)
    assert may_forget(packed, 1_000, LIMITS.window_ms) is (not responses)
    assert may_forget(packed, 951 + LIMITS.window_ms, LIMITS.window_ms)
    queue.delivered(2, 0)
    assert not may_forget(queue.pack(950, LIMITS.window_ms), 951 + LIMITS.window_ms, LIMITS.window_ms)


def test_a_device_stays_known_in_another_boot_with_a_full_window(queue: DeviceQueue) -> None:
    queue.delivered(2, 0)
    queue.responded(900)
    restored = DeviceQueue(1, queue.key)
    restored.restore(queue.pack(950, LIMITS.window_ms), 10, LIMITS.device_per_window, None)
    assert restored.is_known
    assert restored.occupied(10, LIMITS) == LIMITS.device_per_window


def test_a_device_delivered_before_its_stored_state_is_loaded_stays_known(queue: DeviceQueue) -> None:
    queue.delivered(2, 0)
    queue.restore(b"", 1_000, LIMITS.device_per_window, 0)
    assert queue.is_known


def test_the_number_of_overtaken_events_survives_a_restart(queue: DeviceQueue) -> None:
    queue.is_known = True
    queue.resume((OmittedEvent(4, None), OmittedEvent(5, None)))
    queue.delivered(3, 2)
    restored = DeviceQueue(1, queue.key)
    restored.restore(queue.pack(950, LIMITS.window_ms), 1_000, LIMITS.device_per_window, 0)
    assert restored.is_known
    assert restored.diagnosis.overtaken == 2

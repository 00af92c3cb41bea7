"""The list of device queues without pending events."""

from __future__ import annotations

from relay.policy.device_queue import DeviceQueue
from relay.policy.empty_queues import EmptyQueues


def queue(queue_id: int) -> DeviceQueue:
    return DeviceQueue(queue_id, (1, "tv", f"device-{queue_id}"))


def test_a_device_queue_is_listed_once_until_its_time_comes() -> None:
    empty, first, second = EmptyQueues(), queue(1), queue(2)
    empty.add(first, 0, 99)
    empty.add(first, 100, 99)
    empty.add(second, 50, 99)
    assert empty.pop_due(99, remembered=10) is None
    assert empty.pop_due(100, remembered=10) is first
    assert empty.pop_due(149, remembered=10) is None
    empty.add(first, 200, 99)
    assert empty.pop_due(150, remembered=10) is second
    assert empty.pop_due(299, remembered=10) is None
    assert empty.pop_due(300, remembered=10) is first
    assert empty.pop_due(10_000, remembered=10) is None


def test_known_devices_come_last_in_the_order_of_their_latest_use() -> None:
    empty, new, first, second = EmptyQueues(), queue(1), queue(2), queue(3)
    for known in (first, second):
        known.delivered(1, 0)
        empty.add(known, 0, 99)
    empty.add(new, 10, 99)
    empty.add(first, 20, 99)
    assert len(empty) == 3
    assert empty.pop_due(200, remembered=10) is new
    assert empty.pop_due(200, remembered=10) is None
    assert empty.pop_due(99, remembered=1) is None
    assert [empty.pop_due(200, remembered=1) for _ in range(2)] == [second, None]
    assert [empty.pop_due(200, remembered=0) for _ in range(2)] == [first, None]


def test_a_device_that_became_known_since_it_was_listed_is_remembered() -> None:
    empty, restored = EmptyQueues(), queue(1)
    empty.add(restored, 0, 99)
    restored.delivered(1, 0)
    assert empty.pop_due(200, remembered=1) is None
    assert empty.pop_due(200, remembered=0) is restored

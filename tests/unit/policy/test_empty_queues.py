"""The list of device queues without pending events."""

from __future__ import annotations

from relay.policy.device_queue import DeviceQueue
from relay.policy.empty_queues import EmptyQueues
from relay.policy.rate_window import Window


def queue(queue_id: int) -> DeviceQueue:
    return DeviceQueue(queue_id, (1, "tv", f"device-{queue_id}"), Window())


def test_a_device_queue_is_listed_once_until_its_time_comes() -> None:
    empty, first, second = EmptyQueues(), queue(1), queue(2)
    empty.add(first, 0, 99)
    empty.add(first, 100, 99)
    empty.add(second, 50, 99)
    assert empty.pop_due(99, known=False) is None
    assert empty.pop_due(100, known=False) is first
    assert empty.pop_due(149, known=False) is None
    empty.add(first, 200, 99)
    assert empty.pop_due(150, known=False) is second
    assert empty.pop_due(299, known=False) is None
    assert empty.pop_due(300, known=False) is first
    assert empty.pop_due(10_000, known=False) is None


def test_known_devices_come_last_in_the_order_of_their_latest_use() -> None:
    empty, new, first, second = EmptyQueues(), queue(1), queue(2), queue(3)
    for known in (first, second):
        known.delivered(1, 0)
        empty.add(known, 0, 99)
    empty.add(new, 10, 99)
    empty.add(first, 20, 99)
    assert len(empty) == 3
    assert empty.pop_due(200, known=False) is new
    assert empty.pop_due(200, known=False) is None
    assert empty.pop_due(99, known=True) is None
    assert [empty.pop_due(200, known=True) for _ in range(3)] == [second, first, None]

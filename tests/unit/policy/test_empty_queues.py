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
    assert empty.pop_due(99) is None
    assert empty.pop_due(100) is first
    assert empty.pop_due(149) is None
    empty.add(first, 200, 99)
    assert empty.pop_due(150) is second
    assert empty.pop_due(299) is None
    assert empty.pop_due(300) is first
    assert empty.pop_due(10_000) is None

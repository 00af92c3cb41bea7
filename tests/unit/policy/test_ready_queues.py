"""The turn of ready device queues and of exact requests."""

from __future__ import annotations

from dataclasses import replace

import pytest
from relay.policy.class_turns import DeviceClass
from relay.policy.device_queue import DeviceQueue
from relay.policy.pause import Pause
from relay.policy.position import IDLE
from relay.policy.ready_queues import ReadyQueues

from tests.unit.policy.harness import LIMITS

NOW = 1_000
NEW = DeviceClass.NEW


def queue(queue_id: int, events: int = 2, *, known: bool = False) -> DeviceQueue:
    """Return a device queue that is ready."""
    queue = DeviceQueue(queue_id, (1, "tv", f"device-{queue_id}"))
    queue.set_backlog(events, 400 * events)
    if known:
        queue.delivered(1, 0)
    queue.arrive(NOW)
    queue.become_ready()
    return queue


def reserved(queue_id: int, *, known: bool = False) -> DeviceQueue:
    device = queue(queue_id, known=known)
    device.reserve()
    return device


def taken(ready: ReadyQueues, device_class: DeviceClass = NEW) -> list[int]:
    ids = []
    while queue := ready.take(device_class):
        ids.append(queue.id)
    return ids


def test_device_queues_of_a_class_take_turns() -> None:
    ready = ReadyQueues()
    for queue_id in (1, 2, 3):
        assert ready.add(queue(queue_id), LIMITS) is NEW
    first = ready.take(NEW)
    assert first
    ready.add(first, LIMITS)
    assert taken(ready) == [2, 3, 1]


@pytest.mark.parametrize(
    ("events", "known", "device_class"),
    [
        (1, False, NEW),
        (10_000, False, NEW),
        (1, True, DeviceClass.SPARSE),
        (15, True, DeviceClass.SPARSE),
        (16, True, DeviceClass.QUIET),
        (499, True, DeviceClass.QUIET),
        (500, True, DeviceClass.BACKLOG),
    ],
)
def test_a_device_queue_is_listed_in_its_class(events: int, known: bool, device_class: DeviceClass) -> None:
    ready = ReadyQueues()
    assert ready.classes() == []
    assert ready.add(queue(1, events, known=known), LIMITS) is device_class
    assert ready.classes() == [device_class]
    assert taken(ready, device_class) == [1]


@pytest.mark.parametrize(
    ("body_bytes", "device_class"), [(16 << 10, DeviceClass.SPARSE), (17 << 10, DeviceClass.QUIET)]
)
def test_few_large_events_are_no_small_part_of_a_batch(body_bytes: int, device_class: DeviceClass) -> None:
    device = queue(1, known=True)
    device.set_backlog(2, body_bytes)
    assert ReadyQueues().add(device, LIMITS) is device_class


def test_a_single_event_is_not_a_backlog_even_if_a_batch_has_one_event() -> None:
    assert ReadyQueues().add(queue(1, 1, known=True), replace(LIMITS, max_events=2)) is DeviceClass.SPARSE


def test_a_preferred_device_queue_is_next_and_the_order_of_turns_remains() -> None:
    ready = ReadyQueues()
    for queue_id in (1, 2, 3):
        ready.add(queue(queue_id), LIMITS)
    assert ready.prefer(NEW, lambda queue: queue.id == 3) is NEW
    assert taken(ready) == [3, 1, 2]


def test_a_preferred_device_queue_may_be_of_another_class() -> None:
    ready = ReadyQueues()
    ready.add(queue(1, known=True), LIMITS)
    ready.add(queue(2), LIMITS)
    assert ready.prefer(DeviceClass.SPARSE, lambda queue: queue.id == 2) is NEW
    assert ready.prefer(DeviceClass.SPARSE, lambda queue: queue.id == 3) is None


def test_a_preferred_device_queue_is_not_searched_among_all() -> None:
    ready, examined = ReadyQueues(), []
    for queue_id in range(1_000):
        ready.add(queue(queue_id), LIMITS)
    ready.prefer(NEW, lambda queue: examined.append(queue.id) or False)  # type: ignore[func-returns-value]
    assert len(examined) <= 64
    assert taken(ready) == list(range(1_000))


def test_only_a_ready_device_queue_is_added() -> None:
    with pytest.raises(AssertionError):
        ReadyQueues().add(reserved(1), LIMITS)


def test_an_exact_request_is_in_the_first_class_of_its_device_queues() -> None:
    ready, mixed = ReadyQueues(), ((reserved(1), 2), (reserved(2, known=True), 2))
    ready.add_exact(mixed, LIMITS)
    assert ready.classes() == [DeviceClass.SPARSE]
    assert ready.take_exact(NEW, NOW, LIMITS) == ((), None)
    assert ready.take_exact(DeviceClass.SPARSE, NOW, LIMITS) == (mixed, None)


def test_a_blocked_exact_request_is_examined_again_only_when_told() -> None:
    ready, paused = ReadyQueues(), reserved(1)
    paused.start_pause(Pause(NOW + 500, "outbox"))
    ready.add_exact(((paused, 2),), LIMITS)
    assert ready.take_exact(NEW, NOW, LIMITS) == ((), NOW + 500)
    assert ready.classes() == []
    ready.retry_exact()
    assert ready.classes() == [NEW]


def test_an_exact_request_waits_for_its_paused_device_and_lets_the_next_one_pass() -> None:
    ready, paused, free = ReadyQueues(), reserved(1), reserved(2)
    paused.start_pause(Pause(NOW + 500, "outbox"))
    ready.add_exact(((paused, 2),), LIMITS)
    ready.add_exact(((free, 1),), LIMITS)
    assert ready.take_exact(NEW, NOW, LIMITS) == (((free, 1),), NOW + 500)
    ready.retry_exact()
    assert ready.take_exact(NEW, NOW, LIMITS) == ((), NOW + 500)
    ready.retry_exact()
    assert ready.take_exact(NEW, NOW + 500, LIMITS) == (((paused, 2),), None)
    assert ready.classes() == []


def test_an_exact_request_waits_for_the_request_in_flight_of_its_device() -> None:
    ready, device = ReadyQueues(), queue(1)
    device.send(2, "occupied", 900)
    device.reserve()
    ready.add_exact(((device, 2),), LIMITS)
    assert ready.take_exact(NEW, NOW, LIMITS) == ((), None)
    device.settle(NOW, LIMITS, None)
    ready.retry_exact()
    assert ready.take_exact(NEW, NOW, LIMITS) == (((device, 2),), None)


def test_a_device_queue_without_events_is_left_out_of_its_exact_request() -> None:
    ready, empty, full = ReadyQueues(), reserved(1), reserved(2)
    empty.set_backlog(0, 0)
    ready.add_exact(((empty, 2), (full, 2)), LIMITS)
    assert ready.take_exact(NEW, NOW, LIMITS) == (((full, 2),), None)
    assert empty.position is IDLE

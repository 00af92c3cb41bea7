"""The turn of ready device queues and of exact requests."""

from __future__ import annotations

import pytest
from relay.policy.device_queue import DeviceQueue
from relay.policy.pause import Pause
from relay.policy.position import IDLE
from relay.policy.rate_window import Window
from relay.policy.ready_queues import ReadyQueues

from tests.unit.policy.harness import LIMITS

NOW = 1_000


def queue(queue_id: int, events: int = 2) -> DeviceQueue:
    """Return a device queue that is ready."""
    queue = DeviceQueue(queue_id, (1, "tv", f"device-{queue_id}"), Window())
    queue.set_backlog(events, 400 * events)
    queue.arrive(NOW)
    queue.become_ready()
    return queue


def reserved(queue_id: int) -> DeviceQueue:
    device = queue(queue_id)
    device.reserve()
    return device


def taken(ready: ReadyQueues) -> list[int]:
    return [ready.take().id for _ in range(len(ready))]


def test_device_queues_take_turns() -> None:
    ready = ReadyQueues()
    for queue_id in (1, 2, 3):
        ready.add(queue(queue_id))
    ready.add(ready.take())
    assert taken(ready) == [2, 3, 1]


def test_a_preferred_device_queue_is_next_and_the_order_of_turns_remains() -> None:
    ready = ReadyQueues()
    for queue_id in (1, 2, 3):
        ready.add(queue(queue_id))
    ready.prefer(lambda queue: queue.id == 3)
    assert taken(ready) == [3, 1, 2]


def test_without_a_preferred_device_queue_nothing_changes() -> None:
    ready = ReadyQueues()
    for queue_id in (1, 2, 3):
        ready.add(queue(queue_id))
    ready.prefer(lambda queue: False)
    assert taken(ready) == [1, 2, 3]


def test_only_a_ready_device_queue_is_added() -> None:
    with pytest.raises(AssertionError):
        ReadyQueues().add(reserved(1))


def test_a_device_queue_that_is_reserved_is_removed() -> None:
    ready, device = ReadyQueues(), queue(2)
    ready.add(queue(1))
    ready.add(device)
    device.reserve()
    ready.remove_reserved()
    assert taken(ready) == [1]


def test_an_endpoint_is_activated_once_while_it_has_requests() -> None:
    ready = ReadyQueues()
    assert not ready.activate()
    ready.add_exact(((reserved(1), 2),))
    assert ready.activate()
    assert not ready.activate()
    ready.end_turn()
    assert ready.activate()


def test_an_endpoint_that_waits_for_its_origin_is_not_activated_until_its_turn() -> None:
    ready = ReadyQueues()
    ready.add(queue(1))
    ready.wait()
    assert not ready.activate()
    ready.end_turn()
    assert ready.activate()


@pytest.mark.parametrize(("turn", "act"), [("none", "end_turn"), ("active", "wait"), ("waiting", "wait")])
def test_impossible_turns(turn: str, act: str) -> None:
    ready = ReadyQueues()
    ready.add(queue(1))
    {"none": lambda: None, "active": ready.activate, "waiting": ready.wait}[turn]()
    with pytest.raises(AssertionError):
        getattr(ready, act)()


def test_an_exact_request_waits_for_its_paused_device_and_lets_the_next_one_pass() -> None:
    ready, paused, free = ReadyQueues(), reserved(1), reserved(2)
    paused.start_pause(Pause(NOW + 500, "outbox"))
    ready.add_exact(((paused, 2),))
    ready.add_exact(((free, 1),))
    assert ready.take_exact(NOW, LIMITS) == (((free, 1),), NOW + 500)
    assert ready.take_exact(NOW, LIMITS) == ((), NOW + 500)
    assert ready.take_exact(NOW + 500, LIMITS) == (((paused, 2),), None)
    assert not ready.has_requests()


def test_an_exact_request_waits_for_the_request_in_flight_of_its_device() -> None:
    ready, device = ReadyQueues(), queue(1)
    device.send(2, "occupied", 900)
    device.reserve()
    ready.add_exact(((device, 2),))
    assert ready.take_exact(NOW, LIMITS) == ((), None)
    device.settle(NOW, LIMITS)
    assert ready.take_exact(NOW, LIMITS) == (((device, 2),), None)


def test_a_device_queue_without_events_is_left_out_of_its_exact_request() -> None:
    ready, empty, full = ReadyQueues(), reserved(1), reserved(2)
    empty.set_backlog(0, 0)
    ready.add_exact(((empty, 2), (full, 2)))
    assert ready.take_exact(NOW, LIMITS) == (((full, 2),), None)
    assert empty.position is IDLE

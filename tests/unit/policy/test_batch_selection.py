"""The parts of a rejected request of several devices, and the bounds of a choice."""

from __future__ import annotations

import pytest
from relay.policy.batch_selection import choose, split
from relay.policy.class_turns import DeviceClass
from relay.policy.device_queue import DeviceQueue
from relay.policy.diagnosis import LimitMet
from relay.policy.endpoint import Endpoint
from relay.policy.request_slots import RequestSlots
from relay.policy.upstream_origin import UpstreamOrigin

from tests.unit.policy.harness import LIMITS

NOW = 1_000
SLOTS = 8


def device(queue_id: int, events: int = 1, *, known: bool = True) -> DeviceQueue:
    queue = DeviceQueue(queue_id, (1, "tv", f"device-{queue_id}"))
    queue.set_backlog(events, 400 * events)
    queue.is_known = known
    queue.arrive(NOW)
    queue.become_ready()
    return queue


def endpoint(*queues: DeviceQueue) -> Endpoint:
    created = Endpoint(1, NOW, UpstreamOrigin("", NOW, RequestSlots()))
    for queue in queues:
        created.ready.add(queue, LIMITS)
    return created


def chosen(of: Endpoint, device_class: DeviceClass = DeviceClass.SPARSE, free_slots: int = 1) -> list[int]:
    def list_again(queue: DeviceQueue, now: int) -> None:
        queue.become_ready()
        of.ready.add(queue, LIMITS)

    return [queue.id for queue, _ in choose(of, device_class, LIMITS, NOW, free_slots, list_again)]


@pytest.mark.parametrize(
    ("known", "parts"),
    [
        ([1, 2, 3], ([1, 2], [3])),
        ([], ([1, 2], [3])),
        ([2], ([2], [1, 3])),
        ([1, 3], ([1, 3], [2])),
    ],
)
def test_a_rejected_request_is_split_between_known_and_new_devices_or_in_the_middle(
    known: list[int], parts: tuple[list[int], list[int]]
) -> None:
    request = [(device(queue_id, known=queue_id in known), 1) for queue_id in (1, 2, 3)]
    assert tuple([queue.id for queue, _ in part] for part in split(request)) == parts


def test_a_request_of_known_devices_is_filled_up_in_the_order_of_classes() -> None:
    of = endpoint(device(1, 600), device(2, 100), device(3), device(4, 390), device(5, known=False))
    assert chosen(of) == [3, 2, 4, 1]


def test_a_device_that_outgrew_its_class_takes_its_turn_in_another_one() -> None:
    grown, other = device(1), device(2)
    of = endpoint(grown, other)
    grown.set_backlog(1_000, 400_000)
    assert chosen(of, free_slots=SLOTS) == [2]
    assert of.ready.classes() == [DeviceClass.BACKLOG]


def test_a_choice_passes_over_a_limited_number_of_devices_that_share_no_request() -> None:
    suspects = [device(queue_id) for queue_id in range(1, 1_001)]
    for suspect in suspects:
        suspect.diagnose(LimitMet())
    of = endpoint(device(0), *suspects, device(2_000))
    assert chosen(of) == [0]
    assert chosen(of) == [1]
    assert len(of.ready) == 1_000


def test_an_entry_of_a_device_in_an_exact_request_is_skipped() -> None:
    reserved = device(1)
    of = endpoint(reserved, device(2))
    reserved.reserve()
    assert chosen(of) == [2]


@pytest.mark.parametrize(("since_success_ms", "together"), [(500, [1, 2]), (501, [1])])
def test_devices_are_kept_apart_once_the_latest_success_is_too_old(since_success_ms: int, together: list[int]) -> None:
    """A request without a response may hang, and would delay every device in it."""
    of = endpoint(device(1), device(2))
    of.patience.succeeded(100)
    of.evidence.succeeded([9], 0, NOW - since_success_ms)
    assert chosen(of) == together

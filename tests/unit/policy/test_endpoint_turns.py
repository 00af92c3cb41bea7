"""The turns of upstream origins, classes of devices and endpoints."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from relay.policy.class_turns import DeviceClass
from relay.policy.device_queue import DeviceQueue
from relay.policy.endpoint import Endpoint
from relay.policy.endpoint_turns import EndpointTurns
from relay.policy.request_slots import RequestSlots
from relay.policy.upstream_origin import UpstreamOrigin

from tests.unit.policy.harness import LIMITS

NOW = 1_000
SPARSE, BACKLOG, NEW = DeviceClass.SPARSE, DeviceClass.BACKLOG, DeviceClass.NEW


def new_origin(name: str = "http://localhost") -> UpstreamOrigin:
    return UpstreamOrigin(name, NOW, RequestSlots())


def add_ready(endpoint: Endpoint, device_class: DeviceClass) -> None:
    """Add a ready device queue of a class to an endpoint."""
    queue = DeviceQueue(1, (endpoint.tenant_id, "tv", "device"))
    queue.set_backlog(LIMITS.max_events if device_class is BACKLOG else 1, 400)
    queue.is_known = device_class is not NEW
    queue.arrive(NOW)
    queue.become_ready()
    assert endpoint.ready.add(queue, LIMITS) is device_class


def listed(
    turns: EndpointTurns, origin: UpstreamOrigin, *tenant_ids: int, classes: Collection[DeviceClass] = (NEW,)
) -> list[Endpoint]:
    """List endpoints with a ready device queue of each class."""
    endpoints = []
    for tenant_id in tenant_ids:
        endpoints.append(Endpoint(tenant_id, NOW, origin))
        for each in classes:
            add_ready(endpoints[-1], each)
        turns.list_all(endpoints[-1])
        turns.list_all(endpoints[-1])
    return endpoints


def served(turns: EndpointTurns, requests: int) -> list[tuple[int, DeviceClass]]:
    """Return tenants and classes of successive requests of endpoints that always have some."""
    order = []
    for _ in range(requests):
        origin = turns.next_origin()
        assert origin
        endpoint, device_class = turns.take(origin)
        turns.served(endpoint, device_class)
        order.append((endpoint.tenant_id, device_class))
    return order


def test_endpoints_of_a_class_take_turns() -> None:
    turns = EndpointTurns()
    listed(turns, new_origin(), 1, 2, 3)
    assert served(turns, 6) == [(1, NEW), (2, NEW), (3, NEW)] * 2


def test_the_order_of_classes_counts_for_all_endpoints_of_an_origin() -> None:
    turns, origin = EndpointTurns(), new_origin()
    listed(turns, origin, *range(100))
    listed(turns, origin, 200, classes=[SPARSE])
    assert [tenant_id for tenant_id, _ in served(turns, 14)] == [200] * 6 + [0] + [200] * 6 + [1]


def test_the_order_of_classes_counts_across_origins() -> None:
    turns = EndpointTurns()
    listed(turns, new_origin("a"), *range(10))
    listed(turns, new_origin("b"), 200, classes=[SPARSE])
    listed(turns, new_origin("c"), 300, classes=[BACKLOG])
    order = [tenant_id for tenant_id, _ in served(turns, 14)]
    assert [order.count(200), order.count(300), order[6], order[13]] == [10, 2, 0, 1]


def test_origins_of_a_class_take_turns() -> None:
    turns = EndpointTurns()
    listed(turns, new_origin("a"), *range(10))
    listed(turns, new_origin("b"), 200)
    assert [tenant_id for tenant_id, _ in served(turns, 6)] == [0, 200, 1, 200, 2, 200]


def test_an_origin_that_waits_is_left_out_and_keeps_its_turns() -> None:
    turns, waiting, other = EndpointTurns(), new_origin("a"), new_origin("b")
    listed(turns, waiting, 1, 2)
    listed(turns, other, 3)
    turns.wait(waiting)
    assert [tenant_id for tenant_id, _ in served(turns, 2)] == [3, 3]
    turns.wake(waiting)
    turns.wait(other)
    assert [tenant_id for tenant_id, _ in served(turns, 2)] == [1, 2]
    turns.wake(waiting)
    with pytest.raises(AssertionError):
        turns.wait(other)


def test_an_endpoint_that_was_taken_and_may_not_send_is_left_out_until_it_is_listed_again() -> None:
    turns, origin = EndpointTurns(), new_origin()
    (endpoint,) = listed(turns, origin, 1, classes=[SPARSE, NEW])
    assert turns.take(origin) == (endpoint, SPARSE)
    assert turns.next_origin() is origin
    assert turns.take(origin) == (endpoint, NEW)
    assert turns.next_origin() is None
    turns.list_all(endpoint)
    assert turns.next_origin() is origin
    assert turns.take(origin) == (endpoint, SPARSE)


def test_a_removed_endpoint_does_not_hide_a_new_one_of_the_same_tenant() -> None:
    turns, origin = EndpointTurns(), new_origin()
    listed(turns, origin, 1)
    (new,) = listed(turns, origin, 1)
    turns.take(origin)
    assert turns.take(origin) == (new, NEW)


def test_endpoints_that_wait_for_a_request_are_listed_once_when_a_trial_ends() -> None:
    turns = EndpointTurns()
    endpoints = listed(turns, new_origin(), 1, 2)
    turns.clear()
    for endpoint in endpoints:
        turns.wait_for_request(endpoint)
        turns.wait_for_request(endpoint)
    turns.request_ended(endpoints[0], was_trial=True)
    assert served(turns, 2) == [(1, NEW), (2, NEW)]
    turns.clear()
    turns.request_ended(endpoints[0], was_trial=True)
    assert turns.next_origin() is None


def test_the_end_of_another_request_lists_only_its_endpoint_again() -> None:
    turns = EndpointTurns()
    endpoints = listed(turns, new_origin(), 1, 2)
    turns.clear()
    turns.wait_for_request(endpoints[1])
    turns.request_ended(endpoints[0], was_trial=False)
    assert turns.next_origin() is None
    turns.request_ended(endpoints[1], was_trial=False)
    assert served(turns, 2) == [(2, NEW), (2, NEW)]


def test_a_served_endpoint_without_further_requests_of_the_class_is_not_listed() -> None:
    turns, origin = EndpointTurns(), new_origin()
    (endpoint,) = listed(turns, origin, 1)
    turns.take(origin)
    assert endpoint.ready.take(NEW)
    turns.served(endpoint, NEW)
    assert turns.next_origin() is None

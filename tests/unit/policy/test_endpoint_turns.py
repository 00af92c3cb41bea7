"""The turns of endpoints, and of those that wait for the limit of their upstream origin."""

from __future__ import annotations

from relay.policy.device_queue import DeviceQueue
from relay.policy.endpoint import Endpoint
from relay.policy.endpoint_turns import EndpointTurns
from relay.policy.rate_window import Window
from relay.policy.request_slots import RequestSlots
from relay.policy.upstream_origin import UpstreamOrigin

NOW = 1_000
SLOTS = 8


def ready_endpoints(turns: EndpointTurns, *tenant_ids: int) -> UpstreamOrigin:
    """Activate endpoints with a ready device queue each. Return their origin."""
    origin = UpstreamOrigin("http://localhost", NOW, RequestSlots())
    for tenant_id in tenant_ids:
        endpoint = Endpoint(tenant_id, NOW, origin)
        queue = DeviceQueue(tenant_id, (tenant_id, "tv", "device"), Window())
        queue.set_backlog(1, 400)
        queue.arrive(NOW)
        queue.become_ready()
        endpoint.ready.add(queue)
        turns.activate(endpoint)
        turns.activate(endpoint)
    return origin


def taken(turns: EndpointTurns) -> list[int]:
    endpoints = []
    while endpoint := turns.take():
        endpoints.append(endpoint.tenant_id)
    return endpoints


def test_endpoints_take_turns_and_are_listed_once() -> None:
    turns = EndpointTurns()
    ready_endpoints(turns, 1, 2, 3)
    assert taken(turns) == [1, 2, 3]


def test_the_limit_of_an_origin_is_passed_on_to_one_waiting_endpoint_at_a_time() -> None:
    turns = EndpointTurns()
    origin = ready_endpoints(turns, 1, 2)
    assert not turns.is_waited_for(origin)
    while endpoint := turns.take():
        turns.wait(endpoint)
    assert turns.is_waited_for(origin)
    turns.serve_waiting(origin, SLOTS)
    assert taken(turns) == [1]
    turns.serve_waiting(origin, SLOTS)
    assert taken(turns) == [2]


def test_all_endpoints_that_wait_for_an_origin_are_woken_together() -> None:
    turns = EndpointTurns()
    origin = ready_endpoints(turns, 1, 2)
    while endpoint := turns.take():
        turns.wait(endpoint)
    turns.wake_all(origin)
    assert taken(turns) == [1, 2]
    assert not turns.is_waited_for(origin)

"""The number of endpoints is bounded. Moves of a tenant affect no order, pause or request in flight."""

from __future__ import annotations

from dataclasses import replace

import pytest
from relay.policy import endpoints
from relay.policy.endpoint import SeenError
from relay.policy.endpoints import MAX_UNPROVEN, Endpoints
from relay.policy.requests import Share
from relay.policy.schedule import Schedule
from relay.policy.verdict import Verdict

from tests.unit.policy.harness import (
    DELIVERED,
    FAILING,
    LIMITED,
    LIMITS,
    MISCONFIGURED,
    REJECTED,
    UNAUTHORIZED,
    Harness,
    queues,
    restarted,
)

WINDOW_MS = LIMITS.window_ms


@pytest.fixture
def one_unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only the first tenant without a delivery have its own endpoint."""
    monkeypatch.setattr(endpoints, "MAX_UNPROVEN", 1)


def listed(harness: Harness) -> list[int | None]:
    return [view.tenant_id for view in harness.schedule.endpoints(harness.now)]


def crowded(**changes: object) -> Harness:
    """Return a schedule in which tenant 1, without a delivery, has the only such endpoint."""
    harness = Harness(linger_ms=0, max_in_flight=16, **changes)
    harness.offer(1, tenant=1)
    harness.respond(harness.send(), UNAUTHORIZED)
    return harness


def working_and_crowded() -> Harness:
    """Return the same with a shared endpoint that has delivered an event."""
    harness = crowded()
    harness.offer(99, tenant=99)
    harness.respond(harness.send())
    harness.pass_time(20_000)
    return harness


def test_tenants_beyond_the_limit_share_one_endpoint() -> None:
    harness = Harness()
    for tenant in range(1, 1_001):
        harness.offer(tenant, tenant=tenant)
    assert listed(harness) == [*range(1, MAX_UNPROVEN + 1), None]
    assert sum(harness.schedule.states().values()) == MAX_UNPROVEN + 1


def test_every_tenant_is_served_and_each_request_has_events_of_one(one_unproven: None) -> None:
    harness = crowded(mix_devices="always")
    for queue_id in range(2, 42):
        harness.offer(queue_id, tenant=queue_id // 2)
    while not all(harness.drained(queue_id) for queue_id in range(2, 42)):
        send = harness.send()
        assert {harness.tenants[queue_id] for queue_id in queues(send)} == {send.tenant_id}
        harness.respond(send)


def test_a_tenant_with_pending_events_leaves_the_shared_endpoint_after_its_first_delivery(one_unproven: None) -> None:
    harness = working_and_crowded()
    harness.offer(2, 2, tenant=2)
    for queue_id in (3, 4, 5):
        harness.offer(queue_id, tenant=2)
    harness.offer(9, tenant=3)
    assert listed(harness) == [1, None]
    sends = {queues(send)[0]: send for send in harness.sends()}
    harness.respond(sends[9], FAILING, after_ms=0)
    harness.offer(6, tenant=2)
    harness.offer(7, tenant=2)

    harness.respond(sends[2], after_ms=0)

    assert listed(harness) == [1, None, 2]
    assert harness.endpoint(2).state == "ok"
    # Neither the ready device queues nor the requests in flight notice the move.
    harness.pass_time(1_000)
    assert sorted(queues(send) for send in harness.sends()) == [[6], [7], [9]]
    assert harness.schedule.in_flight() == 6
    for queue_id in (3, 4, 5):
        harness.respond(sends[queue_id], after_ms=0)
    assert harness.schedule.in_flight() == 3
    assert harness.delivered == {99: [0], 2: [0, 1], 3: [0], 4: [0], 5: [0]}


def test_a_tenant_without_further_events_needs_no_endpoint_after_its_first_delivery(one_unproven: None) -> None:
    harness = crowded()
    harness.offer(2, tenant=2)
    harness.respond(harness.send())
    assert listed(harness) == [1, None]
    harness.offer(2, tenant=2)
    assert listed(harness) == [1, None, 2]


def test_a_response_counts_for_the_endpoint_that_sent_the_request(one_unproven: None) -> None:
    harness = working_and_crowded()
    harness.offer(2, 2, tenant=2)
    harness.offer(3, tenant=2)
    first, second = harness.sends()
    harness.offer(2, tenant=2)
    harness.respond(first, after_ms=0)
    assert listed(harness) == [1, None, 2]

    harness.respond(second, UNAUTHORIZED, after_ms=0)

    assert harness.endpoint(None).last_error == SeenError("401 no", harness.now)
    assert harness.endpoint(2).last_error is None


def test_a_pause_of_a_device_survives_the_move(one_unproven: None) -> None:
    harness = working_and_crowded()
    harness.offer(2, 2, tenant=2)
    harness.offer(3, tenant=2)
    first, second = harness.sends()
    harness.schedule.pause(second, harness.now + 5_000)
    harness.schedule.settled(second, harness.now)
    harness.offer(2, tenant=2)
    harness.respond(first, after_ms=0)
    assert [queues(send) for send in harness.sends()] == [[2]]
    harness.pass_time(5_000)
    assert [queues(send) for send in harness.sends()] == [[3]]


def test_an_exact_request_moves_with_its_tenant(one_unproven: None) -> None:
    """Requests in flight at a crash are sent first. A device that was known then gives its tenant an own endpoint."""
    harness = Harness(linger_ms=0)
    harness.offer(1, tenant=1)
    harness.offer(2, 3, tenant=2)
    harness.offer(3, tenant=2)
    harness.offer(4, tenant=3)
    after = restarted(harness, unsettled=[[Share(2, 1)], [Share(4, 1)]])
    assert listed(after) == [1, None]
    after.schedule.restore(3, (2, "tv", "device-3"), b"\x01", after.now, 0)
    assert listed(after) == [1, None, 2]
    exact = [send for send in after.sends() if send.exact]
    assert {send.tenant_id: send.shares for send in exact} == {2: (Share(2, 1),), 3: (Share(4, 1),)}


def test_a_tenant_with_a_known_device_has_its_own_endpoint_after_a_restart(one_unproven: None) -> None:
    harness = crowded()
    harness.offer(2, tenant=2)
    harness.respond(harness.send())
    harness.offer(2, tenant=2)
    harness.offer(3, tenant=3)
    after = restarted(harness)
    assert listed(after) == [1, None, 2]
    assert after.endpoint(2).last_delivered_ms is None


def test_an_endpoint_is_freed_after_one_window_without_pending_events() -> None:
    harness = Harness(linger_ms=0)
    harness.offer(1, tenant=1)
    harness.offer(2, tenant=2)
    first, second = harness.sends()
    harness.respond(first, after_ms=0)
    harness.pass_time(WINDOW_MS - 1)
    harness.forget()
    assert listed(harness) == [1, 2]
    harness.pass_time(1)
    harness.forget()
    assert listed(harness) == [2], "tenant 2 has a request in flight"
    harness.respond(second)
    harness.offer(1, tenant=1)
    assert listed(harness) == [2, 1]
    harness.respond(harness.send())


def test_events_during_the_window_keep_an_endpoint() -> None:
    harness = Harness(linger_ms=0)
    for _ in range(3):
        harness.offer(1, tenant=1)
        harness.respond(harness.send(), after_ms=0)
        harness.pass_time(WINDOW_MS - 1)
        harness.forget()
        assert listed(harness) == [1]
    harness.pass_time(1)
    harness.forget()
    assert listed(harness) == []


def test_the_shared_endpoint_is_freed_too(one_unproven: None) -> None:
    harness = crowded()
    harness.offer(2, tenant=2)
    harness.respond(harness.send(), after_ms=0)
    assert listed(harness) == [1, None]
    harness.pass_time(WINDOW_MS)
    harness.forget()
    assert listed(harness) == [1]


def test_freed_endpoints_make_room_for_other_tenants(one_unproven: None) -> None:
    harness = crowded()
    harness.drop(1, 1)
    harness.offer(2, tenant=2)
    harness.drop(2, 1)
    harness.pass_time(WINDOW_MS)
    assert harness.sends() == []
    harness.forget()
    harness.offer(3, tenant=3)
    assert listed(harness) == [3]


def test_a_tenant_that_a_reload_configures_leaves_the_shared_endpoint(one_unproven: None) -> None:
    origins: dict[int, str] = {}
    limits = replace(LIMITS, linger_ms=0)
    harness = Harness(Schedule(limits, lambda tenant: origins.get(tenant, "a"), lambda: origins), linger_ms=0)
    for tenant in (1, 2, 3):
        harness.offer(tenant, tenant=tenant)
    assert listed(harness) == [1, None]
    origins[2] = "b"
    harness.schedule.configure(harness.limits, harness.now)
    assert listed(harness) == [1, None, 2]
    harness.respond(next(send for send in harness.sends() if send.tenant_id == 2))
    del origins[2]
    harness.schedule.configure(harness.limits, harness.now)
    assert listed(harness) == [1, None, 2]


@pytest.mark.parametrize("verdict", [FAILING, UNAUTHORIZED, LIMITED, DELIVERED], ids=lambda each: type(each).__name__)
def test_a_late_response_of_the_previous_url_does_not_count_for_the_new_one(verdict: Verdict) -> None:
    """It counts for its events, and for the limit of the previous origin."""
    origins = {1: "a"}
    limits = replace(LIMITS, linger_ms=0)
    harness = Harness(Schedule(limits, lambda tenant: origins.get(tenant, "a"), lambda: origins), linger_ms=0)
    for queue_id in (1, 2):
        harness.offer(queue_id)
        harness.offer(10 + queue_id, tenant=2)
    late = next(send for send in harness.sends() if send.tenant_id == 1)
    before = harness.endpoint(1)
    origins[1] = "b"
    harness.schedule.configure(harness.limits, harness.now)
    assert (before.state, harness.endpoint(1).state) == ("untested", "untested")
    harness.respond(late, verdict, u=0.0)
    after = harness.endpoint(1)
    assert (after.state, after.last_error, after.next_attempt_ms) == ("untested", None, None)
    assert harness.endpoint(2).state == ("rate_limited" if verdict is LIMITED else "untested")
    assert harness.drained(queues(late)[0]) is (verdict is DELIVERED)
    harness.round()
    assert harness.endpoint(1).state == "ok"
    assert harness.schedule.in_flight() == 1, "the request of the other tenant"
    assert sum(harness.schedule.states().values()) == 2


@pytest.mark.parametrize("origin_after", ["a", "b"])
@pytest.mark.parametrize("verdict", [FAILING, UNAUTHORIZED, MISCONFIGURED], ids=lambda each: type(each).__name__)
def test_a_late_failure_of_the_previous_configuration_pauses_nothing(verdict: Verdict, origin_after: str) -> None:
    """The URL of the same origin, or its key, may have changed."""
    origins = {1: "a"}
    limits = replace(LIMITS, linger_ms=0)
    harness = Harness(Schedule(limits, lambda tenant: origins.get(tenant, "a"), lambda: origins), linger_ms=0)
    harness.offer(1)
    late = harness.send()
    harness.pass_time(1)
    origins[1] = origin_after
    harness.schedule.configure(harness.limits, harness.now)
    harness.pass_time(1)
    harness.respond(late, verdict)
    assert harness.endpoint(1).state == "untested"
    (again,) = harness.sends()
    assert late.shares == again.shares
    harness.respond(again, verdict)
    assert harness.sends() == []


def test_a_configured_tenant_does_not_count_as_one_of_the_others(one_unproven: None) -> None:
    harness = Harness(Schedule(LIMITS, configured=lambda: [7]))
    for tenant in (7, 1, 2):
        harness.offer(tenant, tenant=tenant)
    assert listed(harness) == [7, 1, None]


def test_the_last_delivery_of_freed_endpoints_is_remembered() -> None:
    configured = [7]
    harness = Harness(Schedule(replace(LIMITS, linger_ms=0), configured=lambda: configured), linger_ms=0)
    for tenant in (7, 1, 2):
        harness.offer(tenant, tenant=tenant)
    for send in harness.sends():
        harness.respond(send, REJECTED if send.tenant_id == 2 else DELIVERED, after_ms=send.tenant_id)
    harness.pass_time(WINDOW_MS)
    harness.forget()
    assert listed(harness) == []
    freed = harness.schedule.freed_endpoints(harness.now)
    delivered = {tenant: view.last_delivered_ms for tenant, view in freed.items()}
    assert delivered == {7: 1_000_007, None: 1_000_008}
    configured.clear()
    harness.schedule.configure(harness.limits, harness.now)
    assert harness.schedule.freed_endpoints(harness.now).keys() == {None}


def test_representation_shows_the_numbers() -> None:
    registry = Endpoints(lambda tenant: "", lambda: (), lambda endpoint: None)
    registry.add_queue(1)
    registry.add_pending(1, 0)
    assert repr(registry) == "Endpoints(1 for 1 tenants, 1 unproven)"

"""What the endpoints of one upstream origin share."""

from __future__ import annotations

import pytest
from relay.policy.endpoint_health import Health
from relay.policy.request_slots import RequestSlots
from relay.policy.upstream_origin import UpstreamOrigin

UNTESTED, OK, FAILING = Health("untested", 0), Health("ok", 0), Health("unauthorized", 0, 1)


@pytest.fixture
def origin() -> UpstreamOrigin:
    return UpstreamOrigin("https://a.example", 0, RequestSlots())


def test_a_limit_changes_the_state_of_each_endpoint_that_does_not_fail(origin: UpstreamOrigin) -> None:
    for health in (UNTESTED, OK, FAILING):
        origin.count(None, health)
    assert origin.states() == {"untested": 1, "ok": 1, "unauthorized": 1}
    assert [origin.state_of(health) for health in (UNTESTED, OK, FAILING)] == ["untested", "ok", "unauthorized"]
    origin.limit.limited(0, 10, 20)
    assert origin.states() == {"rate_limited": 2, "unauthorized": 1}
    assert [origin.state_of(health) for health in (UNTESTED, OK, FAILING)] == [
        "rate_limited",
        "rate_limited",
        "unauthorized",
    ]


def test_endpoints_are_counted_until_they_are_removed(origin: UpstreamOrigin) -> None:
    origin.count(None, OK)
    origin.count(OK, FAILING)
    assert (origin.endpoints, origin.states()["ok"]) == (1, 0)
    origin.count(FAILING, None)
    assert origin.endpoints == 0
    with pytest.raises(AssertionError):
        origin.count(FAILING, None)


def test_a_limit_bounds_the_requests_in_flight_of_all_endpoints(origin: UpstreamOrigin) -> None:
    endpoints = [RequestSlots(origin.slots) for _ in range(3)]
    for slots in endpoints:
        slots.change("free", "occupied")
    assert origin.has_room()
    origin.limit.limited(0, 10, 3)
    assert not origin.has_room()
    endpoints[0].change("occupied", "free")
    assert origin.has_room()
    assert origin.slots.in_flight == 2


def test_the_representation_shows_the_state(origin: UpstreamOrigin) -> None:
    assert repr(origin).startswith("UpstreamOrigin(https://a.example, SharedLimit(Free(), ")

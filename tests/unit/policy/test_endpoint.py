"""Which requests an endpoint may send, by its state and the requests in flight."""

from __future__ import annotations

import pytest
from relay.policy.endpoint import Endpoint
from relay.policy.position import SlotUse
from relay.policy.request_slots import RequestSlots, Room
from relay.policy.upstream_origin import UpstreamOrigin

SLOTS = 8
NONE, OTHERS, ANY = Room(False, False), Room(False, True), Room(True, True)
TRIAL, OTHER_TRIAL = Room(True, True, True), Room(False, True, True)


def endpoint_with(state: str) -> Endpoint:
    endpoint = Endpoint(1, 0, UpstreamOrigin("http://localhost", 0, RequestSlots()))
    if state != "untested":
        endpoint.succeeded([1], 0, 100)
    if state == "silent":
        endpoint.fell_silent(200)
    if state == "failing":
        endpoint.failed("backing_off", "503", 200, 300)
    return endpoint


def use(endpoint: Endpoint, *uses: SlotUse) -> None:
    for each in uses:
        if each == "stalled":
            endpoint.slots.change("free", "occupied")
        endpoint.slots.change("occupied" if each == "stalled" else "free", each)


@pytest.mark.parametrize(
    ("state", "is_only", "in_flight", "expected"),
    [
        ("untested", True, [], ANY),
        ("untested", True, ["occupied"] * 7, ANY),
        ("untested", True, ["occupied"] * 8, NONE),
        ("untested", True, ["stalled"] * 16, NONE),
        ("untested", False, [], TRIAL),
        ("untested", False, ["trial"], NONE),
        ("untested", False, ["stalled"], TRIAL),
        ("ok", True, ["occupied"] * 7, ANY),
        ("ok", True, ["trial"] * 4, OTHERS),
        ("ok", True, ["stalled"] * 16, OTHERS),
        ("ok", True, ["stalled"] * 63, OTHERS),
        ("ok", False, ["occupied"] * 6, ANY),
        ("ok", False, ["occupied"] * 7, NONE),
        ("ok", False, ["stalled"] * 47, OTHERS),
        ("ok", False, ["stalled"] * 48, NONE),
        ("silent", True, ["stalled"] * 8, TRIAL),
        ("silent", True, ["stalled"] * 8 + ["trial"], OTHER_TRIAL),
        ("silent", True, ["stalled"] * 8 + ["trial"] * 2, NONE),
        ("silent", True, ["stalled"] * 56, NONE),
        ("failing", True, [], TRIAL),
        ("failing", True, ["stalled"], NONE),
    ],
)
def test_room(state: str, is_only: bool, in_flight: list[SlotUse], expected: Room) -> None:
    endpoint = endpoint_with(state)
    use(endpoint, *in_flight)
    assert endpoint.room(SLOTS, endpoint.origin.slots, 400, is_only=is_only) == expected


@pytest.mark.parametrize("state", ["untested", "silent", "failing"])
def test_trials_of_other_endpoints_count(state: str) -> None:
    endpoint = endpoint_with(state)
    use(Endpoint(2, 0, endpoint.origin), *["trial"] * 4)
    assert endpoint.room(SLOTS, endpoint.origin.slots, 400, is_only=False) == NONE


def test_without_a_recent_success_it_has_a_quarter_of_the_connections() -> None:
    endpoint = endpoint_with("ok")
    use(endpoint, *["stalled"] * 16)
    assert endpoint.room(SLOTS, endpoint.origin.slots, 600_101, is_only=True) == NONE


@pytest.mark.parametrize(("since", "state"), [(99, "ok"), (100, "silent"), (101, "silent")])
def test_it_falls_silent_unless_another_request_succeeded_meanwhile(since: int, state: str) -> None:
    endpoint = endpoint_with("ok")
    endpoint.fell_silent(since)
    assert endpoint.health.state == state
    assert endpoint.state() == "ok", "as shown to people"


@pytest.mark.parametrize(("sent_at", "expected"), [(-4_900, True), (-4_899, False), (100, False)])
def test_it_served_others_while_a_request_hung(sent_at: int, expected: bool) -> None:
    assert endpoint_with("ok").served_others(sent_at) is expected


@pytest.mark.parametrize(
    ("state", "slot", "trials", "expected"),
    [
        ("untested", "occupied", 0, 5_000),
        ("untested", "trial", 0, 2_000),
        ("ok", "occupied", 20, 800),
        ("ok", "trial", 20, 800),
        ("silent", "occupied", 8, 800),
        ("silent", "trial", 7, 800),
        ("silent", "trial", 8, 5_000),
    ],
)
def test_the_time_after_which_a_request_is_stalled(state: str, slot: SlotUse, trials: int, expected: int) -> None:
    endpoint = endpoint_with(state)
    if state != "untested":
        endpoint.patience.succeeded(400)
    for _ in range(trials):
        endpoint.sent("trial", 300)
    assert endpoint.stalls_after_ms(slot, SLOTS) == expected

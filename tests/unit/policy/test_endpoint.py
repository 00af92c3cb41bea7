"""Which requests an endpoint may send, by its state and the requests in flight."""

from __future__ import annotations

import pytest
from relay.policy.device_queue import DeviceQueue
from relay.policy.diagnosis import BatchDelayed
from relay.policy.endpoint import Endpoint
from relay.policy.position import SlotUse
from relay.policy.request_slots import STALLED_MS, RequestSlots, Room
from relay.policy.upstream_origin import UpstreamOrigin

SLOTS = 8
NONE, PROVEN, NOT_IN_DOUBT, ANY = (
    Room(False, False, False),
    Room(False, False, True),
    Room(False, True, True),
    Room(True, True, True),
)
TRIAL, UNPROVEN_TRIAL = Room(True, True, True, True), Room(False, True, True, True)
HUNG_AT = 90


def endpoint_with(state: str) -> Endpoint:
    """Return an endpoint with a success at 100 unless it is "untested"; "silent": its requests hang from then on."""
    endpoint = Endpoint(1, 0, UpstreamOrigin("http://localhost", 0, RequestSlots()))
    if state != "untested":
        endpoint.succeeded([1], 0, 100)
    if state == "failing":
        endpoint.failed("backing_off", "503", 200, 300)
    return endpoint


def use(endpoint: Endpoint, *uses: SlotUse, progress_at: int = HUNG_AT) -> None:
    for each in uses:
        if each in ("overdue", "stalled"):
            endpoint.slots.change("free", "occupied")
        endpoint.slots.change("occupied" if each in ("overdue", "stalled") else "free", each, progress_at)


@pytest.mark.parametrize(
    ("state", "is_only", "in_flight", "expected"),
    [
        ("untested", True, [], ANY),
        ("untested", True, ["occupied"] * 7, ANY),
        ("untested", True, ["occupied"] * 8, NONE),
        ("untested", True, ["overdue"] * 4, UNPROVEN_TRIAL),
        ("untested", True, ["overdue"] * 6, NONE),
        ("untested", True, ["stalled"] * 15, TRIAL),
        ("untested", True, ["stalled"] * 16, NONE),
        ("untested", False, [], TRIAL),
        ("untested", False, ["trial"], NONE),
        ("untested", False, ["stalled"], TRIAL),
        ("ok", True, ["occupied"] * 7, ANY),
        ("ok", True, ["trial"] * 4, NOT_IN_DOUBT),
        ("ok", True, ["trial"] * 6, NOT_IN_DOUBT),
        ("ok", True, ["overdue"] * 3, ANY),
        ("ok", True, ["overdue"] * 4, NOT_IN_DOUBT),
        ("ok", True, ["overdue"] * 6, PROVEN),
        ("ok", True, ["overdue"] * 7, PROVEN),
        ("ok", True, ["overdue"] * 8, NONE),
        ("ok", True, ["stalled"] * 16, NOT_IN_DOUBT),
        ("ok", True, ["stalled"] * 63, PROVEN),
        ("ok", False, ["occupied"] * 6, ANY),
        ("ok", False, ["occupied"] * 7, NONE),
        ("ok", False, ["stalled"] * 47, NOT_IN_DOUBT),
        ("ok", False, ["stalled"] * 48, NONE),
        ("silent", True, ["overdue"] * 3, TRIAL),
        ("silent", True, ["overdue"] * 5, UNPROVEN_TRIAL),
        ("silent", True, ["overdue"] * 6, NONE),
        ("silent", True, ["stalled"] * 15 + ["overdue"], NONE),
        ("silent", True, ["stalled"] * 16, TRIAL),
        ("silent", True, ["stalled"] * 56, NONE),
        ("silent", False, ["overdue"] * 3, TRIAL),
        ("silent", False, ["overdue", "trial"], NONE),
        ("silent", False, ["overdue"] * 4, NONE),
        ("silent", False, ["stalled"] * 15 + ["overdue"], NONE),
        ("silent", False, ["stalled"] * 4, TRIAL),
        ("failing", True, [], TRIAL),
        ("failing", True, ["stalled"], NONE),
    ],
)
def test_room(state: str, is_only: bool, in_flight: list[SlotUse], expected: Room) -> None:
    endpoint = endpoint_with(state)
    use(endpoint, *in_flight, progress_at=200 if state == "silent" else HUNG_AT)
    assert endpoint.room(SLOTS, endpoint.origin.slots, 400, is_only=is_only) == expected


@pytest.mark.parametrize(
    ("state", "others", "progress_at", "expected"),
    [
        ("untested", ["trial"] * 4, 0, UNPROVEN_TRIAL),
        ("untested", ["trial"] * 6, 0, NONE),
        ("failing", ["trial"] * 4, 0, NONE),
        ("ok", ["trial"] * 4, 0, NOT_IN_DOUBT),
        ("ok", ["overdue"] * 3, 100, ANY),
        ("ok", ["overdue"] * 7, 100, NOT_IN_DOUBT),
        ("ok", ["overdue"] * 3, 101, TRIAL),
        ("ok", ["overdue"] * 4, 101, UNPROVEN_TRIAL),
        ("ok", ["overdue"] * 6, 101, NONE),
    ],
)
def test_requests_of_other_endpoints_count(state: str, others: list[SlotUse], progress_at: int, expected: Room) -> None:
    """An endpoint without a success since the requests of another one hang is tried like one that was never served."""
    endpoint = endpoint_with(state)
    use(Endpoint(2, 0, endpoint.origin), *others, progress_at=progress_at)
    assert endpoint.room(SLOTS, endpoint.origin.slots, 400, is_only=False) == expected


@pytest.mark.parametrize(("hung", "is_only", "expected"), [(3, False, ANY), (4, False, TRIAL), (4, True, ANY)])
def test_an_endpoint_beside_others_falls_silent_after_half_of_the_request_slots_without_a_success(
    hung: int, is_only: bool, expected: Room
) -> None:
    """One of its devices hung before its latest success already."""
    endpoint = endpoint_with("ok")
    use(endpoint, "overdue", "stalled", "stalled", "stalled")
    for _ in range(hung):
        endpoint.slot_use("occupied", STALLED_MS)
    assert endpoint.room(SLOTS, endpoint.origin.slots, 400, is_only=is_only) == expected
    endpoint.succeeded([1], 0, 300)
    assert endpoint.room(SLOTS, endpoint.origin.slots, 400, is_only=is_only) == ANY


def test_without_a_recent_success_it_has_a_quarter_of_the_connections() -> None:
    endpoint = endpoint_with("ok")
    use(endpoint, *["stalled"] * 16)
    assert endpoint.room(SLOTS, endpoint.origin.slots, 600_101, is_only=True) == NONE


@pytest.mark.parametrize(("sent_at", "expected"), [(-700, True), (-699, False), (100, False)])
def test_it_served_others_while_a_request_hung(sent_at: int, expected: bool) -> None:
    endpoint = endpoint_with("ok")
    endpoint.patience.succeeded(400)
    assert endpoint.served_others(sent_at) is expected


@pytest.mark.parametrize(
    ("before", "silent_ms", "expected"),
    [
        ("occupied", 799, "occupied"),
        ("occupied", 800, "overdue"),
        ("occupied", 4_999, "overdue"),
        ("occupied", 5_000, "stalled"),
        ("trial", 799, "trial"),
        ("trial", 800, "overdue"),
        ("overdue", 5_000, "stalled"),
        ("overdue", 0, "occupied"),
        ("stalled", 5_250, "stalled"),
        ("stalled", 0, "occupied"),
    ],
)
def test_the_use_of_a_request_slot_without_progress(before: SlotUse, silent_ms: int, expected: SlotUse) -> None:
    endpoint = endpoint_with("ok")
    endpoint.patience.succeeded(400)
    assert endpoint.slot_use(before, silent_ms) == expected


def test_a_device_that_was_not_served_since_requests_hang_is_unproven() -> None:
    endpoint = endpoint_with("ok")
    served, other, failed = (DeviceQueue(n, (1, "tv", str(n))) for n in (1, 2, 3))
    endpoint.succeeded([3], 0, 100)
    failed.diagnose(BatchDelayed())
    assert not endpoint.is_trial([(served, 1), (other, 1)])
    use(endpoint, "overdue")
    assert [endpoint.is_trial([(queue, 1)]) for queue in (served, other, failed)] == [False, True, True]
    assert endpoint.is_trial([(served, 1), (other, 1)])

"""The use of request slots, counted for one endpoint and for all: requests that hang leave slots for the others."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from relay.policy.position import SlotUse
from relay.policy.request_slots import RequestSlots
from relay.policy.requests import Send, Share, Wait

from tests.unit.policy.harness import FAILING, RESET, Harness, queues, restarted

SLOTS = 2
NOTHING_KNOWN_MS = 5_000
RESPONSE_MS = 400


@pytest.mark.parametrize(
    ("uses", "in_flight", "occupied"),
    [
        (["free"], 0, 0),
        (["free", "occupied"], 1, 1),
        (["free", "occupied", "stalled"], 1, 0),
        (["free", "occupied", "stalled", "occupied"], 1, 1),
        (["free", "occupied", "stalled", "free"], 0, 0),
        (["free", "occupied", "free"], 0, 0),
        (["free", "occupied", "occupied"], 1, 1),
        (["free", "trial"], 1, 1),
        (["free", "trial", "stalled"], 1, 0),
        (["free", "trial", "stalled", "occupied"], 1, 1),
        (["free", "trial", "free"], 0, 0),
    ],
)
def test_each_change_is_counted_for_the_endpoint_and_for_all(
    uses: list[SlotUse], in_flight: int, occupied: int
) -> None:
    everything = RequestSlots()
    RequestSlots(everything).change("free", "occupied")
    slots = RequestSlots(everything)
    for before, after in pairwise(uses):
        slots.change(before, after)
    assert (slots.in_flight, slots.occupied) == (in_flight, occupied)
    assert (everything.in_flight, everything.occupied) == (in_flight + 1, occupied + 1)


@pytest.mark.parametrize(
    ("before", "after"), [("free", "stalled"), ("occupied", "free"), ("stalled", "occupied"), ("trial", "free")]
)
def test_a_change_of_a_request_that_is_not_counted_is_impossible(before: SlotUse, after: SlotUse) -> None:
    with pytest.raises(AssertionError):
        RequestSlots().change(before, after)


@pytest.mark.parametrize(
    ("request_slots", "trials", "others", "permitted"),
    [
        (8, 3, 4, True),
        (8, 4, 0, False),
        (8, 0, 55, True),
        (8, 0, 56, False),
        (1, 0, 0, True),
        (1, 1, 0, False),
        (3, 1, 0, False),
    ],
)
def test_trials_use_half_of_the_request_slots_and_leave_connections_for_others(
    request_slots: int, trials: int, others: int, permitted: bool
) -> None:
    everything = RequestSlots()
    for _ in range(trials):
        everything.change("free", "trial")
    for _ in range(others):
        everything.change("free", "occupied")
        everything.change("occupied", "stalled")
    assert everything.permits_trial(request_slots) is permitted


# -- requests that hang


def harness_with_two_slots(*, succeeded: bool, devices: int = 100) -> Harness:
    """Return a harness with many due devices and two request slots."""
    harness = Harness(max_in_flight=SLOTS, mix_devices="never")
    if succeeded:
        harness.offer(1)
        harness.respond(harness.send(), after_ms=RESPONSE_MS)
        harness.now += 60_000
    for queue_id in range(10, 10 + devices):
        harness.offer(queue_id)
    harness.schedule.flush(harness.now)
    return harness


def hang(harness: Harness, sends: Sequence[Send], ms: int) -> None:
    harness.now += ms
    for send in sends:
        harness.schedule.silent(send, ms, harness.now)


@pytest.mark.parametrize(
    ("succeeded", "stalls_after_ms"), [(False, NOTHING_KNOWN_MS), (True, 2 * RESPONSE_MS)], ids=["first", "later"]
)
def test_a_request_without_progress_frees_its_request_slot(succeeded: bool, stalls_after_ms: int) -> None:
    harness = harness_with_two_slots(succeeded=succeeded)
    first, second = harness.sends()
    assert isinstance(harness.next(), Wait)
    assert not harness.schedule.silent(first, stalls_after_ms - 1, harness.now)
    assert isinstance(harness.next(), Wait)
    assert harness.schedule.silent(first, stalls_after_ms, harness.now)
    assert not harness.schedule.silent(first, stalls_after_ms + 250, harness.now)
    (third,) = harness.sends()
    assert harness.schedule.silent(second, stalls_after_ms, harness.now)
    assert len(harness.sends()) == (0 if succeeded else 1), "one trial at a time"
    harness.respond(third)
    assert harness.sends()


def test_a_request_that_makes_progress_again_occupies_its_request_slot_again() -> None:
    harness = harness_with_two_slots(succeeded=False)
    first, second = harness.sends()
    harness.schedule.silent(first, NOTHING_KNOWN_MS, harness.now)
    (third,) = harness.sends()
    assert harness.schedule.silent(first, 0, harness.now)
    harness.respond(second)
    assert isinstance(harness.next(), Wait)
    harness.respond(third)
    assert len(harness.sends()) == 1


def test_an_upstream_that_is_slow_for_all_gets_no_more_requests_at_a_time() -> None:
    harness = harness_with_two_slots(succeeded=False)
    for _ in range(10):
        sends = harness.sends()
        assert len(sends) == SLOTS
        hang(harness, sends, 3_000)
        assert isinstance(harness.next(), Wait)
        for send in sends:
            harness.respond(send, after_ms=0)


@pytest.mark.parametrize(("succeeded", "connections"), [(True, 14), (False, 4)])
def test_requests_that_all_hang_leave_connections_for_other_endpoints(succeeded: bool, connections: int) -> None:
    """Without a recent success an endpoint uses a quarter of the connections, and else all but one per slot."""
    harness = harness_with_two_slots(succeeded=succeeded)
    sent: list[Send] = []
    while sends := harness.sends():
        sent += sends
        hang(harness, sends, NOTHING_KNOWN_MS)
    assert len(sent) == connections
    for send in sent:
        harness.respond(send)
    assert harness.schedule.in_flight() == 0
    assert len(harness.sends()) == SLOTS


def test_devices_that_hang_beside_others_use_at_most_all_connections() -> None:
    harness = harness_with_two_slots(succeeded=True)
    sent: list[Send] = []
    while sends := harness.sends():
        sent += sends[:-1]
        harness.respond(sends.pop(), after_ms=100)
        harness.now += NOTHING_KNOWN_MS
        for send in sends:
            harness.schedule.silent(send, NOTHING_KNOWN_MS + 100, harness.now)
    assert len(sent) == 8 * SLOTS - 1


def test_while_all_requests_hang_the_trials_are_soon_5_s_apart() -> None:
    """So that they notice a recovery before the timeout, and are few."""
    harness = harness_with_two_slots(succeeded=True)
    hang(harness, harness.sends(), 2 * RESPONSE_MS)
    sent_at = []
    while len(sent_at) < 6:
        sends = harness.sends()
        sent_at += [harness.now] * len(sends)
        harness.now += next(ms for ms in range(250, 6_000, 250) if harness.schedule.silent(sends[0], ms, harness.now))
    assert [later - earlier for earlier, later in pairwise(sent_at)] == [1_000, 5_000, 5_000, 5_000, 5_000]


def test_a_failing_endpoint_has_one_probe_even_if_the_probe_stalls() -> None:
    harness = harness_with_two_slots(succeeded=False)
    for send in harness.sends():
        harness.respond(send, FAILING)
    probe = harness.send()
    hang(harness, [probe], 20_000)
    assert isinstance(harness.next(), Wait)


def test_silent_tenants_leave_request_slots_for_one_that_was_served() -> None:
    harness = Harness(linger_ms=0, mix_devices="never")
    harness.offer(1, tenant=1)
    harness.round()
    for tenant in range(2, 22):
        harness.offer(10 * tenant, tenant=tenant)
        harness.offer(10 * tenant + 1, tenant=tenant)
    silent = harness.sends()
    assert len({send.tenant_id for send in silent}) == len(silent) == harness.limits.max_in_flight // 2
    harness.offer(1, tenant=1)
    assert [queues(send) for send in harness.sends()] == [[1]]
    hang(harness, silent, NOTHING_KNOWN_MS)
    assert len(harness.sends()) == len(silent)


def test_a_tenant_that_falls_silent_does_so_within_twice_its_response_time() -> None:
    harness = Harness(linger_ms=0, mix_devices="never")
    for tenant in (1, 2):
        harness.offer(tenant, tenant=tenant)
        harness.respond(harness.send(), after_ms=RESPONSE_MS)
    for queue_id in range(10, 30):
        harness.offer(queue_id, tenant=2)
    silent = harness.sends()
    assert len(silent) == harness.limits.max_in_flight - 1
    hang(harness, silent, 2 * RESPONSE_MS)
    assert len(harness.sends()) == 2, "trials"
    for queue_id in range(30, 36):
        harness.offer(queue_id, tenant=1)
    assert len(harness.sends()) == 6


def test_devices_in_doubt_use_half_of_the_request_slots() -> None:
    harness = Harness(linger_ms=0, mix_devices="never")
    for queue_id in range(30):
        harness.offer(queue_id)
        harness.respond(harness.send(), after_ms=100)
    for queue_id in range(1, 10):
        harness.offer(queue_id)
        harness.round(FAILING, u=0.9)
        harness.offer(20)
        harness.round()
    harness.now += 10_000
    in_doubt = harness.sends()
    assert len(in_doubt) == harness.limits.max_in_flight // 2
    for queue_id in range(10, 20):
        harness.offer(queue_id)
    others = harness.sends()
    assert [queues(send) for send in others] == [[10], [11], [12], [13]]
    hang(harness, in_doubt, 500)
    assert len(harness.sends()) == len(in_doubt)


def test_the_timeout_of_a_device_beside_others_that_were_served_is_its_fault() -> None:
    harness = Harness(linger_ms=0, mix_devices="never")
    harness.offer(9)
    harness.respond(harness.send(), after_ms=100)
    for queue_id in (1, 2, 3):
        harness.offer(queue_id)
    sends = harness.sends()
    hang(harness, sends, 10_000)
    harness.offer(9)
    harness.respond(harness.send(), after_ms=100)
    harness.now += 20_000
    for send in sends:
        harness.respond(send, RESET, after_ms=1)
    assert harness.endpoint(1).state == "ok"


def test_requests_in_flight_at_a_crash_leave_request_slots_for_the_others() -> None:
    before = Harness(linger_ms=0, mix_devices="never")
    for queue_id in range(20):
        before.offer(queue_id)
    after = restarted(before, unsettled=[[Share(queue_id, 1)] for queue_id in range(9)])
    after.schedule.flush(after.now)
    sends = after.sends()
    assert [send.exact for send in sends].count(True) == after.limits.max_in_flight // 2
    assert len(sends) == after.limits.max_in_flight


def test_a_failing_endpoint_is_probed_with_a_device_that_did_not_fail() -> None:
    """Not even an exact request is sent before, because it may hang."""
    before = Harness(linger_ms=0, mix_devices="never")
    for queue_id in (1, 2, 3):
        before.offer(queue_id)
    after = restarted(before, unsettled=[[Share(1, 1)]])
    after.schedule.flush(after.now)
    for send in after.sends():
        after.respond(send, FAILING)
    after.offer(4)
    after.schedule.flush(after.now)
    assert queues(after.send()) == [4]

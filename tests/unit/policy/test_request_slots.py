"""The use of request slots, counted for one endpoint and for all: requests that hang leave slots for the others."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from relay.policy.position import SlotUse
from relay.policy.request_slots import STALLED_MS, RequestSlots
from relay.policy.requests import Reply, Send, Share, Wait

from tests.unit.policy.harness import EVENT_BYTES, FAILING, REJECTED, RESET, Harness, queues, restarted

SLOTS = 2
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
        (["free", "occupied", "overdue"], 1, 1),
        (["free", "trial", "overdue", "stalled"], 1, 0),
        (["free", "occupied", "overdue", "free"], 0, 0),
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
    ("request_slots", "uses", "in_doubt", "unproven"),
    [
        (8, ["trial"] * 3 + ["occupied"] * 4, True, True),
        (8, ["trial"] * 4, False, True),
        (8, ["trial"] * 2 + ["overdue"] * 2, False, True),
        (8, ["trial"] * 3 + ["overdue"] * 2, False, True),
        (8, ["trial"] * 3 + ["overdue"] * 3, False, False),
        (8, ["stalled"] * 55, True, True),
        (8, ["stalled"] * 56, False, False),
        (4, ["overdue"] * 2, False, True),
        (4, ["overdue"] * 3, False, False),
        (3, ["trial"], False, True),
        (2, ["trial"], False, True),
        (1, [], True, True),
        (1, ["trial"], False, False),
    ],
)
def test_trials_leave_request_slots_and_connections_for_others(
    request_slots: int, uses: list[SlotUse], in_doubt: bool, unproven: bool
) -> None:
    everything = RequestSlots()
    for use in uses:
        everything.change("free", "trial")
        everything.change("trial", use)
    assert everything.permits_in_doubt(request_slots) is in_doubt
    assert everything.permits_unproven(request_slots) is unproven


def test_requests_hang_from_the_last_progress_of_the_first_one_until_none_hangs() -> None:
    everything = RequestSlots()
    slots = RequestSlots(everything)
    for _ in range(2):
        slots.change("free", "occupied")
    seen = []
    for before, after, progress_at in [
        ("occupied", "overdue", 10), ("occupied", "overdue", 20), ("overdue", "stalled", 10), ("stalled", "free", 0),
        ("overdue", "occupied", 0), ("occupied", "stalled", 30),
    ]:  # fmt: skip
        slots.change(before, after, progress_at)
        assert everything.hanging_since == slots.hanging_since
        seen.append((slots.hanging, slots.hanging_since))
    assert seen == [(1, 10), (2, 10), (2, 10), (1, 10), (0, None), (1, 30)]


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


@pytest.mark.parametrize("succeeded", [False, True])
def test_a_request_without_progress_for_5_s_frees_its_request_slot(succeeded: bool) -> None:
    harness = harness_with_two_slots(succeeded=succeeded)
    first, _ = harness.sends()
    overdue_after_ms = 2 * RESPONSE_MS if succeeded else 2_000
    assert not harness.schedule.silent(first, overdue_after_ms - 1, harness.now)
    assert harness.schedule.silent(first, overdue_after_ms, harness.now)
    assert not harness.schedule.silent(first, STALLED_MS - 1, harness.now)
    assert isinstance(harness.next(), Wait)
    assert harness.schedule.silent(first, STALLED_MS, harness.now)
    assert not harness.schedule.silent(first, STALLED_MS + 250, harness.now)
    assert len(harness.sends()) == 1


def test_a_request_that_makes_progress_again_occupies_its_request_slot_again() -> None:
    harness = harness_with_two_slots(succeeded=False)
    first, second = harness.sends()
    harness.schedule.silent(first, STALLED_MS, harness.now)
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
        hang(harness, sends, STALLED_MS)
    assert len(sent) == connections
    for send in sent:
        harness.respond(send)
    assert harness.schedule.in_flight() == 0
    assert len(harness.sends()) == SLOTS


def test_devices_that_hang_beside_others_leave_connections_for_those() -> None:
    harness = harness_with_two_slots(succeeded=True)
    sent: list[Send] = []
    while sends := harness.sends():
        sent += sends[:-1]
        harness.respond(sends.pop(), after_ms=100)
        harness.now += STALLED_MS
        for send in sends:
            harness.schedule.silent(send, STALLED_MS + 100, harness.now)
    assert len(sent) == 7 * SLOTS - 1


def test_while_many_requests_hang_the_trials_are_5_s_apart() -> None:
    """So that they notice a recovery before the timeout, and are few."""
    harness = harness_with_two_slots(succeeded=True)
    in_flight = [(send, harness.now) for send in harness.sends()]
    sent_at = []
    while len(sent_at) < 7:
        harness.now += 250
        for send, at in in_flight:
            harness.schedule.silent(send, harness.now - at, harness.now)
        in_flight += [(send, harness.now) for send in harness.sends()]
        sent_at = [at for _, at in in_flight]
    assert [later - earlier for earlier, later in pairwise(sent_at)] == [0, 5_000, 1_000, 5_000, 5_000, 5_000]


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
    assert len({send.tenant_id for send in silent}) == len(silent) == harness.limits.max_in_flight * 3 // 4
    harness.offer(1, tenant=1)
    assert [queues(send) for send in harness.sends()] == [[1]]
    hang(harness, silent, 2_000)
    assert not harness.sends()
    hang(harness, silent, STALLED_MS)
    assert len(harness.sends()) == len(silent)


def test_a_tenant_that_falls_silent_has_one_trial_at_a_time() -> None:
    harness = Harness(linger_ms=0, mix_devices="never")
    for tenant in (1, 2):
        harness.offer(tenant, tenant=tenant)
        harness.respond(harness.send(), after_ms=RESPONSE_MS)
    silent = []
    for queue_id in (10, 11):
        harness.offer(queue_id, tenant=2)
        silent += harness.sends()
    harness.now += 2 * RESPONSE_MS
    hang(harness, silent, 2 * RESPONSE_MS)
    for queue_id in range(12, 30):
        harness.offer(queue_id, tenant=2)
    trials = harness.sends()
    assert len(trials) == 1
    hang(harness, trials, 2 * RESPONSE_MS)
    trials += harness.sends()
    assert len(trials) == 2
    hang(harness, trials, 2 * RESPONSE_MS)
    assert not harness.sends()
    hang(harness, [*silent, *trials], STALLED_MS)
    assert len(harness.sends()) == 1


def test_a_tenant_whose_requests_hung_until_they_ended_has_one_trial_at_a_time_while_others_hang() -> None:
    harness = Harness(linger_ms=0, mix_devices="never")
    harness.answer = REJECTED
    harness.know(10, 20, tenant=2)
    harness.know(30, tenant=3)
    harness.offer(30, tenant=3)
    hang(harness, harness.sends(), 3_000)
    harness.know(20, tenant=2)
    harness.offer(10, tenant=2)
    silent = harness.send()
    hang(harness, [silent], 3_000)
    harness.respond(silent, RESET)
    for queue_id in range(20, 30):
        harness.offer(queue_id, tenant=2)
    trial = harness.send()
    assert isinstance(harness.next(), Wait)
    harness.respond(trial)
    assert len(harness.sends()) > 1


def test_a_device_that_was_served_while_others_hang_always_finds_a_request_slot() -> None:
    harness = Harness(linger_ms=0, mix_devices="never")
    for queue_id in range(30):
        harness.offer(queue_id)
        harness.respond(harness.send(), after_ms=RESPONSE_MS)
    for queue_id in (1, 2, 3, 4):
        harness.offer(queue_id)
    hanging = harness.sends()
    hang(harness, hanging, 2 * RESPONSE_MS)
    harness.offer(20)
    harness.respond(harness.send())
    for queue_id in range(5, 20):
        harness.offer(queue_id)
    hanging += harness.sends()
    assert [queues(send) for send in hanging[4:]] == [[5], [6]]
    harness.offer(20)
    harness.offer(21)
    assert [queues(send) for send in harness.sends()] == [[20]]


def test_a_batch_without_events_that_hangs_frees_its_request_slot() -> None:
    harness = Harness(linger_ms=0, mix_devices="never", max_in_flight=1)
    harness.offer(1)
    send, reply = harness.send(), Reply({1: 1}, EVENT_BYTES, RESET, harness.now)
    harness.schedule.responded(send, reply, harness.now, 0.5)
    harness.schedule.settled(send, harness.now)
    empty = harness.schedule.next(harness.now)
    assert isinstance(empty, Send)
    assert not empty.shares
    harness.pass_time(10_000)
    assert isinstance(harness.schedule.next(harness.now), Wait)
    assert harness.schedule.silent(empty, STALLED_MS, harness.now)
    assert not harness.schedule.silent(empty, STALLED_MS + 250, harness.now)
    assert isinstance(harness.schedule.next(harness.now), Send)


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
    while others:
        for send in others:
            harness.respond(send, after_ms=0)
        others = harness.sends()
    hang(harness, in_doubt, 500)
    assert not harness.sends()
    harness.offer(10)
    harness.respond(harness.send(), after_ms=0)
    hang(harness, in_doubt, STALLED_MS)
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
    for queue_id in range(9):
        before.offer(queue_id)
    after = restarted(before, unsettled=[[Share(queue_id, 1)] for queue_id in range(9)])
    after.schedule.flush(after.now)
    for send in after.sends():
        after.respond(send, FAILING)
    after.offer(20)
    after.schedule.flush(after.now)
    assert queues(after.send()) == [20]

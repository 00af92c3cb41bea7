"""Rates, fairness and pauses: which device queue sends which events, and when."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from relay.policy.device_queue import linger_end, phase
from relay.policy.endpoint import SeenError
from relay.policy.requests import Reply, Send, Share, Wait
from relay.policy.schedule import Schedule
from relay.policy.verdict import EventsRejected, Failing, Misconfigured, RateLimited, Resend, Verdict

from tests.support.calls import count_calls
from tests.unit.policy.harness import (
    DELIVERED,
    EVENT_BYTES,
    FAILING,
    LIMITED,
    LIMITS,
    REJECTED,
    RESET,
    UNAUTHORIZED,
    UNREACHABLE,
    Harness,
    queues,
    restarted,
)

# -- linger


def test_without_events_the_schedule_waits_for_a_change() -> None:
    assert Harness().next() == Wait(None)


def test_an_event_lingers_until_the_phase_of_its_device() -> None:
    harness = Harness()
    harness.offer(1)
    due_at = linger_end(phase((1, "tv", "device-1")), harness.now, LIMITS.linger_ms)
    assert harness.next() == Wait(due_at)
    harness.pass_time(due_at - harness.now - 1)
    assert harness.next() == Wait(due_at)
    harness.offer(1)
    harness.pass_time(1)
    assert harness.send().shares == (Share(1, 2),)


def test_a_batch_full_by_count_is_sent_immediately() -> None:
    harness = Harness()
    harness.offer(1, LIMITS.max_events - 1)
    assert harness.sends() == []
    harness.offer(1)
    assert len(harness.sends()) == 1


def test_a_batch_full_by_bytes_is_sent_immediately() -> None:
    harness = Harness(max_body_bytes=4_000)
    harness.offer(1, 9)
    assert harness.sends() == []
    harness.offer(1)
    assert len(harness.sends()) == 1


def test_without_linger_events_are_sent_immediately() -> None:
    harness = Harness(linger_ms=0)
    harness.offer(1)
    assert len(harness.sends()) == 1


def test_events_remaining_after_a_full_batch_do_not_linger_again() -> None:
    harness = Harness()
    harness.offer(1, LIMITS.max_events + 1)
    harness.round()
    assert len(harness.sends()) == 1


def test_events_that_arrive_during_a_request_linger_from_their_arrival() -> None:
    harness = Harness()
    harness.offer(1)
    send = harness.send()
    harness.pass_time(100)
    harness.offer(1)
    due_at = linger_end(phase((1, "tv", "device-1")), harness.now, LIMITS.linger_ms)
    harness.respond(send)
    assert harness.next() == Wait(due_at)


def test_after_all_events_were_dropped_the_next_event_lingers() -> None:
    harness = Harness()
    harness.offer(1)
    harness.drop(1, 1)
    harness.pass_time(60_000)
    harness.offer(1)
    assert harness.sends() == []


def test_a_site_that_powers_up_together_is_spread_over_the_linger_time() -> None:
    harness = Harness(max_in_flight=1_000)
    for queue_id in range(1_000):
        harness.offer(queue_id)
    began, times = harness.now, []
    while len(times) < 1_000:
        harness.send()
        times.append(harness.now - began)
    assert times[-1] <= LIMITS.linger_ms
    per_tenth = [sum(1 for at in times if tenth * 500 < at <= (tenth + 1) * 500) for tenth in range(10)]
    assert max(per_tenth) < 200


# -- one in flight, limits


def test_a_device_queue_has_one_request_in_flight() -> None:
    harness = Harness()
    harness.offer(1, 5_000)
    assert len(harness.sends()) == 1
    harness.pass_time(1_000_000)
    harness.offer(1, 5_000)
    assert harness.sends() == []


def test_a_response_frees_the_request_slot_and_settling_frees_the_device_queue() -> None:
    harness = Harness(max_in_flight=1, linger_ms=0)
    harness.offer(1, 600)
    harness.offer(2)
    schedule = harness.schedule
    first = harness.send()
    assert isinstance(harness.next(), Wait)
    schedule.responded(first, Reply({1: 500}, 1000, DELIVERED, harness.now), harness.now, 0.5)
    second = harness.send()
    assert [share.queue_id for share in second.shares] == [2]
    schedule.responded(second, Reply({2: 1}, 1000, DELIVERED, harness.now), harness.now, 0.5)
    assert harness.next() == Wait(None)
    schedule.settled(first, harness.now)
    assert [share.queue_id for share in harness.send().shares] == [1]


def test_an_unsettled_request_occupies_a_request_slot() -> None:
    harness = Harness(max_in_flight=1, linger_ms=0)
    harness.offer(1)
    harness.offer(2)
    schedule = harness.schedule
    first = harness.send()
    schedule.responded(first, Reply({1: 1}, 400, DELIVERED, harness.now), harness.now, 0.5)
    schedule.settlement_failed(first)
    assert harness.next() == Wait(None)
    schedule.settled(first, harness.now)
    assert isinstance(harness.next(), Send)


def test_backlog_reports_only_changes_of_the_next_decision() -> None:
    harness = Harness()
    key = (1, "tv", "device-1")

    def set_backlog(events: int, body_bytes: int = 400) -> bool:
        return harness.schedule.backlog(1, key, events, body_bytes, harness.now)

    assert set_backlog(1)
    assert not set_backlog(2)
    assert set_backlog(3, harness.limits.max_body_bytes), "a full request does not linger"
    assert not set_backlog(4)
    send = harness.schedule.next(harness.now)
    assert isinstance(send, Send)
    assert not set_backlog(5), "one request in flight"


def test_no_more_than_max_in_flight_at_once() -> None:
    harness = Harness(max_in_flight=3)
    for queue_id in range(10):
        harness.offer(queue_id, 500)
    first = harness.sends()
    assert len(first) == harness.schedule.in_flight() == 3
    harness.respond(first[0])
    assert len(harness.sends()) == 1


def test_a_device_sends_no_more_than_its_limit_in_a_window() -> None:
    harness = Harness(device_per_window=5)
    harness.offer(1, 10_000)
    began = harness.now
    for _ in range(5):
        harness.round(FAILING if harness.now % 2 else REJECTED, u=0.0)
    assert harness.now - began < 1_000
    harness.send()
    assert harness.now - began > LIMITS.window_ms


def test_a_rate_slot_is_free_one_window_after_the_response_not_after_the_request() -> None:
    """On a slow network the upstream may receive the request immediately before it responds."""
    harness = Harness(device_per_window=1)
    harness.offer(1, 1_000)
    harness.respond(harness.send(), after_ms=20_000)
    responded = harness.now
    harness.send()
    assert harness.now > responded + LIMITS.window_ms


def test_a_full_window_is_shown_as_the_pause_reason() -> None:
    harness = Harness(device_per_window=1)
    harness.offer(1, 1_000)
    harness.round()
    queues = harness.schedule.queues(5, harness.now)
    (view,) = queues.longest_paused
    assert (view.why, view.paused_until_ms) == ("limit", harness.now + LIMITS.window_ms + 1)
    assert queues.paused == 1


def test_a_device_cut_off_from_a_request_uses_no_rate_slot() -> None:
    harness = Harness(mix_devices="always", max_body_bytes=1_000)
    harness.offer(1, 2)
    harness.offer(2, 2)
    harness.schedule.flush(harness.now)
    send = harness.send()
    claimed = harness.respond(send)
    left_out = set(queues(send)) - set(claimed)
    assert all(harness.schedule.window_of(queue_id, harness.now) == b"" for queue_id in left_out)
    assert harness.sends()


# -- fairness


def test_device_queues_take_turns() -> None:
    harness = Harness(max_in_flight=1)
    harness.know(*range(5))
    for queue_id in range(5):
        harness.offer(queue_id, 50_000)
    order = [next(iter(harness.round())) for _ in range(15)]
    assert order == [0, 1, 2, 3, 4] * 3


def test_a_new_device_waits_for_its_turn_among_new_devices_and_its_share_of_requests() -> None:
    harness = Harness(max_in_flight=1)
    for queue_id in range(5):
        harness.offer(queue_id, 50_000)
    harness.round()
    harness.offer(9, 500)
    assert 9 in [next(iter(harness.round())) for _ in range(6 * 7)]


def test_a_tenant_without_devices_is_removed() -> None:
    """Apps can invent tenants, so their number must stay bounded."""
    harness = Harness()
    for queue_id in range(1_000):
        harness.offer(queue_id, tenant=queue_id)
    while any(harness.pending.values()):
        harness.round()
    harness.pass_time(harness.limits.window_ms + 1)
    while harness.forget():
        pass
    assert harness.schedule.endpoints(harness.now) == []
    assert counted(harness) == {}


def test_endpoints_take_turns_regardless_of_their_numbers_of_devices() -> None:
    harness = Harness(max_in_flight=2)
    harness.know(*range(50))
    harness.know(100, tenant=2)
    for queue_id in range(50):
        harness.offer(queue_id, 5_000, tenant=1)
    harness.offer(100, 50_000, tenant=2)
    order = [next(iter(harness.round())) for _ in range(20)]
    assert sum(queue_id == 100 for queue_id in order) == 10


def test_an_endpoint_does_not_use_all_request_slots_beside_another() -> None:
    harness = Harness(max_in_flight=8)
    harness.offer(100, tenant=2)
    for queue_id in range(50):
        harness.offer(queue_id, 5_000, tenant=1)
    harness.round()
    assert len(harness.sends()) == 7
    harness.offer(100, 500, tenant=2)
    assert [send.tenant_id for send in harness.sends()] == [2]


def test_a_paused_device_queue_does_not_block_others() -> None:
    harness = Harness()
    harness.offer(1, 500)
    harness.round()
    harness.offer(2, 500)
    harness.round(Failing("503", 3_600_000, 503))
    harness.offer(1, 500)
    harness.offer(3, 500)
    assert sorted(queue_id for send in harness.sends() for queue_id in queues(send)) == [1, 3]


# -- requests of several devices


@pytest.mark.parametrize(("mix", "together"), [("never", 1), ("when_ip_limited", 1), ("always", 6)])
def test_devices_share_a_request_as_configured(mix: str, together: int) -> None:
    harness = Harness(mix_devices=mix)
    for queue_id in range(6):
        harness.offer(queue_id)
    harness.schedule.flush(harness.now)
    assert len(queues(harness.send())) == together


@pytest.mark.parametrize(
    ("mix", "devices", "requests"),
    [("when_ip_limited", 8, 8), ("when_ip_limited", 9, 1), ("never", 9, 8), ("when_ip_limited", 1_000, 2)],
)
def test_devices_share_requests_while_more_are_ready_than_request_slots_are_free(
    mix: str, devices: int, requests: int
) -> None:
    harness = Harness(mix_devices=mix)
    for queue_id in range(devices):
        harness.offer(queue_id)
    flush(harness)
    sends = harness.sends()
    assert len(sends) == requests
    for send in sends:
        harness.respond(send)
    for queue_id in {queue_id for send in sends for queue_id in queues(send)}:
        assert len(harness.schedule.window_of(queue_id, harness.now)) == 8 + 4 + 1, "one rate slot each, and known"


def test_new_devices_share_no_request_with_known_ones_unless_there_is_a_shared_limit() -> None:
    harness = Harness()
    harness.know(*range(9))
    for queue_id in range(20):
        harness.offer(queue_id)
    flush(harness)
    assert [sorted(queues(send)) for send in harness.sends()] == [list(range(9)), list(range(9, 20))]


def test_devices_that_always_share_requests_linger_together() -> None:
    """Fifty devices send an event each five seconds, at different moments."""
    harness = Harness(mix_devices="always")
    requests = []
    for moment in range(250):
        while isinstance(step := harness.next(), Send):
            requests.append(len(step.shares))
            harness.respond(step, after_ms=0)
        harness.offer(moment % 50)
        harness.pass_time(100)
    assert min(requests[1:]) >= 20


def test_tenants_never_share_a_request() -> None:
    harness = Harness(mix_devices="always")
    for queue_id in range(6):
        harness.offer(queue_id, tenant=1 + queue_id % 2)
    harness.schedule.flush(harness.now)
    assert sorted(sorted(queues(send)) for send in harness.sends()) == [[0, 2, 4], [1, 3, 5]]


def test_a_mixed_batch_is_not_larger_than_the_limit() -> None:
    harness = Harness(mix_devices="always", max_events=10)
    for queue_id in range(6):
        harness.offer(queue_id, 4)
    harness.schedule.flush(harness.now)
    assert [share.max_events for share in harness.send().shares] == [4, 4, 2]


def test_a_device_cut_off_from_a_mixed_batch_is_first_in_the_next() -> None:
    harness = Harness(mix_devices="always", max_in_flight=1)
    for queue_id in range(3):
        harness.offer(queue_id, 100)
    harness.schedule.flush(harness.now)
    send = harness.send()
    assert len(queues(send)) == 3
    harness.respond(send, UNREACHABLE)
    again = harness.send()
    assert queues(again) == list(reversed(queues(send)))


def test_a_suspect_device_queue_shares_no_request() -> None:
    harness = Harness(mix_devices="always")
    harness.offer(1, 10)
    harness.round(REJECTED)
    for queue_id in (2, 3):
        harness.offer(queue_id, 5)
    harness.schedule.flush(harness.now)
    assert sorted(sorted(queues(send)) for send in harness.sends()) == [[1], [2, 3]]


# -- the shared limit of an upstream origin


ORIGINS = {1: "https://a.example", 2: "https://a.example", 3: "https://b.example"}


def harness_with_origins(origins: dict[int, str] = ORIGINS, **changes: object) -> Harness:
    """Return a harness with four device queues of each tenant, which have many events."""
    limits = replace(LIMITS, mix_devices="never", **changes)
    harness = Harness(
        Schedule(limits, lambda tenant: origins.get(tenant, ""), lambda: origins), mix_devices="never", **changes
    )
    for tenant in origins:
        for queue_id in range(10 * tenant, 10 * tenant + 4):
            harness.offer(queue_id, 50_000, tenant=tenant)
    return harness


def limit(harness: Harness, tenant: int = 1) -> None:
    """Let a tenant's origin be limited, and let all other requests in flight succeed."""
    sends = harness.sends()
    harness.respond(next(send for send in sends if send.tenant_id == tenant), RateLimited("429", 0, None), u=0.0)
    for send in sends:
        if send in harness.sent_at:
            harness.respond(send)


def test_tenants_of_one_origin_share_its_limit_and_another_origin_has_its_own() -> None:
    harness = harness_with_origins()
    while len(harness.delivered) < 12:
        harness.respond(harness.send(), after_ms=0)
    harness.pass_time(20_000)
    limit(harness)
    states = [harness.endpoint(tenant).state for tenant in (1, 2, 3)]
    assert states == ["rate_limited", "rate_limited", "ok"]
    assert counted(harness) == {"ok": 1, "rate_limited": 2}
    began, tenants = harness.now, Counter()
    while harness.now < began + LIMITS.window_ms:
        send = harness.send()
        tenants[send.tenant_id] += 1
        harness.respond(send)
    assert tenants[1] + tenants[2] <= LIMITS.ip_per_window + 1
    assert abs(tenants[1] - tenants[2]) <= 1, "tenants take turns"
    assert tenants[3] > 4 * LIMITS.ip_per_window


def test_requests_in_flight_of_all_tenants_count_towards_the_limit_of_their_origin() -> None:
    harness = Harness(ip_per_window=2)
    for tenant in (1, 2):
        harness.offer(tenant, 50_000, tenant=tenant)
    sends = {send.tenant_id: send for send in harness.sends()}
    harness.respond(sends[2])
    harness.respond(sends[1], RateLimited("429", 0, None), u=0.0)
    first, second = harness.send(), harness.send()
    harness.pass_time(10 * LIMITS.window_ms)
    assert {first.tenant_id, second.tenant_id} == {1, 2}
    assert harness.sends() == []
    harness.respond(first)
    assert harness.send().tenant_id != second.tenant_id, "the tenant without a request in flight"
    assert harness.sends() == []


def test_a_waiting_tenant_sends_when_the_tenant_whose_turn_it_is_has_no_more_events() -> None:
    harness = Harness(linger_ms=0)
    harness.offer(1, 500)
    harness.round(LIMITED)
    for queue_id, tenant in ((1, 1), (2, 2), (3, 3)):
        harness.offer(queue_id, tenant=tenant)
    served = [harness.send() for _ in range(3)]
    assert sorted(send.tenant_id for send in served) == [1, 2, 3]


def test_a_limit_remains_when_the_tenant_that_met_it_is_removed() -> None:
    harness = Harness(linger_ms=0)
    harness.offer(1)
    harness.round(LIMITED)
    harness.drop(1, 1)
    harness.pass_time(2 * LIMITS.window_ms)
    assert harness.sends() == []
    assert harness.forget() == [1]
    harness.offer(2, tenant=2)
    assert harness.endpoint(2).state == "rate_limited"


def test_a_tenant_that_moves_to_another_origin_leaves_the_limit() -> None:
    origins = dict(ORIGINS)
    harness = harness_with_origins(origins)
    limit(harness)
    assert {send.tenant_id for send in harness.sends()} <= {1, 2, 3}
    origins[2] = "https://c.example"
    reload(harness)
    states = [harness.endpoint(tenant).state for tenant in (1, 2, 3)]
    assert states == ["rate_limited", "untested", "ok"]
    assert counted(harness) == {"ok": 1, "untested": 1, "rate_limited": 1}
    assert 2 in {send.tenant_id for send in harness.sends()}


# -- no network


def unreachable(harness: Harness) -> None:
    """Let all requests in flight fail, because there is no network."""
    for send in harness.sends():
        harness.respond(send, UNREACHABLE, after_ms=0, u=0.0)


def test_without_a_network_one_request_is_tried_for_all_tenants_and_devices_of_an_origin() -> None:
    harness = harness_with_origins({1: "https://a.example", 2: "https://a.example"})
    unreachable(harness)
    for _ in range(5):
        harness.pass_time(15_000)
        (attempt,) = harness.sends()
        assert harness.sends() == []
        harness.respond(attempt, UNREACHABLE, u=0.999)
    harness.pass_time(15_000)
    (attempt,) = harness.sends()
    harness.respond(attempt)
    assert {send.tenant_id for send in harness.sends()} == {1, 2}, "a response ends the outage for all"
    assert counted(harness) == {"ok": 1, "untested": 1}


def test_another_origin_is_not_affected_by_an_unreachable_one() -> None:
    harness = harness_with_origins()
    for send in harness.sends():
        harness.respond(send, DELIVERED if send.tenant_id == 3 else UNREACHABLE, after_ms=0, u=0.999)
    assert counted(harness) == {"ok": 1, "backing_off": 2}
    assert {send.tenant_id for send in harness.sends()} == {3}


def test_an_attempt_is_made_while_older_requests_hang() -> None:
    harness = harness_with_origins({1: "https://a.example"})
    hanging, *others = harness.sends()
    for send in others:
        harness.respond(send, UNREACHABLE, after_ms=0, u=0.0)
    attempt = harness.next()
    assert isinstance(attempt, Send)
    harness.respond(attempt, UNREACHABLE, u=0.0)
    harness.respond(hanging, RESET)
    assert harness.endpoint(1).state == "backing_off"


def test_an_attempt_that_the_disk_prevented_does_not_block_the_next_one() -> None:
    harness = harness_with_origins({1: "https://a.example"})
    unreachable(harness)
    prevented = harness.send()
    harness.schedule.pause(prevented, harness.now)
    harness.schedule.settled(prevented, harness.now)
    assert isinstance(harness.next(), Send)


def test_a_change_of_the_network_permits_an_attempt_while_one_hangs() -> None:
    harness = harness_with_origins({1: "https://a.example"})
    unreachable(harness)
    hanging = harness.send()
    assert harness.sends() == []
    harness.schedule.flush(harness.now)
    attempt = harness.next()
    assert isinstance(attempt, Send)
    harness.respond(attempt)
    harness.respond(hanging, RESET)
    assert counted(harness)["ok"] == 1


# -- flush, probe, pause


def test_flush_ends_linger() -> None:
    harness = Harness()
    for queue_id in range(3):
        harness.offer(queue_id)
    harness.schedule.flush(harness.now)
    assert len(harness.sends()) == 3


def test_flush_stays_within_the_limit() -> None:
    harness = Harness(device_per_window=1)
    harness.offer(1, 1_000)
    harness.round()
    harness.schedule.flush(harness.now)
    assert harness.sends() == []


def flush(harness: Harness) -> None:
    harness.schedule.flush(harness.now)


def reload(harness: Harness) -> None:
    harness.schedule.configure(harness.limits, harness.now)


ENDS_PAUSES = pytest.mark.parametrize("act", [flush, reload])


@pytest.mark.parametrize(
    "act", [flush, reload, lambda harness: harness.pass_time(2 * LIMITS.linger_ms)], ids=["flush", "reload", "suspend"]
)
def test_the_work_of_a_call_does_not_grow_with_the_number_of_device_queues(act: Callable[[Harness], None]) -> None:
    """Each call processes a bounded number of device queues. The next ones continue until all may send."""
    harness, devices = Harness(mix_devices="always"), 5_000
    for queue_id in range(devices):
        harness.offer(queue_id)
    counts: list[int] = []
    with count_calls(counts):
        act(harness)
    ready = 0
    while ready < devices:
        with count_calls(counts):
            step = harness.next()
        if isinstance(step, Send):
            ready += len(step.shares)
            harness.respond(step)
        elif step.until is None or step.until > harness.now:
            harness.now = step.until or harness.now
    assert max(counts) < 20_000


@ENDS_PAUSES
@pytest.mark.parametrize(
    "verdict",
    [
        RateLimited("429", 60_000, LIMITS.device_per_window),
        RateLimited("429", 60_000, None),
        Failing("503", 60_000, 503),
    ],
)
def test_a_requested_pause_is_not_shortened(act: Callable[[Harness], None], verdict: Verdict) -> None:
    harness = Harness()
    harness.offer(1, 500)
    harness.round(verdict)
    requested_until = harness.now + 60_000
    act(harness)
    assert harness.sends() == []
    harness.send()
    assert harness.now >= requested_until


@ENDS_PAUSES
@pytest.mark.parametrize(
    "verdict",
    [
        RateLimited("429", None, LIMITS.device_per_window),
        FAILING,
        UNAUTHORIZED,
        Misconfigured("404"),
    ],
)
@pytest.mark.parametrize("others_succeed", [False, True])
def test_a_pause_without_a_server_request_ends(
    act: Callable[[Harness], None], verdict: Verdict, others_succeed: bool
) -> None:
    harness = Harness()
    if others_succeed:
        harness.offer(1, 500)
        harness.round()
    harness.offer(2, 500)
    harness.round(verdict, u=0.99)
    paused_until = harness.schedule.next(harness.now)
    assert not isinstance(paused_until, Send)
    act(harness)
    harness.send()
    assert paused_until.until is not None
    assert harness.now < paused_until.until


def test_a_requested_pause_ends_at_its_time_if_the_backoff_is_longer() -> None:
    harness = Harness()
    harness.offer(1, 500)
    for _ in range(6):
        harness.round(FAILING, u=0.99)
    harness.round(Failing("503", 1_000, 503), u=0.99)
    requested_until = harness.now + 1_000 + int(0.99 * 2_000)
    harness.schedule.flush(harness.now)
    harness.send()
    assert harness.now == requested_until


def test_a_pause_for_the_disk_affects_only_the_device_queues_of_the_request() -> None:
    harness = Harness()
    for queue_id in (1, 2):
        harness.offer(queue_id, 500)
    first, second = harness.sends()
    harness.schedule.pause(first, harness.now + 5_000)
    harness.schedule.settled(first, harness.now)
    harness.respond(second)
    harness.offer(2, 500)
    assert [queues(send) for send in harness.sends()] == [queues(second)]
    harness.pass_time(5_000)
    assert [queues(send) for send in harness.sends()] == [queues(first)]


@pytest.mark.parametrize("was_sent", [False, True])
def test_a_request_without_its_lease_says_nothing_about_the_upstream(was_sent: bool) -> None:
    """A reset one occupies its rate slot: the upstream may have received it."""
    harness = Harness()
    harness.offer(1, 500)
    (send,) = harness.sends()
    harness.schedule.pause(send, harness.now + 1_000, harness.now if was_sent else None)
    harness.schedule.settled(send, harness.now)
    assert harness.schedule.states()["backing_off"] == 0
    assert bool(harness.schedule.window_of(1, harness.now)) == was_sent
    harness.pass_time(1_000)
    assert harness.sends() == [send]


def test_a_pause_for_the_disk_retains_an_exact_request() -> None:
    harness = Harness(mix_devices="always")
    for queue_id in (1, 2, 3):
        harness.offer(queue_id, 10)
    after = restarted(harness, unsettled=[[Share(1, 3), Share(3, 1)]])
    (first,) = after.sends()
    after.schedule.pause(first, after.now + 100)
    after.schedule.settled(first, after.now)
    assert after.sends() == []
    after.pass_time(100)
    assert after.sends()[0] == first


# -- restart


def test_after_a_crash_the_same_requests_are_sent_first() -> None:
    harness = Harness(mix_devices="always")
    for queue_id in (1, 2, 3):
        harness.offer(queue_id, 10)
    after = restarted(harness, unsettled=[[Share(2, 4)], [Share(1, 3), Share(3, 1)]])
    sends = after.sends()
    assert [(send.shares, send.exact) for send in sends] == [
        ((Share(2, 4),), True),
        ((Share(1, 3), Share(3, 1)), True),
    ]
    for send in sends:
        after.respond(send)
    assert after.delivered == {2: [0, 1, 2, 3], 1: [0, 1, 2], 3: [0]}


def test_new_events_are_not_added_to_an_exact_request() -> None:
    harness = Harness()
    harness.offer(1, 2)
    after = restarted(harness, unsettled=[[Share(1, 2)]])
    after.offer(1, 500)
    assert after.round() == {1: [0, 1]}


def test_an_attempt_of_which_nothing_left_the_box_uses_no_rate_slot() -> None:
    harness = Harness(linger_ms=0, device_per_window=1)
    began = harness.now
    harness.offer(1)
    for verdict in (UNREACHABLE, UNREACHABLE, DELIVERED):
        harness.respond(harness.send(), verdict)
    assert harness.now < began + LIMITS.window_ms
    delivered_at = harness.now
    harness.offer(1)
    harness.send()
    assert harness.now > delivered_at + LIMITS.window_ms


def test_requests_in_flight_at_a_crash_count_as_sent() -> None:
    harness = Harness(device_per_window=2)
    harness.offer(1, 500)
    after = restarted(harness, unsettled=[[Share(1, 2)]])
    began = after.now
    after.round()
    after.send()
    assert after.now - began > LIMITS.window_ms


def test_windows_survive_a_restart_in_the_same_boot() -> None:
    harness = Harness(device_per_window=2)
    harness.offer(1, 2_000)
    harness.round()
    answered_at = harness.now
    harness.pass_time(30_000)
    harness.round()
    after = restarted(harness)
    after.send()
    assert after.now == answered_at + LIMITS.window_ms + 1


def test_windows_of_another_boot_count_as_full() -> None:
    harness = Harness(device_per_window=2)
    harness.offer(1, 2_000)
    harness.round()
    after = restarted(harness, same_boot=False)
    began = after.now
    after.send()
    assert after.now == began + LIMITS.window_ms + 1


def test_an_exact_request_is_retried_unchanged_three_times_and_then_halved() -> None:
    harness = Harness()
    harness.offer(1, 500)
    after = restarted(harness, unsettled=[[Share(1, 500)]])
    exact = []
    for _ in range(5):
        send = after.send()
        exact.append((send.exact, send.shares[0].max_events))
        after.respond(send, FAILING)
    assert exact == [(True, 500), (True, 500), (True, 500), (False, 250), (False, 125)]


def test_an_unsettled_request_without_events_is_ignored() -> None:
    harness = Harness()
    harness.offer(1, 2)
    harness.drop(1, 2)
    after = restarted(harness, unsettled=[[Share(1, 2)], [Share(99, 1)]])
    assert after.next() == Wait(None)
    after.offer(1)
    assert not after.send().exact


# -- removal of idle device queues


def test_an_idle_device_queue_is_removed_after_one_window() -> None:
    harness = Harness()
    harness.offer(1)
    harness.round()
    assert harness.forget() == []
    harness.pass_time(LIMITS.window_ms + 1)
    assert harness.forget() == [1]
    assert harness.forget() == []


def test_a_device_queue_whose_events_were_dropped_is_removed() -> None:
    harness = Harness()
    harness.offer(1)
    harness.drop(1, 1)
    harness.pass_time(LIMITS.window_ms + 1)
    assert harness.forget() == [1]


def test_known_devices_are_remembered_while_there_are_few_and_the_longest_idle_is_forgotten_first() -> None:
    harness = Harness()
    harness.know(1)
    harness.know(2)
    harness.pass_time(harness.limits.window_ms + 1)
    harness.know(3)
    harness.offer(4)
    harness.round(EventsRejected(422, "422 invalid", {0: "no good"}))
    harness.pass_time(harness.limits.window_ms + 1)
    assert harness.schedule.forget_idle(harness.now, 100, 3) == [4], "a flood of new devices does not replace them"
    assert harness.schedule.forget_idle(harness.now, 100, 2) == [1]


def test_a_restored_empty_device_queue_is_removed() -> None:
    harness = Harness()
    harness.schedule.restore(1, (1, "tv", "a"), b"", harness.now, 0)
    harness.pass_time(LIMITS.window_ms + 1)
    assert harness.forget() == [1]


def test_a_paused_device_queue_is_removed_only_after_its_pause() -> None:
    harness = Harness()
    harness.offer(1)
    harness.round(RateLimited("429", 600_000, LIMITS.device_per_window))
    harness.drop(1, 1)
    harness.pass_time(2 * LIMITS.window_ms)
    assert harness.forget() == []
    harness.pass_time(600_000)
    assert harness.forget() == [1]


def test_a_device_queue_in_use_is_not_removed() -> None:
    harness = Harness()
    harness.offer(1)
    harness.round()
    harness.offer(1)
    harness.pass_time(LIMITS.window_ms + 1)
    assert harness.forget() == []


def test_a_busy_device_queue_is_listed_once() -> None:
    """The list of empty device queues is bounded by their number and not by the number of requests."""
    harness = Harness()
    for _ in range(100):
        harness.offer(1)
        harness.schedule.flush(harness.now)
        harness.round()
    harness.pass_time(LIMITS.window_ms + 1)
    harness.schedule.forget_idle(harness.now, 1, 0)
    harness.pass_time(LIMITS.window_ms + 1)
    assert len(harness.forget()) <= 1
    assert Schedule(LIMITS).forget_idle(harness.now, 10, 0) == []


# -- views


def test_the_busiest_and_the_longest_paused_devices_are_listed_first() -> None:
    harness = Harness(device_per_window=1)
    for queue_id, events in ((1, 600), (2, 900), (3, 5)):
        harness.offer(queue_id, events)
    for _ in range(2):
        harness.round()
        harness.pass_time(10)
    queues = harness.schedule.queues(2, harness.now)
    assert [view.key[2] for view in queues.busiest] == ["device-2", "device-1"]
    assert [view.key[2] for view in queues.longest_paused] == ["device-2", "device-1"]
    assert (queues.known, queues.waiting, queues.paused) == (3, 3, 2)


def test_a_limited_list_begins_with_requested_and_failing_endpoints() -> None:
    harness = Harness()
    for tenant in range(1, 7):
        harness.offer(tenant, 500, tenant=tenant)
    for _ in range(6):
        send = harness.send()
        harness.respond(send, UNAUTHORIZED if send.tenant_id in (3, 6) else DELIVERED)

    def tenants(*first: int, others: int) -> list[int]:
        return [view.tenant_id for view in harness.schedule.endpoints(harness.now, first, others)]

    assert tenants(others=6) == [1, 2, 3, 4, 5, 6]
    assert tenants(5, 99, others=3) == [5, 3, 6, 1]
    assert tenants(3, others=1) == [3, 6]
    assert tenants(5, 99, others=0) == [5]


def test_endpoints_are_counted_by_state_at_each_change() -> None:
    """The service reads the numbers each second. Views of 60,000 invented tenants would take 45 ms of its time."""
    harness = Harness()
    harness.offer(1, 1_000, tenant=1)
    harness.offer(2, 500, tenant=2)
    assert counted(harness) == {"untested": 2}
    harness.respond(harness.send(), UNAUTHORIZED)
    assert counted(harness) == {"untested": 1, "unauthorized": 1}
    harness.respond(harness.send(), LIMITED)
    assert counted(harness) == {"rate_limited": 1, "unauthorized": 1}


def counted(harness: Harness) -> dict[str, int]:
    return {state: count for state, count in harness.schedule.states().items() if count}


def test_an_endpoint_reports_the_time_and_reason_of_its_state() -> None:
    harness = Harness()
    harness.offer(1, 500)
    harness.pass_time(100)
    harness.round(UNAUTHORIZED, u=0.0)
    (view,) = harness.schedule.endpoints(harness.now)
    failed_at = harness.now
    assert (view.state, view.since_ms, view.last_error) == ("unauthorized", failed_at, SeenError("401 no", failed_at))
    assert (view.next_attempt_ms, view.last_delivered_ms) == (failed_at + 30_000, None)
    harness.round()
    view = harness.endpoint(1)
    assert (view.state, view.last_error, view.last_delivered_ms) == ("ok", None, harness.now)


def test_the_summary_of_queues_counts_their_endpoints_and_own_limits() -> None:
    harness = Harness()
    harness.offer(1, 500, tenant=1)
    harness.offer(2, 500, tenant=2)
    harness.offer(3, 500, tenant=2)
    own_limit = RateLimited("429", 30_000, harness.limits.device_per_window)
    for _ in range(3):
        send = harness.send()
        harness.respond(send, UNAUTHORIZED if send.tenant_id == 1 else own_limit, after_ms=0, u=0.0)
    queues = harness.schedule.queues(10, harness.now)
    assert (queues.waiting, queues.paused, queues.limited) == (3, 2, 2)
    assert queues.endpoint_states == {"unauthorized": 1, "ok": 1}


def test_an_endpoint_with_a_shared_limit_is_rate_limited() -> None:
    harness = Harness()
    harness.offer(1, 500)
    harness.round(LIMITED)
    assert harness.endpoint(1).state == "rate_limited"


def test_a_request_on_a_closing_connection_is_resent_immediately_and_counted() -> None:
    harness = Harness(linger_ms=0, device_per_window=2)
    harness.offer(1, 3)
    claimed = harness.round(Resend("closed"))
    harness.offer(1, 2)
    again = harness.next()
    assert isinstance(again, Send)
    assert again.exact
    assert harness.respond(again) == claimed
    assert isinstance(harness.next(), Wait), "both requests count in the device's window"
    assert harness.endpoint(1).state == "ok"


def test_a_mixed_batch_on_a_closing_connection_is_sent_again_unchanged() -> None:
    harness = Harness(linger_ms=0, mix_devices="always")
    harness.offer(1)
    harness.offer(2)
    first = harness.send()
    assert queues(first) == [1, 2]
    harness.respond(first, Resend("closed"))
    again = harness.next()
    assert isinstance(again, Send)
    assert (queues(again), again.exact) == ([1, 2], True)


@pytest.mark.parametrize(
    "changes", [{"linger_ms": 0}, {"max_events": 2}, {"max_body_bytes": 2 * EVENT_BYTES}], ids=lambda c: str(*c)
)
def test_new_limits_apply_to_pending_events(changes: dict[str, int]) -> None:
    harness = Harness(linger_ms=600_000)
    harness.offer(1, 2)
    assert isinstance(harness.next(), Wait)

    harness.schedule.configure(replace(harness.limits, **changes), harness.now)  # type: ignore[arg-type]

    assert isinstance(harness.next(), Send)


@pytest.mark.parametrize("changes", [{"window_ms": 100}, {"device_per_window": 2}], ids=lambda c: str(*c))
def test_a_higher_rate_limit_applies_to_a_waiting_device(changes: dict[str, int]) -> None:
    harness = Harness(linger_ms=0, window_ms=3_600_000, device_per_window=1)
    harness.offer(1)
    harness.round()
    harness.offer(1)
    harness.pass_time(1_000)
    assert isinstance(harness.next(), Wait)

    harness.schedule.configure(replace(harness.limits, **changes), harness.now)  # type: ignore[arg-type]

    assert isinstance(harness.next(), Send)


def test_a_longer_linger_does_not_delay_events_that_are_pending_already() -> None:
    harness = Harness()
    harness.offer(1)
    harness.schedule.configure(replace(harness.limits, linger_ms=600_000), harness.now)
    harness.pass_time(5_000)

    assert isinstance(harness.next(), Send)


def test_a_change_of_the_network_ends_the_pause_of_an_endpoint() -> None:
    harness = Harness()
    harness.offer(1)
    harness.offer(2)
    harness.respond(harness.send(), UNAUTHORIZED)
    harness.pass_time(1_000)
    assert not harness.sends()

    harness.schedule.flush(harness.now)

    assert len(harness.sends()) == 1, "one probe"


def test_a_change_of_the_network_does_not_shorten_a_requested_pause() -> None:
    harness = Harness()
    harness.offer(1)
    harness.respond(harness.send(), Failing("503 down", 60_000, 503))

    harness.schedule.flush(harness.now)

    assert not harness.sends()


def test_a_lingering_device_takes_at_most_250_bytes_beside_its_key_and_number() -> None:
    schedule, numbers = Schedule(LIMITS), list(range(10_000))
    keys = [(1, "tv", f"device-{number}") for number in numbers]
    tracemalloc.start()
    for number, key in zip(numbers, keys, strict=True):
        schedule.backlog(number, key, 1, 400, 1_000_000)
    used_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used_bytes < 250 * len(keys)

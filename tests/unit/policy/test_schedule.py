"""Pace, fairness and holds: when which lane may send how much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from relay.policy.device_queue import due_at, phase
from relay.policy.endpoint import Endpoint
from relay.policy.requests import Reply, Send, Share, Wait
from relay.policy.schedule import Schedule
from relay.policy.verdict import Again, Failing, Misconfigured, RateLimited, Verdict

from tests.unit.policy.harness import (
    DELIVERED,
    EVENT_BYTES,
    FAILING,
    LIMITED,
    LIMITS,
    REFUSED,
    UNAUTHORIZED,
    Desk,
    queues,
    restarted,
)

# -- linger


def test_with_nothing_to_do_it_waits_until_something_changes() -> None:
    assert Desk().next() == Wait(None)


def test_an_event_waits_for_company_until_its_devices_beat() -> None:
    desk = Desk()
    desk.offer(1)
    due = due_at(phase((1, "tv", "device-1")), desk.now, LIMITS.linger_ms)
    assert desk.next() == Wait(due)
    desk.pass_time(due - desk.now - 1)
    assert desk.next() == Wait(due)
    desk.offer(1)
    desk.pass_time(1)
    assert desk.send().shares == (Share(1, 2),)


def test_a_batch_full_by_count_leaves_at_once() -> None:
    desk = Desk()
    desk.offer(1, LIMITS.max_events - 1)
    assert desk.sends() == []
    desk.offer(1)
    assert len(desk.sends()) == 1


def test_a_batch_full_by_bytes_leaves_at_once() -> None:
    desk = Desk(max_body_bytes=4_000)
    desk.offer(1, 9)
    assert desk.sends() == []
    desk.offer(1)
    assert len(desk.sends()) == 1


def test_without_linger_events_leave_at_once() -> None:
    desk = Desk(linger_ms=0)
    desk.offer(1)
    assert len(desk.sends()) == 1


def test_what_a_full_batch_left_over_does_not_linger_again() -> None:
    desk = Desk()
    desk.offer(1, LIMITS.max_events + 1)
    desk.round()
    assert len(desk.sends()) == 1


def test_what_came_during_a_request_lingers_from_its_own_arrival() -> None:
    desk = Desk()
    desk.offer(1)
    send = desk.send()
    desk.pass_time(100)
    desk.offer(1)
    due = due_at(phase((1, "tv", "device-1")), desk.now, LIMITS.linger_ms)
    desk.answer(send)
    assert desk.next() == Wait(due)


def test_after_all_was_dropped_the_next_event_lingers_anew() -> None:
    desk = Desk()
    desk.offer(1)
    desk.drop(1, 1)
    desk.pass_time(60_000)
    desk.offer(1)
    assert desk.sends() == []


def test_a_site_that_powers_up_together_is_spread_over_the_linger_time() -> None:
    desk = Desk(max_in_flight=1_000)
    for queue_id in range(1_000):
        desk.offer(queue_id)
    began, times = desk.now, []
    while len(times) < 1_000:
        desk.send()
        times.append(desk.now - began)
    assert times[-1] <= LIMITS.linger_ms
    per_tenth = [sum(1 for at in times if tenth * 500 < at <= (tenth + 1) * 500) for tenth in range(10)]
    assert max(per_tenth) < 200


# -- one in flight, limits


def test_a_lane_has_one_request_in_flight() -> None:
    desk = Desk()
    desk.offer(1, 5_000)
    assert len(desk.sends()) == 1
    desk.pass_time(1_000_000)
    desk.offer(1, 5_000)
    assert desk.sends() == []


def test_the_slot_is_free_once_a_request_is_answered_its_lane_once_that_is_settled() -> None:
    desk = Desk(max_in_flight=1, linger_ms=0)
    desk.offer(1, 600)
    desk.offer(2)
    schedule = desk.schedule
    first = desk.send()
    assert isinstance(desk.next(), Wait)
    schedule.answered(first, Reply({1: 500}, 1000, DELIVERED, desk.now), desk.now, 0.5)
    second = desk.send()
    assert [share.queue_id for share in second.shares] == [2]
    schedule.answered(second, Reply({2: 1}, 1000, DELIVERED, desk.now), desk.now, 0.5)
    assert desk.next() == Wait(None)
    schedule.settled(first, desk.now)
    assert [share.queue_id for share in desk.send().shares] == [1]


def test_a_request_that_cannot_be_settled_has_a_slot_until_it_is() -> None:
    desk = Desk(max_in_flight=1, linger_ms=0)
    desk.offer(1)
    desk.offer(2)
    schedule = desk.schedule
    first = desk.send()
    schedule.answered(first, Reply({1: 1}, 400, DELIVERED, desk.now), desk.now, 0.5)
    schedule.not_settled(first)
    assert desk.next() == Wait(None)
    schedule.settled(first, desk.now)
    assert [share.queue_id for share in desk.send().shares] == [2]


def test_only_what_brings_something_to_do_sooner_is_worth_a_look() -> None:
    desk = Desk()
    key = (1, "tv", "device-1")

    def grew(events: int, body_bytes: int = 400) -> bool:
        return desk.schedule.backlog(1, key, events, body_bytes, desk.now)

    assert grew(1)
    assert not grew(2)
    assert grew(3, desk.limits.max_body_bytes), "a whole request waits for no company"
    assert not grew(4)
    send = desk.schedule.next(desk.now)
    assert isinstance(send, Send)
    assert not grew(5), "one request in flight"


def test_no_more_than_max_in_flight_at_once() -> None:
    desk = Desk(max_in_flight=3)
    for queue_id in range(10):
        desk.offer(queue_id, 500)
    first = desk.sends()
    assert len(first) == desk.schedule.in_flight() == 3
    desk.answer(first[0])
    assert len(desk.sends()) == 1


def test_a_device_sends_no_more_than_its_limit_in_a_window() -> None:
    desk = Desk(device_per_window=5)
    desk.offer(1, 10_000)
    began = desk.now
    for _ in range(5):
        desk.round(FAILING if desk.now % 2 else REFUSED, u=0.0)
    assert desk.now - began < 1_000
    desk.send()
    assert desk.now - began > LIMITS.window_ms


def test_a_slot_is_free_one_window_after_the_answer_not_after_the_send() -> None:
    """The upstream may have seen the request at any moment before its answer: just before it, on a slow network."""
    desk = Desk(device_per_window=1)
    desk.offer(1, 1_000)
    desk.answer(desk.send(), after_ms=20_000)
    answered = desk.now
    desk.send()
    assert desk.now > answered + LIMITS.window_ms


def test_a_full_window_is_the_reason_shown() -> None:
    desk = Desk(device_per_window=1)
    desk.offer(1, 1_000)
    desk.round()
    queues = desk.schedule.queues(5, desk.now)
    (view,) = queues.longest_paused
    assert (view.why, view.paused_until_ms) == ("limit", desk.now + LIMITS.window_ms + 1)
    assert queues.paused == 1


def test_a_lane_with_no_room_left_in_a_request_is_not_charged_for_it() -> None:
    desk = Desk(mix_devices="always", max_body_bytes=1_000)
    desk.offer(1, 2)
    desk.offer(2, 2)
    desk.schedule.flush(desk.now)
    send = desk.send()
    taken = desk.answer(send)
    left_out = set(queues(send)) - set(taken)
    assert all(desk.schedule.window_of(queue_id, desk.now) == b"" for queue_id in left_out)
    assert desk.sends()


# -- fairness


def test_lanes_take_turns() -> None:
    desk = Desk(max_in_flight=1)
    for queue_id in range(5):
        desk.offer(queue_id, 50_000)
    order = [next(iter(desk.round())) for _ in range(15)]
    assert order == [0, 1, 2, 3, 4] * 3


def test_a_newcomer_waits_for_one_turn_of_the_others_at_most() -> None:
    desk = Desk(max_in_flight=1)
    for queue_id in range(5):
        desk.offer(queue_id, 50_000)
    desk.round()
    desk.offer(9, 500)
    assert 9 in [next(iter(desk.round())) for _ in range(6)]


def test_a_tenant_without_devices_is_forgotten() -> None:
    """A tenant is whatever an app writes: ten thousand of them must not stay."""
    desk = Desk()
    for queue_id in range(1_000):
        desk.offer(queue_id, tenant=queue_id)
    while any(desk.pending.values()):
        desk.round()
    desk.pass_time(desk.limits.window_ms + 1)
    while desk.forget():
        pass
    assert desk.schedule.endpoints(desk.now) == []
    assert counted(desk) == {}


def test_routes_take_turns_whatever_their_number_of_lanes() -> None:
    desk = Desk(max_in_flight=2)
    for queue_id in range(50):
        desk.offer(queue_id, 5_000, tenant=1)
    desk.offer(100, 50_000, tenant=2)
    order = [next(iter(desk.round())) for _ in range(20)]
    assert sum(queue_id == 100 for queue_id in order) == 10


def test_a_route_never_takes_all_slots_from_another() -> None:
    desk = Desk(max_in_flight=8)
    desk.offer(100, tenant=2)
    for queue_id in range(50):
        desk.offer(queue_id, 5_000, tenant=1)
    desk.round()
    assert len(desk.sends()) == 7
    desk.offer(100, 500, tenant=2)
    assert [send.tenant_id for send in desk.sends()] == [2]


def test_a_held_lane_lets_the_others_pass() -> None:
    desk = Desk()
    desk.offer(1, 500)
    desk.round()
    desk.offer(2, 500)
    desk.round(Failing("503", 3_600_000, 503))
    desk.offer(1, 500)
    desk.offer(3, 500)
    assert sorted(queue_id for send in desk.sends() for queue_id in queues(send)) == [1, 3]


# -- company


@pytest.mark.parametrize(("mix", "together"), [("never", 1), ("when_ip_limited", 1), ("always", 6)])
def test_whether_devices_share_a_request(mix: str, together: int) -> None:
    desk = Desk(mix_devices=mix)
    for queue_id in range(6):
        desk.offer(queue_id)
    desk.schedule.flush(desk.now)
    assert len(queues(desk.send())) == together


def test_tenants_never_share_a_request() -> None:
    desk = Desk(mix_devices="always")
    for queue_id in range(6):
        desk.offer(queue_id, tenant=1 + queue_id % 2)
    desk.schedule.flush(desk.now)
    assert sorted(sorted(queues(send)) for send in desk.sends()) == [[0, 2, 4], [1, 3, 5]]


def test_a_company_is_no_larger_than_a_batch() -> None:
    desk = Desk(mix_devices="always", max_events=10)
    for queue_id in range(6):
        desk.offer(queue_id, 4)
    desk.schedule.flush(desk.now)
    assert [share.max_events for share in desk.send().shares] == [4, 4, 2]


def test_who_was_left_out_of_a_company_is_first_in_the_next() -> None:
    desk = Desk(mix_devices="always", max_in_flight=1)
    for queue_id in range(3):
        desk.offer(queue_id, 100)
    desk.schedule.flush(desk.now)
    send = desk.send()
    assert len(queues(send)) == 3
    desk.answer(send, FAILING)
    again = desk.send()
    assert queues(again) == list(reversed(queues(send)))


def test_a_lane_under_suspicion_travels_by_itself() -> None:
    desk = Desk(mix_devices="always")
    desk.offer(1, 10)
    desk.round(REFUSED)
    for queue_id in (2, 3):
        desk.offer(queue_id, 5)
    desk.schedule.flush(desk.now)
    assert sorted(sorted(queues(send)) for send in desk.sends()) == [[1], [2, 3]]


# -- flush, probe, pause


def test_flush_ends_linger() -> None:
    desk = Desk()
    for queue_id in range(3):
        desk.offer(queue_id)
    desk.schedule.flush(desk.now)
    assert len(desk.sends()) == 3


def test_flush_stays_within_the_limit() -> None:
    desk = Desk(device_per_window=1)
    desk.offer(1, 1_000)
    desk.round()
    desk.schedule.flush(desk.now)
    assert desk.sends() == []


def flush(desk: Desk) -> None:
    desk.schedule.flush(desk.now)


def reload(desk: Desk) -> None:
    desk.schedule.configure(desk.limits, desk.now)


ENDS_PAUSES = pytest.mark.parametrize("act", [flush, reload])


@ENDS_PAUSES
@pytest.mark.parametrize(
    "verdict",
    [
        RateLimited("429", 60_000, LIMITS.device_per_window),
        RateLimited("429", 60_000, None),
        Failing("503", 60_000, 503),
    ],
)
def test_a_pause_that_a_server_named_is_not_cut_short(act: Callable[[Desk], None], verdict: Verdict) -> None:
    desk = Desk()
    desk.offer(1, 500)
    desk.round(verdict)
    named_until = desk.now + 60_000
    act(desk)
    assert desk.sends() == []
    desk.send()
    assert desk.now >= named_until


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
@pytest.mark.parametrize("others_are_served", [False, True])
def test_a_pause_that_no_server_named_ends(
    act: Callable[[Desk], None], verdict: Verdict, others_are_served: bool
) -> None:
    desk = Desk()
    if others_are_served:
        desk.offer(1, 500)
        desk.round()
    desk.offer(2, 500)
    desk.round(verdict, u=0.99)
    paused_until = desk.schedule.next(desk.now)
    assert not isinstance(paused_until, Send)
    act(desk)
    desk.send()
    assert paused_until.until is not None
    assert desk.now < paused_until.until


@pytest.mark.parametrize(("named_until", "free_at"), [(0, 0), (40_000, 40_000), (100_000, 100_000)])
def test_the_backoff_after_a_429_of_a_shared_limit_ends_except_what_the_server_named(
    named_until: int, free_at: int
) -> None:
    endpoint = Endpoint(1, 0, Counter())
    endpoint.limited_until, endpoint.named_limit_until = 100_000, named_until
    endpoint.probe_now()
    assert endpoint.free_at(0, LIMITS.window_ms) == free_at


def test_a_named_pause_ends_at_its_time_where_the_backoff_is_longer() -> None:
    desk = Desk()
    desk.offer(1, 500)
    for _ in range(6):
        desk.round(FAILING, u=0.99)
    desk.round(Failing("503", 1_000, 503), u=0.99)
    named_until = desk.now + 1_000
    desk.schedule.flush(desk.now)
    desk.send()
    assert desk.now == named_until


def test_a_pause_for_the_disk_holds_the_lanes_of_the_request_only() -> None:
    desk = Desk()
    for queue_id in (1, 2):
        desk.offer(queue_id, 500)
    first, second = desk.sends()
    desk.schedule.pause(first, desk.now + 5_000)
    desk.schedule.settled(first, desk.now)
    desk.answer(second)
    desk.offer(2, 500)
    assert [queues(send) for send in desk.sends()] == [queues(second)]
    desk.pass_time(5_000)
    assert [queues(send) for send in desk.sends()] == [queues(first)]


def test_a_pause_for_the_disk_keeps_what_is_sent_again_just_so() -> None:
    desk = Desk(mix_devices="always")
    for queue_id in (1, 2, 3):
        desk.offer(queue_id, 10)
    after = restarted(desk, unsettled=[[Share(1, 3), Share(3, 1)]])
    (first,) = after.sends()
    after.schedule.pause(first, after.now + 100)
    after.schedule.settled(first, after.now)
    assert after.sends() == []
    after.pass_time(100)
    assert after.sends()[0] == first


# -- restart


def test_after_a_crash_the_same_requests_are_sent_first_just_so() -> None:
    desk = Desk(mix_devices="always")
    for queue_id in (1, 2, 3):
        desk.offer(queue_id, 10)
    after = restarted(desk, unsettled=[[Share(2, 4)], [Share(1, 3), Share(3, 1)]])
    sends = after.sends()
    assert [(send.shares, send.exact) for send in sends] == [
        ((Share(2, 4),), True),
        ((Share(1, 3), Share(3, 1)), True),
    ]
    for send in sends:
        after.answer(send)
    assert after.delivered == {2: [0, 1, 2, 3], 1: [0, 1, 2], 3: [0]}


def test_new_events_do_not_slip_into_what_is_sent_again() -> None:
    desk = Desk()
    desk.offer(1, 2)
    after = restarted(desk, unsettled=[[Share(1, 2)]])
    after.offer(1, 500)
    assert after.round() == {1: [0, 1]}


def test_what_was_in_flight_at_a_crash_counts_as_sent() -> None:
    desk = Desk(device_per_window=2)
    desk.offer(1, 500)
    after = restarted(desk, unsettled=[[Share(1, 2)]])
    began = after.now
    after.round()
    after.send()
    assert after.now - began > LIMITS.window_ms


def test_windows_survive_a_restart_in_the_same_boot() -> None:
    desk = Desk(device_per_window=2)
    desk.offer(1, 2_000)
    desk.round()
    answered_at = desk.now
    desk.pass_time(30_000)
    desk.round()
    after = restarted(desk)
    after.send()
    assert after.now == answered_at + LIMITS.window_ms + 1


def test_windows_of_another_boot_count_as_full() -> None:
    desk = Desk(device_per_window=2)
    desk.offer(1, 2_000)
    desk.round()
    after = restarted(desk, same_boot=False)
    began = after.now
    after.send()
    assert after.now == began + LIMITS.window_ms + 1


def test_what_is_sent_again_is_tried_just_so_a_few_times_and_then_as_any_other() -> None:
    desk = Desk()
    desk.offer(1, 500)
    after = restarted(desk, unsettled=[[Share(1, 500)]])
    exact = []
    for _ in range(5):
        send = after.send()
        exact.append((send.exact, send.shares[0].max_events))
        after.answer(send, FAILING)
    assert exact == [(True, 500), (True, 500), (True, 500), (False, 250), (False, 125)]


def test_an_unsettled_request_whose_events_are_gone_is_forgotten() -> None:
    desk = Desk()
    desk.offer(1, 2)
    desk.drop(1, 2)
    after = restarted(desk, unsettled=[[Share(1, 2)], [Share(99, 1)]])
    assert after.next() == Wait(None)
    after.offer(1)
    assert not after.send().exact


# -- forgetting


def test_a_lane_with_nothing_to_remember_is_forgotten_one_window_later() -> None:
    desk = Desk()
    desk.offer(1)
    desk.round()
    assert desk.forget() == []
    desk.pass_time(LIMITS.window_ms + 1)
    assert desk.forget() == [1]
    assert desk.forget() == []


def test_a_lane_that_lost_its_events_otherwise_is_forgotten_too() -> None:
    desk = Desk()
    desk.offer(1)
    desk.drop(1, 1)
    desk.pass_time(LIMITS.window_ms + 1)
    assert desk.forget() == [1]


def test_a_restored_lane_with_nothing_pending_is_forgotten_too() -> None:
    desk = Desk()
    desk.schedule.restore(1, (1, "tv", "a"), b"", desk.now, same_boot=True)
    desk.pass_time(LIMITS.window_ms + 1)
    assert desk.forget() == [1]


def test_a_held_lane_is_forgotten_only_after_its_hold() -> None:
    desk = Desk()
    desk.offer(1)
    desk.round(RateLimited("429", 600_000, LIMITS.device_per_window))
    desk.drop(1, 1)
    desk.pass_time(2 * LIMITS.window_ms)
    assert desk.forget() == []
    desk.pass_time(600_000)
    assert desk.forget() == [1]


def test_a_lane_in_use_is_not_forgotten() -> None:
    desk = Desk()
    desk.offer(1)
    desk.round()
    desk.offer(1)
    desk.pass_time(LIMITS.window_ms + 1)
    assert desk.forget() == []


def test_a_busy_lane_is_listed_once() -> None:
    """Memory of an idle list is bounded by the number of lanes, not of requests."""
    desk = Desk()
    for _ in range(100):
        desk.offer(1)
        desk.schedule.flush(desk.now)
        desk.round()
    desk.pass_time(LIMITS.window_ms + 1)
    desk.schedule.forgettable(desk.now, 1)
    desk.pass_time(LIMITS.window_ms + 1)
    assert len(desk.forget()) <= 1
    assert Schedule(LIMITS).forgettable(desk.now, 10) == []


# -- for people


def test_the_busiest_and_the_most_held_are_shown_first() -> None:
    desk = Desk(device_per_window=1)
    for queue_id, events in ((1, 600), (2, 900), (3, 5)):
        desk.offer(queue_id, events)
    for _ in range(2):
        desk.round()
        desk.pass_time(10)
    queues = desk.schedule.queues(2, desk.now)
    assert [view.key[2] for view in queues.busiest] == ["device-2", "device-1"]
    assert [view.key[2] for view in queues.longest_paused] == ["device-2", "device-1"]
    assert (queues.known, queues.waiting, queues.paused) == (3, 3, 2)


def test_of_more_routes_than_may_be_shown_those_asked_for_and_those_in_trouble_come_first() -> None:
    desk = Desk()
    for tenant in range(1, 7):
        desk.offer(tenant, 500, tenant=tenant)
    for send in desk.sends():
        desk.answer(send, UNAUTHORIZED if send.tenant_id in (3, 6) else DELIVERED)

    def tenants(*first: int, others: int) -> list[int]:
        return [view.tenant_id for view in desk.schedule.endpoints(desk.now, first, others)]

    assert tenants(others=6) == [1, 2, 3, 4, 5, 6]
    assert tenants(5, 99, others=3) == [5, 3, 6, 1]
    assert tenants(3, others=1) == [3, 6]
    assert tenants(5, 99, others=0) == [5]


def test_routes_are_counted_by_state_as_they_change() -> None:
    """The keep-alive reads them each second: views of 60,000 made-up tenants took 45 ms of events' time."""
    desk = Desk()
    desk.offer(1, 1_000, tenant=1)
    desk.offer(2, 500, tenant=2)
    assert counted(desk) == {"ok": 2}
    desk.answer(desk.send(), UNAUTHORIZED)
    assert counted(desk) == {"ok": 1, "unauthorized": 1}
    desk.answer(desk.send(), LIMITED)
    assert counted(desk) == {"rate_limited": 1, "unauthorized": 1}


def counted(desk: Desk) -> dict[str, int]:
    return {state: count for state, count in desk.schedule.states().items() if count}


def test_a_route_says_since_when_it_is_in_a_state_and_why() -> None:
    desk = Desk()
    desk.offer(1, 500)
    desk.pass_time(100)
    desk.round(UNAUTHORIZED)
    (view,) = desk.schedule.endpoints(desk.now)
    assert (view.state, view.since_ms, view.last_error) == ("unauthorized", desk.now, "401 no")
    assert view.next_attempt_ms == desk.now + 30_000
    desk.round()
    assert desk.schedule.endpoint(1, desk.now).state == "ok"


def test_a_paced_route_is_called_rate_limited() -> None:
    desk = Desk()
    desk.offer(1, 500)
    desk.round(LIMITED)
    assert desk.schedule.endpoint(1, desk.now).state == "rate_limited"


def test_a_request_that_met_a_closing_connection_is_sent_again_at_once_just_so_and_counted() -> None:
    desk = Desk(linger_ms=0, device_per_window=2)
    desk.offer(1, 3)
    taken = desk.round(Again("closed"))
    desk.offer(1, 2)
    again = desk.next()
    assert isinstance(again, Send)
    assert again.exact
    assert desk.answer(again) == taken
    assert isinstance(desk.next(), Wait), "both requests count in the device's window"
    assert desk.schedule.endpoint(1, desk.now).state == "ok"


def test_a_company_that_met_a_closing_connection_is_sent_again_as_it_was() -> None:
    desk = Desk(linger_ms=0, mix_devices="always")
    desk.offer(1)
    desk.offer(2)
    first = desk.send()
    assert queues(first) == [1, 2]
    desk.answer(first, Again("closed"))
    again = desk.next()
    assert isinstance(again, Send)
    assert (queues(again), again.exact) == ([1, 2], True)


def stalled_desk(*, served: bool, devices: int = 100) -> Desk:
    """A desk with many due devices and two request slots."""
    desk = Desk(max_in_flight=2)
    if served:
        desk.offer(1)
        desk.round()
        desk.now += 60_000
    for queue_id in range(10, 10 + devices):
        desk.offer(queue_id)
    desk.schedule.flush(desk.now)
    return desk


def test_a_request_without_progress_frees_its_request_slot() -> None:
    desk = stalled_desk(served=True)
    first, second = desk.sends()
    assert isinstance(desk.next(), Wait)
    desk.schedule.stalled(first, stalled=True)
    assert len(desk.sends()) == 1
    desk.schedule.stalled(second, stalled=True)
    desk.schedule.stalled(second, stalled=True)
    assert len(desk.sends()) == 1


def test_a_request_that_makes_progress_again_occupies_its_request_slot_again() -> None:
    desk = stalled_desk(served=True)
    first, second = desk.sends()
    desk.schedule.stalled(first, stalled=True)
    (third,) = desk.sends()
    desk.schedule.stalled(first, stalled=False)
    desk.answer(second)
    assert isinstance(desk.next(), Wait)
    desk.answer(third)
    assert len(desk.sends()) == 1


@pytest.mark.parametrize(("served", "connections"), [(True, 16), (False, 4)])
def test_stalled_requests_occupy_at_most_eight_times_the_request_slots(served: bool, connections: int) -> None:
    """A quarter of these for an endpoint that served nobody lately."""
    desk = stalled_desk(served=served)
    sent: list[Send] = []
    while sends := desk.sends():
        sent += sends
        for send in sends:
            desk.schedule.stalled(send, stalled=True)
    assert len(sent) == connections
    for send in sent:
        desk.answer(send)
    assert desk.schedule.in_flight() == 0
    assert len(desk.sends()) == 2


def test_an_endpoint_in_trouble_has_one_probe_though_the_probe_stalls() -> None:
    desk = stalled_desk(served=False)
    for send in desk.sends():
        desk.answer(send, FAILING)
    probe = desk.send()
    desk.schedule.stalled(probe, stalled=True)
    desk.now += 20_000
    assert isinstance(desk.next(), Wait)


@pytest.mark.parametrize(
    "changes", [{"linger_ms": 0}, {"max_events": 2}, {"max_body_bytes": 2 * EVENT_BYTES}], ids=lambda c: str(*c)
)
def test_other_limits_apply_to_events_that_are_pending_already(changes: dict[str, int]) -> None:
    desk = Desk(linger_ms=600_000)
    desk.offer(1, 2)
    assert isinstance(desk.next(), Wait)

    desk.schedule.configure(replace(desk.limits, **changes), desk.now)  # type: ignore[arg-type]

    assert isinstance(desk.next(), Send)


@pytest.mark.parametrize("changes", [{"window_ms": 100}, {"device_per_window": 2}], ids=lambda c: str(*c))
def test_a_higher_rate_ends_the_wait_for_the_old_one(changes: dict[str, int]) -> None:
    desk = Desk(linger_ms=0, window_ms=3_600_000, device_per_window=1)
    desk.offer(1)
    desk.round()
    desk.offer(1)
    desk.pass_time(1_000)
    assert isinstance(desk.next(), Wait)

    desk.schedule.configure(replace(desk.limits, **changes), desk.now)  # type: ignore[arg-type]

    assert isinstance(desk.next(), Send)


def test_a_longer_linger_does_not_delay_events_that_are_pending_already() -> None:
    desk = Desk()
    desk.offer(1)
    desk.schedule.configure(replace(desk.limits, linger_ms=600_000), desk.now)
    desk.pass_time(5_000)

    assert isinstance(desk.next(), Send)

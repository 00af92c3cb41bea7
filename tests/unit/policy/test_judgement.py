"""What a verdict means for events, lanes and routes: the right column of the contract's section 7."""

from __future__ import annotations

from itertools import pairwise

import pytest
from relay.policy.backoff import SERVER_WISH_MAX_MS
from relay.policy.judgement import STRANGERS_MAX, GivenUp
from relay.policy.requests import Send, Share
from relay.policy.verdict import (
    BatchTooLarge,
    Delivered,
    EventsRejected,
    Failing,
    Misconfigured,
    RateLimited,
    Unauthorized,
    Verdict,
)

from tests.unit.policy.harness import (
    DELIVERED,
    EVENT_BYTES,
    FAILING,
    LIMITED,
    MISCONFIGURED,
    REFUSED,
    UNAUTHORIZED,
    Claimed,
    Desk,
    queues,
)


def state(desk: Desk, tenant: int = 1) -> str:
    return desk.schedule.endpoint(tenant, desk.now).state


def held_ms(desk: Desk, tenant: int = 1) -> int:
    """How long the route may not send from now."""
    return (desk.schedule.endpoint(tenant, desk.now).next_attempt_ms or desk.now) - desk.now


def poisoned(*bad: int, verdict: Verdict = REFUSED):
    """An upstream that does not want some events of lane 1."""

    def meant(taken: Claimed) -> Verdict:
        return verdict if set(bad) & set(taken.get(1, ())) else DELIVERED

    return meant


def named(*bad: int):
    """An upstream that names what it does not want, by index in the request."""

    def meant(taken: Claimed) -> Verdict:
        events = [n for numbers in taken.values() for n in numbers]
        found = {i: "no good" for i, n in enumerate(events) if n in bad}
        return EventsRejected(422, "422 invalid", found) if found else DELIVERED

    return meant


# -- delivered and refused


def test_what_was_delivered_is_gone() -> None:
    desk = Desk()
    desk.offer(1, 3)
    desk.round()
    assert desk.delivered[1] == [0, 1, 2]
    assert state(desk) == "ok"


def test_only_named_events_are_given_up_with_the_upstreams_words_and_the_rest_is_sent_at_once() -> None:
    desk = Desk()
    desk.offer(1, 500)
    desk.answer(desk.send(), named(3, 7))
    desk.offer(1, 1)
    at = desk.now
    desk.round(named(3, 7))
    assert desk.now - at < 100
    assert desk.given_up == {1: {n: GivenUp("refused", 422, "422 no good") for n in (3, 7)}}
    assert desk.delivered[1] == [n for n in range(501) if n not in (3, 7)]


def test_events_that_a_success_rejects_by_name_are_given_up_and_the_rest_is_delivered() -> None:
    desk = Desk(mix_devices="always")
    for queue_id in (1, 2):
        desk.offer(queue_id, 3)
    desk.schedule.flush(desk.now)
    first, second = queues(send := desk.send())
    desk.answer(send, Delivered(202, {1: "too old", 3: "unknown type"}))
    assert desk.given_up == {
        first: {1: GivenUp("refused", 202, "202 too old")},
        second: {0: GivenUp("refused", 202, "202 unknown type")},
    }
    assert (desk.delivered[first], desk.delivered[second]) == ([0, 2], [1, 2])


def test_the_rest_of_a_named_batch_does_not_linger_with_what_came_meanwhile() -> None:
    desk = Desk()
    desk.offer(1, 10)
    send = desk.send()
    desk.offer(1)
    desk.answer(send, named(3))
    assert desk.sends()


def test_indexes_count_through_a_whole_company() -> None:
    desk = Desk(mix_devices="always")
    for queue_id in (1, 2):
        desk.offer(queue_id, 5)
    desk.schedule.flush(desk.now)
    first, second = queues(send := desk.send())
    desk.answer(send, EventsRejected(422, "422 invalid", {1: "x", 8: "y"}))
    assert {queue_id: list(given_up) for queue_id, given_up in desk.given_up.items()} == {first: [1], second: [3]}


def test_an_unnamed_bad_event_is_found_by_halving_and_the_rest_delivered_in_order() -> None:
    desk = Desk()
    desk.offer(1, 500)
    requests = 0
    while not desk.drained(1):
        desk.round(poisoned(357))
        requests += 1
    assert desk.given_up == {1: {357: GivenUp("refused", 422, "422 bad")}}
    assert desk.delivered[1] == [n for n in range(500) if n != 357]
    assert requests <= 2 * 9 + 2


def test_an_unnamed_refusal_of_a_company_is_halved_by_lanes_first() -> None:
    desk = Desk(mix_devices="always")
    for queue_id in range(1, 9):
        desk.offer(queue_id, 2)
    desk.schedule.flush(desk.now)
    requests = 0
    while any(desk.pending.values()):
        desk.round(poisoned(1))
        requests += 1
    assert list(desk.given_up) == [1]
    assert list(desk.given_up[1]) == [1]
    assert all(desk.delivered[queue_id] == [0, 1] for queue_id in range(2, 9))
    assert requests <= 12


def test_many_bad_events_in_a_row_are_all_found() -> None:
    desk = Desk()
    desk.offer(1, 40)
    while not desk.drained(1):
        desk.round(poisoned(*range(10, 30)))
    assert list(desk.given_up[1]) == list(range(10, 30))


@pytest.mark.parametrize("status", [402, 409, 415, 431])
def test_a_route_that_refuses_everything_by_a_status_for_anything_is_wrong_itself(status: int) -> None:
    """Nothing gets through, whatever is sent: a few events are given up, then all is kept and probed slowly."""
    desk = Desk()
    for queue_id in range(20):
        desk.offer(queue_id, 500)
    began = desk.now
    requests = 0
    while desk.now < began + 3_600_000:
        desk.round(EventsRejected(status, "no", {}, about_events=False))
        requests += 1
    assert sum(map(len, desk.given_up.values())) == STRANGERS_MAX
    assert state(desk) == "misconfigured"
    assert requests <= 20 * 9 + 20, "each device's batch halved once, then probes"


def test_an_odd_4xx_to_one_bad_event_gives_it_up() -> None:
    desk = Desk()
    desk.offer(1, 20)
    while not desk.drained(1):
        desk.round(poisoned(5, verdict=EventsRejected(409, "409 conflict", {}, about_events=False)))
    assert list(desk.given_up[1]) == [5]


def test_a_url_that_refuses_everything_as_if_it_were_about_events_does_not_drain_the_outbox() -> None:
    """Some other endpoint's 422: after twenty events it is the route that is wrong, and one goes with each probe."""
    desk = Desk()
    for queue_id in range(20):
        desk.offer(queue_id, 500)
    desk.round()
    began = desk.now
    while desk.now < began + 3_600_000:
        desk.round(REFUSED)
    assert sum(map(len, desk.given_up.values())) <= 50
    assert state(desk) == "misconfigured"
    while any(desk.pending.values()):
        desk.round()
    assert state(desk) == "ok"


def test_the_twentieth_event_rejected_in_a_row_makes_the_endpoint_misconfigured() -> None:
    desk = Desk()
    for queue_id in range(30):
        desk.offer(queue_id)
    states = []
    while len(states) < 20:
        before = sum(map(len, desk.given_up.values()))
        desk.round(REFUSED)
        if sum(map(len, desk.given_up.values())) > before:
            states.append(state(desk))
    assert states == ["ok"] * 19 + ["misconfigured"]


def test_the_third_413_to_a_single_event_makes_the_endpoint_misconfigured() -> None:
    desk = Desk()
    states = []
    for queue_id in range(3):
        desk.offer(queue_id)
        desk.round(BatchTooLarge(413, "413"))
        states.append(state(desk))
    assert states == ["ok", "ok", "misconfigured"]
    assert sum(map(len, desk.given_up.values())) == 3


def test_a_device_that_makes_only_bad_events_is_not_taken_for_a_wrong_url_while_others_are_served() -> None:
    desk = Desk()
    desk.offer(2)
    desk.round()
    desk.offer(1, 60)
    while not desk.drained(1):
        desk.round(REFUSED)
    assert len(desk.given_up[1]) == 60
    assert state(desk) == "ok"


# -- too large


def test_413_halves_by_bytes_and_the_size_is_remembered_for_every_device() -> None:
    desk = Desk()
    desk.offer(1, 500)

    def small_proxy(taken: Claimed) -> Verdict:
        return BatchTooLarge(413, "413") if sum(map(len, taken.values())) * EVENT_BYTES > 100_000 else DELIVERED

    sizes = [len(desk.round(small_proxy)[1]) for _ in range(3)]
    assert sizes[0] == 500
    assert sizes[1] == sizes[2] == 249
    desk.round(small_proxy)
    desk.offer(2, 500)
    assert len(desk.round(small_proxy)[2]) == 249
    assert not desk.given_up


def test_an_event_too_large_alone_is_given_up() -> None:
    desk = Desk()
    desk.offer(1, 3)
    while not desk.drained(1):
        desk.round(poisoned(1, verdict=BatchTooLarge(413, "413 too large")))
    assert desk.given_up == {1: {1: GivenUp("too_large", 413, "413 too large")}}
    assert desk.delivered[1] == [0, 2]


def test_a_moment_of_413_for_everything_gives_up_nothing_that_was_not_too_large_before() -> None:
    desk = Desk()
    desk.offer(1, 500)
    desk.round()
    desk.offer(1)
    for _ in range(2):
        desk.round(BatchTooLarge(413, "413"))
    assert state(desk) == "ok"
    desk.round()
    assert not desk.given_up
    assert desk.delivered[1] == list(range(501))


def test_hours_of_413_for_everything_give_up_a_few_events_then_all_is_kept_and_probed_slowly() -> None:
    desk = Desk()
    for queue_id in range(20):
        desk.offer(queue_id, 500)
    began = desk.now
    while desk.now < began + 3_600_000:
        desk.round(BatchTooLarge(413, "413"))
    assert sum(map(len, desk.given_up.values())) == STRANGERS_MAX
    assert state(desk) == "misconfigured"


def test_the_size_grows_back_when_the_limit_was_a_moment_s() -> None:
    desk = Desk()
    desk.offer(1, 500)
    desk.round(BatchTooLarge(413, "413"))
    assert len(desk.round()[1]) < 500
    for _ in range(40):
        desk.pass_time(60_000)
        desk.offer(1, 500)
        while not desk.drained(1):
            desk.round()
    desk.offer(1, 500)
    assert len(desk.round()[1]) == 500


def test_a_limit_that_stays_is_met_more_and_more_rarely() -> None:
    desk = Desk()
    refused = []

    def small_proxy(taken: Claimed) -> Verdict:
        if sum(map(len, taken.values())) * EVENT_BYTES <= 100_000:
            return DELIVERED
        refused.append(desk.now)
        return BatchTooLarge(413, "413")

    for _ in range(3 * 24 * 6):
        desk.offer(1, 500)
        while not desk.drained(1):
            desk.round(small_proxy)
        desk.pass_time(600_000)
    assert len(refused) <= 12
    assert refused[-1] - refused[-2] >= 12 * 3_600_000
    assert not desk.given_up


# -- 429


def use_up(desk: Desk, queue_id: int) -> None:
    """Take all slots of a device's window but one."""
    for _ in range(desk.limits.device_per_window - 1):
        desk.offer(queue_id, desk.limits.max_events)
        desk.round()


def test_at_the_devices_own_limit_a_429_holds_the_device_alone() -> None:
    desk = Desk()
    use_up(desk, 1)
    desk.offer(1, 500)
    desk.offer(2, 500)
    sends = {queues(send)[0]: send for send in desk.sends()}
    desk.answer(sends[1], RateLimited("429", 90_000, None))
    desk.answer(sends[2])
    assert state(desk) == "ok"
    assert held_ms(desk) == 0
    held = desk.schedule.queues(1, desk.now).longest_paused[0]
    assert held.why == "rate_limited"
    assert held.paused_until_ms is not None
    assert held.paused_until_ms - desk.now >= 89_980


def test_a_429_that_names_the_devices_limit_holds_the_device_alone() -> None:
    desk = Desk()
    desk.offer(1)
    desk.round(RateLimited("429", 30_000, desk.limits.device_per_window))
    assert state(desk) == "ok"


def test_a_429_below_the_devices_limit_means_a_shared_ceiling_and_paces_the_route() -> None:
    desk = Desk()
    for queue_id in (1, 2, 3):
        desk.offer(queue_id, 5_000)
    desk.round(LIMITED, u=0.0)
    assert state(desk) == "rate_limited"
    times = []
    for _ in range(10):
        desk.round()
        times.append(desk.now)
    assert all(b - a >= 3_000 for a, b in pairwise(times))


def test_one_devices_odd_429_while_others_are_served_holds_that_device_alone() -> None:
    desk = Desk()
    desk.offer(1, 500)
    desk.round()
    desk.offer(2, 500)
    desk.round(RateLimited("429", 600_000, None))
    assert state(desk) == "ok"
    desk.offer(1, 500)
    assert [queues(send) for send in desk.sends()] == [[1]]


def test_the_next_device_that_meets_a_429_makes_it_a_shared_ceiling() -> None:
    desk = Desk()
    for queue_id in (1, 2, 3):
        desk.offer(queue_id, 500)
    desk.round()
    desk.round(LIMITED)
    desk.round(LIMITED)
    assert state(desk) == "rate_limited"


@pytest.mark.parametrize(
    ("limit", "through", "gap_ms"),
    [(None, 3, 3_000), (10, 3, 6_000), (60, 3, 3_000), (30, 60, 2_000), (10**9, 60, 1_000)],
    ids=["unsaid: as configured", "as said", "no more than configured", "as said and seen", "no more than seen"],
)
def test_a_ceilings_first_pace(limit: int | None, through: int, gap_ms: int) -> None:
    desk = Desk()
    for queue_id in range(through + 1):
        desk.offer(queue_id, 500)
    for _ in range(through):
        desk.round()
    desk.pass_time(20_000)
    desk.round(RateLimited("429", 0, limit), u=0.0)
    desk.offer(9, 5_000)
    desk.round()
    before = desk.now
    desk.round()
    assert desk.now - before == pytest.approx(gap_ms, abs=20)


@pytest.mark.parametrize(
    ("asked_ms", "waited_ms"), [(None, 500), (0, 500), (45_000, 45_000), (10**12, SERVER_WISH_MAX_MS)]
)
def test_what_the_server_asked_for_is_waited_at_least(asked_ms: int | None, waited_ms: int) -> None:
    desk = Desk()
    desk.offer(1, 500)
    desk.round(RateLimited("429", asked_ms, None))
    assert held_ms(desk) >= waited_ms


@pytest.mark.parametrize("later", [DELIVERED, FAILING, UNAUTHORIZED], ids=lambda verdict: type(verdict).__name__)
def test_no_other_answer_shortens_what_a_429_asked_for(later: Verdict) -> None:
    desk = Desk()
    for queue_id in (1, 2):
        desk.offer(queue_id, 500)
    first, second = desk.sends()
    desk.answer(first, RateLimited("429", 60_000, None))
    desk.answer(second, later)
    desk.schedule.flush(desk.now)
    assert held_ms(desk) >= 59_900


def test_requests_under_way_count_against_the_ceiling() -> None:
    desk = Desk(ip_per_window=2)
    for queue_id in range(6):
        desk.offer(queue_id, 5_000)
    desk.round(RateLimited("429", 0, None), u=0.0)
    began = desk.now
    desk.send()
    desk.send()
    desk.pass_time(10 * desk.limits.window_ms)
    assert desk.now - began > desk.limits.window_ms
    assert desk.sends() == []


def test_under_a_ceiling_devices_mix() -> None:
    desk = Desk()
    for queue_id in range(10):
        desk.offer(queue_id, 5)
    desk.schedule.flush(desk.now)
    desk.answer(desk.send(), LIMITED)
    assert sorted(len(queues(send)) for send in (desk.send(), desk.send())) == [1, 9], "who met the 429, and the others"


# -- failing


def test_a_failing_route_is_held_with_full_jitter_and_probed_by_one_request() -> None:
    desk = Desk()
    for queue_id in range(4):
        desk.offer(queue_id, 500)
    for send in desk.sends():
        desk.answer(send, FAILING)
    assert state(desk) == "backing_off"
    waits = []
    for _ in range(12):
        waits.append(held_ms(desk))
        send = desk.send()
        assert len(queues(send)) == 1
        assert desk.sends() == []
        desk.answer(send, FAILING)
    assert waits[-1] == 150_000
    assert [round(ms / 1000) for ms in waits[:6]] == [0, 1, 2, 4, 8, 16]


def test_after_a_probe_gets_through_all_may_send() -> None:
    desk = Desk()
    for queue_id in range(8):
        desk.offer(queue_id, 500)
    desk.round(FAILING)
    desk.round()
    assert state(desk) == "ok"
    assert len(desk.sends()) == 7


def test_a_503s_own_wish_is_obeyed() -> None:
    desk = Desk()
    desk.offer(1, 500)
    desk.round(Failing("503", 120_000, 503))
    assert held_ms(desk) == 120_000


def test_one_devices_failure_while_others_are_served_holds_that_device_alone() -> None:
    desk = Desk()
    desk.offer(1, 500)
    desk.round()
    desk.offer(2, 500)
    desk.round(FAILING)
    assert state(desk) == "ok"
    desk.offer(1, 500)
    assert len(desk.sends()) == 1


def test_a_second_failing_device_makes_it_the_route() -> None:
    desk = Desk()
    for queue_id in (1, 2, 3):
        desk.offer(queue_id, 500)
    desk.round()
    desk.round(FAILING)
    desk.round(FAILING)
    assert state(desk) == "backing_off"


def test_a_success_of_its_own_does_not_hide_that_others_were_served() -> None:
    desk = Desk()
    for queue_id in (2, 1):
        desk.offer(queue_id, 500)
        desk.round()
    desk.offer(1, 500)
    desk.round(FAILING)
    assert state(desk) == "ok"


@pytest.mark.parametrize("verdict", [FAILING, LIMITED, UNAUTHORIZED], ids=lambda verdict: type(verdict).__name__)
def test_a_device_that_failed_while_others_were_served_never_holds_them_again(verdict: Verdict) -> None:
    """Others are rare: half a minute goes by between their successes, but they come between its failures."""
    desk = Desk()
    desk.offer(1, 500)
    desk.round(verdict)
    held = []
    for _ in range(5):
        desk.pass_time(30_000)
        desk.offer(2, 500)
        while not desk.drained(2):
            send = desk.send()
            desk.answer(send, DELIVERED if queues(send) == [2] else verdict)
        desk.pass_time(30_000)
        send = desk.send()
        assert queues(send) == [1]
        desk.answer(send, verdict)
        held.append(held_ms(desk))
    assert max(held) < 15_000, "no more than a pace"


def test_two_devices_that_keep_failing_do_not_make_it_the_route() -> None:
    desk = Desk()
    for _ in range(10):
        for queue_id in (1, 2, 3):
            desk.offer(queue_id, 500)
        for send in desk.sends():
            desk.answer(send, DELIVERED if queues(send) == [3] else FAILING)
        desk.pass_time(1_000)
    for queue_id in (1, 2):
        desk.offer(queue_id, 500)
    desk.schedule.flush(desk.now)
    for send in desk.sends():
        desk.answer(send, FAILING)
    assert state(desk) == "ok"


def test_when_nobody_is_served_any_more_such_devices_speak_for_the_route_again() -> None:
    desk = Desk()
    desk.offer(1, 500)
    desk.round(FAILING)
    desk.offer(2, 500)
    while not desk.drained(2):
        desk.answer(send := desk.send(), DELIVERED if queues(send) == [2] else FAILING)
    desk.round(FAILING)
    assert state(desk) == "ok"
    desk.pass_time(11 * 60_000)
    desk.round(FAILING)
    assert state(desk) == "backing_off"


def test_a_route_in_trouble_is_probed_by_a_device_that_has_not_failed_if_there_is_one() -> None:
    desk = Desk()
    for queue_id in (1, 2):
        desk.offer(queue_id, 500)
        desk.round(FAILING)
    desk.offer(3, 500)
    assert queues(desk.send()) == [3]


def test_an_event_that_brings_the_upstream_down_is_given_up_after_ten_lone_tries_in_ten_minutes() -> None:
    desk = Desk()
    desk.offer(1, 500)
    desk.offer(2)
    upstream = poisoned(7, verdict=Failing("500 Server Error", None, 500))
    lone: list[int] = []
    while not desk.drained(1):
        taken = desk.round(upstream)
        if taken.get(1) == [7]:
            lone.append(desk.now)
        desk.offer(2)
    assert desk.given_up == {1: {7: GivenUp("poison", 500, "500 Server Error")}}
    assert desk.delivered[1] == [n for n in range(500) if n != 7]
    assert len(lone) >= 10
    assert lone[-1] - lone[0] >= 600_000


def test_an_outage_gives_nothing_up_even_if_others_were_served_at_its_beginning() -> None:
    desk = Desk()
    desk.offer(1)
    desk.offer(2, 2)
    sends = {queues(send)[0]: send for send in [desk.send(), desk.send()]}
    desk.answer(sends[1], FAILING)
    desk.answer(sends[2])
    for _ in range(500):
        desk.round(FAILING)
    assert not desk.given_up
    desk.round()
    assert state(desk) == "ok"


def test_a_lone_device_without_others_gives_nothing_up() -> None:
    desk = Desk()
    desk.offer(1, 3)
    for _ in range(200):
        desk.round(FAILING)
    assert not desk.given_up


def test_doubts_about_dropped_events_are_dropped_with_them() -> None:
    desk = Desk()
    desk.offer(1, 10)
    desk.round(REFUSED)
    desk.drop(1, 5)
    assert len(desk.round()[1]) == 5


def test_after_an_outage_devices_mix_again_at_once() -> None:
    desk = Desk(mix_devices="always")
    for queue_id in range(10):
        desk.offer(queue_id, 5)
    desk.schedule.flush(desk.now)
    desk.round(FAILING)
    assert len(queues(desk.send())) == 10


# -- what needs a person


@pytest.mark.parametrize(
    ("verdict", "name"),
    [(UNAUTHORIZED, "unauthorized"), (MISCONFIGURED, "misconfigured")],
)
def test_what_needs_a_person_is_probed_slowly_and_keeps_everything(verdict: Verdict, name: str) -> None:
    desk = Desk()
    for queue_id in range(20):
        desk.offer(queue_id, 500)
    waits = []
    desk.round(verdict)
    for _ in range(6):
        assert state(desk) == name
        waits.append(held_ms(desk))
        desk.round(verdict)
    assert waits == [30_000, 60_000, 120_000, 240_000, 300_000, 300_000]
    assert not desk.given_up
    assert all(len(pending) == 500 for pending in desk.pending.values())


def test_answers_to_requests_sent_before_the_trouble_do_not_lengthen_it() -> None:
    desk = Desk()
    for queue_id in range(8):
        desk.offer(queue_id, 500)
    for send in desk.sends():
        desk.answer(send, UNAUTHORIZED)
    assert held_ms(desk) <= 30_000


@pytest.mark.parametrize("act", ["reload", "flush"])
def test_a_held_route_is_probed_at_once_when_asked(act: str) -> None:
    desk = Desk()
    for queue_id in range(3):
        desk.offer(queue_id, 500)
    desk.round(UNAUTHORIZED)
    assert desk.sends() == []
    if act == "reload":
        desk.schedule.configure(desk.schedule.limits, desk.now)
    else:
        desk.schedule.flush(desk.now)
    assert len(desk.sends()) == 1


def test_an_odd_401_to_one_device_while_others_are_served_holds_that_device_alone() -> None:
    desk = Desk()
    desk.offer(1, 500)
    desk.round()
    desk.offer(2, 500)
    desk.round(Unauthorized("403 blocked"))
    assert state(desk) == "ok"
    assert desk.schedule.queues(1, desk.now).longest_paused[0].why == "unauthorized"


def test_each_tenant_is_a_route_of_its_own() -> None:
    desk = Desk()
    desk.offer(1, 500, tenant=1)
    desk.offer(2, 500, tenant=2)
    desk.answer(next(send for send in desk.sends() if send.tenant_id == 1), Misconfigured("404"))
    assert (state(desk, 1), state(desk, 2)) == ("misconfigured", "ok")
    desk.schedule.flush(desk.now)


def test_an_answer_to_nothing_changes_nothing() -> None:
    """What was to be sent had gone from the outbox: nobody asked the upstream."""
    desk = Desk()
    desk.offer(1, 5)
    send = desk.send()
    assert isinstance(send, Send)
    desk.pending[1] = []
    desk.answer(send, UNAUTHORIZED)
    assert state(desk) == "ok"


SLOW = Failing("the request did not arrive", while_sending=True)


def test_a_batch_that_times_out_while_the_relay_sends_it_is_halved_until_it_arrives() -> None:
    """The size that arrived is remembered, as after a 413; no event is blamed for the slow link."""
    desk = Desk()
    desk.offer(1, 500)
    requests: list[int] = []

    def link(taken: Claimed) -> Verdict:
        requests.append(len(taken[1]))
        return SLOW if len(taken[1]) * EVENT_BYTES > 60_000 else DELIVERED

    while desk.pending[1]:
        desk.round(link)
    assert requests[:3] == [500, 249, 124]
    assert all(size <= 124 for size in requests[2:])
    assert desk.delivered[1] == list(range(500))
    assert not desk.given_up.get(1)


def test_an_upstream_that_reads_nothing_for_hours_leaves_batches_of_16_kib() -> None:
    desk = Desk()
    desk.offer(1, 500)
    for _ in range(40):
        desk.round(SLOW)
    taken = desk.round()
    assert 16 * 1024 - EVENT_BYTES - 14 <= len(taken[1]) * EVENT_BYTES <= 16 * 1024
    assert not desk.given_up.get(1)


def test_an_exact_request_of_several_devices_that_is_too_slow_is_sent_in_halves() -> None:
    desk = Desk()
    for queue_id in (1, 2):
        desk.offer(queue_id, 100)
    desk.schedule.resume([[Share(1, 100), Share(2, 100)]], desk.now)
    assert sorted(desk.round(SLOW)) == [1, 2]
    assert len(desk.round()) == 1
    assert len(desk.round()) == 1
    assert desk.delivered == {1: list(range(100)), 2: list(range(100))}


def test_a_single_event_that_times_out_counts_as_any_failure() -> None:
    desk = Desk()
    desk.offer(1)
    desk.round(SLOW)
    assert desk.pending[1] == [0]
    assert state(desk) == "backing_off"

"""The consequences of a verdict for events, device queues and endpoints."""

from __future__ import annotations

from itertools import pairwise

import pytest
from relay.policy.backoff import REQUESTED_DELAY_MAX_MS
from relay.policy.omitted_events import DeadLetterCause, OmittedEvent
from relay.policy.rejections import UNEXPLAINED_REJECTIONS_MAX
from relay.policy.requests import Send, Share
from relay.policy.verdict import (
    BatchTooLarge,
    Delivered,
    EventsRejected,
    Failing,
    Misconfigured,
    RateLimited,
    Resend,
    Unauthorized,
    Verdict,
)

from tests.unit.policy.harness import (
    DELIVERED,
    EVENT_BYTES,
    FAILING,
    LIMITED,
    MISCONFIGURED,
    REJECTED,
    RESET,
    UNAUTHORIZED,
    UNREACHABLE,
    Claimed,
    Harness,
    queues,
    restarted,
)


def state(harness: Harness, tenant: int = 1) -> str:
    return harness.endpoint(tenant).state


def paused_ms(harness: Harness, tenant: int = 1) -> int:
    """Return the remaining pause of the endpoint."""
    return (harness.endpoint(tenant).next_attempt_ms or harness.now) - harness.now


def poisoned(*bad: int, verdict: Verdict = REJECTED):
    """Return an upstream that rejects some events of device queue 1."""

    def response(claimed: Claimed) -> Verdict:
        return verdict if set(bad) & set(claimed.get(1, ())) else DELIVERED

    return response


def named(*bad: int):
    """Return an upstream that rejects events by their index in the request."""

    def response(claimed: Claimed) -> Verdict:
        events = [n for numbers in claimed.values() for n in numbers]
        found = {i: "no good" for i, n in enumerate(events) if n in bad}
        return EventsRejected(422, "422 invalid", found) if found else DELIVERED

    return response


# -- delivered and rejected


def test_delivered_events_are_removed() -> None:
    harness = Harness()
    harness.offer(1, 3)
    harness.round()
    assert harness.delivered[1] == [0, 1, 2]
    assert state(harness) == "ok"


def test_exactly_the_remainder_is_sent_immediately_and_then_the_named_events_are_dead_lettered() -> None:
    harness = Harness()
    harness.offer(1, 500)
    harness.respond(harness.send(), named(3, 7))
    harness.offer(1, 1)
    assert harness.dead_letters == {}
    at = harness.now
    assert list(harness.round(named(3, 7))[1]) == [n for n in range(500) if n not in (3, 7)]
    assert harness.now - at < 100
    assert harness.dead_letters == {1: {n: DeadLetterCause("refused", 422, "422 no good") for n in (3, 7)}}
    harness.round(named(3, 7))
    assert harness.delivered[1] == [n for n in range(501) if n not in (3, 7)]


def test_named_events_are_dead_lettered_at_once_if_nothing_remains() -> None:
    harness = Harness()
    harness.offer(1, 2)
    harness.round(named(0, 1))
    assert list(harness.dead_letters[1]) == [0, 1]


def test_the_remainder_of_a_mixed_batch_is_one_request() -> None:
    """All events of device queue 2 are named, so that it has no event in the remainder."""
    harness = Harness(mix_devices="always")
    for queue_id, events in ((1, 3), (2, 1), (3, 2)):
        harness.offer(queue_id, events)
    harness.schedule.flush(harness.now)
    order = queues(send := harness.send())
    harness.respond(send, lambda claimed: EventsRejected(422, "422 invalid", names(claimed, {1: [0], 2: [0]})))
    harness.offer(4, 1)
    harness.schedule.flush(harness.now)
    send = harness.send()
    assert queues(send) == order
    assert harness.respond(send) == {1: [1, 2], 2: [], 3: [0, 1]}
    assert {queue_id: list(dead) for queue_id, dead in harness.dead_letters.items()} == {1: [0], 2: [0]}
    assert harness.delivered == {1: [1, 2], 2: [], 3: [0, 1]}
    harness.round()
    assert harness.delivered[4] == [0]


def names(claimed: Claimed, bad: dict[int, list[int]]) -> dict[int, str]:
    """Return the index in the request of each bad event, given by device queue."""
    keys = [(queue_id, n) for queue_id, numbers in claimed.items() for n in numbers]
    return {index: "no good" for index, (queue_id, n) in enumerate(keys) if n in bad.get(queue_id, ())}


@pytest.mark.parametrize("names_again", [True, False])
def test_a_rejected_remainder_means_wrong_indexes_and_the_original_batch_is_halved(names_again: bool) -> None:
    """The upstream counts from 1. Its indexes are ignored for a day."""
    harness = Harness()
    harness.offer(1, 200)

    def counts_from_1(claimed: Claimed) -> Verdict:
        found = {index + 1: "bad" for index, n in enumerate(claimed[1]) if n == 150}
        if not found:
            return DELIVERED
        return EventsRejected(422, "422 invalid", found if names_again or len(claimed[1]) == 200 else {})

    harness.round(counts_from_1)
    assert list(harness.round(counts_from_1)[1]) == [n for n in range(200) if n != 151]
    assert list(harness.round(counts_from_1)[1]) == list(range(100)), "half of the original batch"
    while harness.pending[1]:
        harness.round(counts_from_1)
    assert list(harness.dead_letters[1]) == [150]
    assert harness.delivered[1] == [n for n in range(200) if n != 150]


@pytest.mark.parametrize(("after_ms", "believed"), [(23 * 3_600_000, False), (25 * 3_600_000, True)])
def test_wrong_indexes_are_ignored_for_a_day(after_ms: int, believed: bool) -> None:
    harness = Harness()
    harness.offer(1, 4)
    for _ in range(2):
        harness.round(EventsRejected(422, "422 invalid", {1: "bad"}))
    while harness.pending[1]:
        harness.round()
    harness.pass_time(after_ms)
    harness.offer(1, 4)
    harness.round(EventsRejected(422, "422 invalid", {0: "bad"}))
    assert harness.round()[1] == ([5, 6, 7] if believed else [4, 5])
    assert list(harness.dead_letters.get(1, {})) == ([4] if believed else [])


def test_ignored_indexes_of_a_success_are_found_by_halving() -> None:
    harness = Harness()
    harness.offer(1, 4)
    for _ in range(2):
        harness.round(EventsRejected(422, "422 invalid", {1: "bad"}))

    def partial(claimed: Claimed) -> Verdict:
        if claimed[1] == [2]:
            return EventsRejected(202, "202 invalid")
        return Delivered(202, {0: "bad"} if 2 in claimed[1] else {})

    while harness.pending[1]:
        harness.round(partial)
    assert list(harness.dead_letters[1]) == [2]


@pytest.mark.parametrize(
    "verdict",
    [LIMITED, UNAUTHORIZED, MISCONFIGURED, FAILING, UNREACHABLE, Resend("closed")],
    ids=lambda v: type(v).__name__,
)
def test_the_remainder_is_repeated_exactly_after_a_failure(verdict: Verdict) -> None:
    harness = Harness()
    harness.offer(1, 10)
    harness.round(named(3))
    harness.offer(1, 5)
    remainder = [n for n in range(10) if n != 3]
    for _ in range(2):
        assert harness.round(verdict)[1] == remainder
        assert harness.dead_letters == {}
    assert harness.round()[1] == remainder
    assert list(harness.dead_letters[1]) == [3]


def test_a_remainder_that_keeps_failing_is_divided_and_the_named_events_are_judged_anew() -> None:
    """The batch has a poison event, too. Another device shows that the upstream works."""
    harness = Harness()
    harness.offer(1, 10)
    harness.round(named(3))
    for _ in range(3):
        assert 3 not in harness.round(FAILING)[1]
    assert harness.dead_letters == {}
    assert harness.round()[1] == list(range(5))


def test_dropped_events_end_a_remainder() -> None:
    harness = Harness()
    harness.offer(1, 10)
    harness.round(named(3))
    harness.drop(1, 2)
    assert 3 in harness.round()[1]
    assert harness.dead_letters == {}


def test_a_remainder_in_flight_at_a_crash_is_sent_first_and_dead_letters_the_named_events() -> None:
    harness = Harness(mix_devices="always")
    for queue_id in (1, 2):
        harness.offer(queue_id, 3)
    harness.schedule.flush(harness.now)
    first, second = queues(send := harness.send())
    harness.respond(send, lambda claimed: EventsRejected(422, "422 invalid", names(claimed, {first: [1]})))
    remainder = harness.send()
    after = restarted(harness, unsettled=[remainder.shares])
    after.offer(first, 2)
    assert after.round() == {first: [0, 2], second: [0, 1, 2]}
    assert {queue_id: list(dead) for queue_id, dead in after.dead_letters.items()} == {first: [1]}


def test_a_remainder_of_an_event_without_a_reason_leaves_that_event_pending() -> None:
    harness = Harness()
    harness.offer(1, 2)
    after = restarted(harness, unsettled=[[Share(1, 2, (OmittedEvent(0, None),))]])
    assert after.round()[1] == [1]
    assert (after.pending[1], after.dead_letters) == ([0], {})


def test_events_that_a_success_rejects_by_index_are_dead_lettered_and_the_rest_is_delivered() -> None:
    harness = Harness(mix_devices="always")
    for queue_id in (1, 2):
        harness.offer(queue_id, 3)
    harness.schedule.flush(harness.now)
    first, second = queues(send := harness.send())
    harness.respond(send, Delivered(202, {1: "too old", 3: "unknown type"}))
    assert harness.dead_letters == {
        first: {1: DeadLetterCause("refused", 202, "202 too old")},
        second: {0: DeadLetterCause("refused", 202, "202 unknown type")},
    }
    assert (harness.delivered[first], harness.delivered[second]) == ([0, 2], [1, 2])


def test_the_rest_of_a_rejected_batch_does_not_linger_with_later_events() -> None:
    harness = Harness()
    harness.offer(1, 10)
    send = harness.send()
    harness.offer(1)
    harness.respond(send, named(3))
    assert harness.sends()


def test_indexes_count_through_a_whole_mixed_batch() -> None:
    harness = Harness(mix_devices="always")
    for queue_id in (1, 2):
        harness.offer(queue_id, 5)
    harness.schedule.flush(harness.now)
    first, second = queues(send := harness.send())
    harness.respond(send, EventsRejected(422, "422 invalid", {1: "x", 8: "y"}))
    harness.round()
    assert {queue_id: list(dead_letters) for queue_id, dead_letters in harness.dead_letters.items()} == {
        first: [1],
        second: [3],
    }


def test_an_unnamed_bad_event_is_found_by_halving_and_the_rest_is_delivered_in_order() -> None:
    harness = Harness()
    harness.offer(1, 500)
    requests = 0
    while not harness.drained(1):
        harness.round(poisoned(357))
        requests += 1
    assert harness.dead_letters == {1: {357: DeadLetterCause("refused", 422, "422 bad")}}
    assert harness.delivered[1] == [n for n in range(500) if n != 357]
    assert requests <= 2 * 9 + 2


def test_an_unnamed_rejection_of_a_mixed_batch_is_halved_by_device_queues_first() -> None:
    harness = Harness(mix_devices="always")
    for queue_id in range(1, 9):
        harness.offer(queue_id, 2)
    harness.schedule.flush(harness.now)
    requests = 0
    while any(harness.pending.values()):
        harness.round(poisoned(1))
        requests += 1
    assert list(harness.dead_letters) == [1]
    assert list(harness.dead_letters[1]) == [1]
    assert all(harness.delivered[queue_id] == [0, 1] for queue_id in range(2, 9))
    assert requests <= 12


def test_many_bad_events_in_a_row_are_all_found() -> None:
    harness = Harness()
    harness.offer(1, 40)
    while not harness.drained(1):
        harness.round(poisoned(*range(10, 30)))
    assert list(harness.dead_letters[1]) == list(range(10, 30))


@pytest.mark.parametrize("status", [402, 409, 415, 431])
def test_an_endpoint_that_rejects_everything_with_a_general_status_is_misconfigured(status: int) -> None:
    """A few events become dead letters. The relay then retains all others and sends slow probes."""
    harness = Harness()
    for queue_id in range(20):
        harness.offer(queue_id, 500)
    began = harness.now
    requests = 0
    while harness.now < began + 3_600_000:
        harness.round(EventsRejected(status, "no", {}, about_events=False))
        requests += 1
    assert sum(map(len, harness.dead_letters.values())) == UNEXPLAINED_REJECTIONS_MAX
    assert state(harness) == "misconfigured"
    assert requests <= 20 * 9 + 20, "each device's batch halved once, then probes"


def test_an_unusual_4xx_to_one_bad_event_dead_letters_it() -> None:
    harness = Harness()
    harness.offer(1, 20)
    while not harness.drained(1):
        harness.round(poisoned(5, verdict=EventsRejected(409, "409 conflict", {}, about_events=False)))
    assert list(harness.dead_letters[1]) == [5]


def test_a_url_that_rejects_every_event_does_not_drain_the_outbox() -> None:
    """After twenty rejected events the endpoint is at fault. Each later probe dead-letters one event."""
    harness = Harness()
    for queue_id in range(20):
        harness.offer(queue_id, 500)
    harness.round()
    began = harness.now
    while harness.now < began + 3_600_000:
        harness.round(REJECTED)
    assert sum(map(len, harness.dead_letters.values())) <= 50
    assert state(harness) == "misconfigured"
    while any(harness.pending.values()):
        harness.round()
    assert state(harness) == "ok"


def test_the_twentieth_event_rejected_in_a_row_makes_the_endpoint_misconfigured() -> None:
    harness = Harness()
    for queue_id in range(30):
        harness.offer(queue_id)
    states = []
    while len(states) < 20:
        before = sum(map(len, harness.dead_letters.values()))
        harness.round(REJECTED)
        if sum(map(len, harness.dead_letters.values())) > before:
            states.append(state(harness))
    assert states == ["ok"] * 19 + ["misconfigured"]


def test_the_third_413_to_a_single_event_makes_the_endpoint_misconfigured() -> None:
    harness = Harness()
    states = []
    for queue_id in range(3):
        harness.offer(queue_id)
        harness.round(BatchTooLarge(413, "413"))
        states.append(state(harness))
    assert states == ["ok", "ok", "misconfigured"]
    assert sum(map(len, harness.dead_letters.values())) == 3


def test_a_device_with_only_bad_events_does_not_mean_a_wrong_url_while_others_succeed() -> None:
    harness = Harness()
    harness.offer(2)
    harness.round()
    harness.offer(1, 60)
    while not harness.drained(1):
        harness.round(REJECTED)
    assert len(harness.dead_letters[1]) == 60
    assert state(harness) == "ok"


# -- too large


def test_413_halves_by_bytes_and_the_size_is_remembered_for_every_device() -> None:
    harness = Harness()
    harness.offer(1, 500)

    def small_proxy(claimed: Claimed) -> Verdict:
        return BatchTooLarge(413, "413") if sum(map(len, claimed.values())) * EVENT_BYTES > 100_000 else DELIVERED

    sizes = [len(harness.round(small_proxy)[1]) for _ in range(3)]
    assert sizes[0] == 500
    assert sizes[1] == sizes[2] == 249
    harness.round(small_proxy)
    harness.offer(2, 500)
    assert len(harness.round(small_proxy)[2]) == 249
    assert not harness.dead_letters


def test_a_single_event_that_is_too_large_is_dead_lettered() -> None:
    harness = Harness()
    harness.offer(1, 3)
    while not harness.drained(1):
        harness.round(poisoned(1, verdict=BatchTooLarge(413, "413 too large")))
    assert harness.dead_letters == {1: {1: DeadLetterCause("too_large", 413, "413 too large")}}
    assert harness.delivered[1] == [0, 2]


def test_a_short_phase_of_413_creates_no_dead_letter() -> None:
    harness = Harness()
    harness.offer(1, 500)
    harness.round()
    harness.offer(1)
    for _ in range(2):
        harness.round(BatchTooLarge(413, "413"))
    assert state(harness) == "ok"
    harness.round()
    assert not harness.dead_letters
    assert harness.delivered[1] == list(range(501))


def test_hours_of_413_dead_letter_a_few_events_and_then_probe_slowly() -> None:
    harness = Harness()
    for queue_id in range(20):
        harness.offer(queue_id, 500)
    began = harness.now
    while harness.now < began + 3_600_000:
        harness.round(BatchTooLarge(413, "413"))
    assert sum(map(len, harness.dead_letters.values())) == UNEXPLAINED_REJECTIONS_MAX
    assert state(harness) == "misconfigured"


def test_the_size_grows_back_after_a_temporary_limit() -> None:
    harness = Harness()
    harness.offer(1, 500)
    harness.round(BatchTooLarge(413, "413"))
    assert len(harness.round()[1]) < 500
    for _ in range(40):
        harness.pass_time(60_000)
        harness.offer(1, 500)
        while not harness.drained(1):
            harness.round()
    harness.offer(1, 500)
    assert len(harness.round()[1]) == 500


def test_a_permanent_body_limit_is_tested_at_growing_intervals() -> None:
    harness = Harness()
    rejected_at = []

    def small_proxy(claimed: Claimed) -> Verdict:
        if sum(map(len, claimed.values())) * EVENT_BYTES <= 100_000:
            return DELIVERED
        rejected_at.append(harness.now)
        return BatchTooLarge(413, "413")

    for _ in range(3 * 24 * 6):
        harness.offer(1, 500)
        while not harness.drained(1):
            harness.round(small_proxy)
        harness.pass_time(600_000)
    assert len(rejected_at) <= 12
    assert rejected_at[-1] - rejected_at[-2] >= 12 * 3_600_000
    assert not harness.dead_letters


# -- 429


def use_up(harness: Harness, queue_id: int) -> None:
    """Use all rate slots of a device except one."""
    for _ in range(harness.limits.device_per_window - 1):
        harness.offer(queue_id, harness.limits.max_events)
        harness.round()


def test_a_429_at_the_device_limit_pauses_only_the_device() -> None:
    harness = Harness()
    use_up(harness, 1)
    harness.pass_time(1_000)
    harness.offer(1, 500)
    harness.offer(2, 500)
    sends = {queues(send)[0]: send for send in harness.sends()}
    harness.respond(sends[1], RateLimited("429", 90_000, None))
    harness.respond(sends[2])
    assert state(harness) == "ok"
    assert paused_ms(harness) == 0
    paused = harness.schedule.queues(1, harness.now).longest_paused[0]
    assert paused.why == "rate_limited"
    assert paused.paused_until_ms is not None
    assert paused.paused_until_ms - harness.now >= 89_980


def test_a_429_that_names_the_device_limit_pauses_only_the_device() -> None:
    harness = Harness()
    harness.offer(1)
    harness.round(RateLimited("429", 30_000, harness.limits.device_per_window))
    assert state(harness) == "ok"


def test_a_delivery_resets_the_backoff_of_a_device_at_its_own_limit() -> None:
    harness = Harness()
    waits = []
    for _ in range(10):
        harness.offer(1, 500)
        harness.round(RateLimited("429", None, harness.limits.device_per_window))
        limited_at = harness.now
        harness.round()
        waits.append(harness.now - limited_at - 10)
    assert waits == [500] * 10


def test_429s_at_the_device_limit_before_a_delivery_do_not_halve_a_later_batch() -> None:
    harness = Harness()
    for _ in range(3):
        harness.offer(1, 500)
        harness.round(RateLimited("429", None, harness.limits.device_per_window))
        harness.round()
    harness.offer(1, 500)
    harness.round(FAILING)
    assert len(harness.round()[1]) == 500


def test_a_429_to_one_of_several_mixed_requests_pauses_only_its_first_device() -> None:
    harness = Harness(max_in_flight=2)
    harness.know(*range(4))
    for queue_id in range(4):
        harness.offer(queue_id)
    harness.schedule.flush(harness.now)
    send = harness.send()
    assert queues(send) == [0, 1, 2, 3]
    harness.offer(9)
    harness.schedule.flush(harness.now)
    other = harness.send()
    harness.respond(other)
    harness.respond(send, LIMITED)
    assert harness.schedule.states() == {"ok": 1}
    assert [queues(each) for each in harness.sends()] == [[3, 2, 1]]


def test_a_429_below_the_device_limit_starts_a_shared_limit() -> None:
    harness = Harness()
    for queue_id in (1, 2, 3):
        harness.offer(queue_id, 5_000)
    harness.round(LIMITED, u=0.0)
    assert state(harness) == "rate_limited"
    times = []
    for _ in range(10):
        harness.round()
        times.append(harness.now)
    assert all(b - a >= 3_000 for a, b in pairwise(times))


def test_a_429_to_one_device_while_others_succeed_pauses_only_that_device() -> None:
    harness = Harness()
    harness.offer(1, 500)
    harness.round()
    harness.offer(2, 500)
    harness.round(RateLimited("429", 600_000, None))
    assert state(harness) == "ok"
    harness.offer(1, 500)
    assert [queues(send) for send in harness.sends()] == [[1]]


def test_a_429_to_the_next_device_starts_a_shared_limit() -> None:
    harness = Harness()
    for queue_id in (1, 2, 3):
        harness.offer(queue_id, 500)
    harness.round()
    harness.round(LIMITED)
    harness.round(LIMITED)
    assert state(harness) == "rate_limited"


@pytest.mark.parametrize(
    ("limit", "delivered", "gap_ms"),
    [(None, 3, 3_000), (10, 3, 6_000), (60, 3, 3_000), (30, 60, 2_000), (10**9, 60, 1_000)],
    ids=[
        "no header: as configured",
        "header below configured",
        "at most configured",
        "header between",
        "at most observed",
    ],
)
def test_the_first_rate_of_a_shared_limit(limit: int | None, delivered: int, gap_ms: int) -> None:
    harness = Harness()
    for queue_id in range(delivered + 1):
        harness.offer(queue_id, 500)
    for _ in range(delivered):
        harness.round()
    harness.pass_time(20_000)
    harness.round(RateLimited("429", 0, limit), u=0.0)
    harness.offer(9, 5_000)
    harness.round()
    before = harness.now
    harness.round()
    assert harness.now - before == pytest.approx(gap_ms, abs=20)


@pytest.mark.parametrize(
    ("retry_after_ms", "waited_ms"), [(None, 500), (0, 500), (45_000, 45_000), (10**12, REQUESTED_DELAY_MAX_MS)]
)
def test_the_relay_waits_at_least_for_the_requested_delay(retry_after_ms: int | None, waited_ms: int) -> None:
    harness = Harness()
    harness.offer(1, 500)
    harness.round(RateLimited("429", retry_after_ms, None))
    assert paused_ms(harness) >= waited_ms


@pytest.mark.parametrize("later", [DELIVERED, FAILING, UNAUTHORIZED], ids=lambda verdict: type(verdict).__name__)
def test_no_other_response_shortens_the_delay_that_a_429_requests(later: Verdict) -> None:
    harness = Harness()
    for queue_id in (1, 2):
        harness.offer(queue_id, 500)
    first, second = harness.sends()
    harness.respond(first, RateLimited("429", 60_000, None))
    harness.respond(second, later)
    harness.schedule.flush(harness.now)
    assert paused_ms(harness) >= 59_900


def test_requests_in_flight_count_towards_the_shared_limit() -> None:
    harness = Harness(ip_per_window=2)
    for queue_id in range(6):
        harness.offer(queue_id, 5_000)
    harness.round(RateLimited("429", 0, None), u=0.0)
    began = harness.now
    harness.send()
    harness.send()
    harness.pass_time(10 * harness.limits.window_ms)
    assert harness.now - began > harness.limits.window_ms
    assert harness.sends() == []


def test_devices_share_requests_under_a_shared_limit() -> None:
    harness = Harness()
    for queue_id in range(10):
        harness.offer(queue_id, 5)
    harness.schedule.flush(harness.now)
    harness.respond(harness.send(), LIMITED)
    assert sorted(len(queues(send)) for send in (harness.send(), harness.send())) == [1, 9], (
        "the device with the 429, and the others"
    )


# -- failing


def test_a_failing_endpoint_backs_off_with_full_jitter_and_is_probed_by_one_request() -> None:
    harness = Harness()
    for queue_id in range(4):
        harness.offer(queue_id, 500)
    for send in harness.sends():
        harness.respond(send, FAILING)
    assert state(harness) == "backing_off"
    waits = []
    for _ in range(12):
        waits.append(paused_ms(harness))
        send = harness.send()
        assert len(queues(send)) == 1
        assert harness.sends() == []
        harness.respond(send, FAILING)
    assert waits[-1] == 150_000
    assert [round(ms / 1000) for ms in waits[:6]] == [0, 1, 2, 4, 8, 16]


def test_after_a_successful_probe_all_devices_may_send() -> None:
    harness = Harness()
    for queue_id in range(8):
        harness.offer(queue_id, 500)
    harness.round(FAILING)
    harness.round()
    assert state(harness) == "ok"
    assert len(harness.sends()) == 7


def test_the_delay_that_a_503_requests_is_respected() -> None:
    harness = Harness()
    harness.offer(1, 500)
    harness.round(Failing("503", 120_000, 503), u=0.0)
    assert paused_ms(harness) == 120_000


def test_a_failure_of_one_device_while_others_succeed_pauses_only_that_device() -> None:
    harness = Harness()
    harness.offer(1, 500)
    harness.round()
    harness.offer(2, 500)
    harness.round(FAILING)
    assert state(harness) == "ok"
    harness.offer(1, 500)
    assert len(harness.sends()) == 1


def test_three_known_devices_that_fail_in_a_row_put_the_endpoint_at_fault() -> None:
    harness = Harness()
    states = []
    for response in (DELIVERED, FAILING):
        for queue_id in (1, 2, 3, 4):
            if queue_id != 4 or response is DELIVERED:
                harness.offer(queue_id, 500)
                harness.round(response)
                states.append(state(harness))
    assert states == ["ok"] * 6 + ["backing_off"]


def test_a_success_of_the_same_device_does_not_hide_successes_of_others() -> None:
    harness = Harness()
    for queue_id in (2, 1):
        harness.offer(queue_id, 500)
        harness.round()
    harness.offer(1, 500)
    harness.round(FAILING)
    assert state(harness) == "ok"


@pytest.mark.parametrize("verdict", [FAILING, LIMITED, UNAUTHORIZED], ids=lambda verdict: type(verdict).__name__)
def test_a_device_that_failed_while_others_succeeded_does_not_pause_the_endpoint(verdict: Verdict) -> None:
    """Successes of other devices are rare, every half minute, but they occur between the failures of this one."""
    harness = Harness()
    harness.answer = REJECTED
    harness.offer(1, 500)
    harness.round(verdict)
    paused = []
    for _ in range(5):
        harness.pass_time(30_000)
        harness.offer(2, 500)
        while not harness.drained(2):
            send = harness.send()
            harness.respond(send, DELIVERED if queues(send) == [2] else verdict)
        harness.pass_time(30_000)
        send = harness.send()
        assert queues(send) == [1]
        harness.respond(send, verdict)
        paused.append(paused_ms(harness))
    assert max(paused) < 15_000, "at most the delay of a shared limit"


def test_two_repeatedly_failing_devices_do_not_put_the_endpoint_at_fault() -> None:
    harness = Harness()
    for _ in range(10):
        for queue_id in (1, 2, 3):
            harness.offer(queue_id, 500)
        for send in harness.sends():
            harness.respond(send, DELIVERED if queues(send) == [3] else FAILING)
        harness.pass_time(1_000)
    for queue_id in (1, 2):
        harness.offer(queue_id, 500)
    harness.schedule.flush(harness.now)
    for send in harness.sends():
        harness.respond(send, FAILING)
    assert state(harness) == "ok"


def test_without_recent_successes_failing_devices_put_the_endpoint_at_fault() -> None:
    harness = Harness()
    harness.offer(1, 500)
    harness.round(FAILING)
    harness.offer(2, 500)
    while not harness.drained(2):
        harness.respond(send := harness.send(), DELIVERED if queues(send) == [2] else FAILING)
    harness.round(FAILING)
    assert state(harness) == "ok"
    harness.pass_time(11 * 60_000)
    harness.round(FAILING)
    assert state(harness) == "backing_off"


def test_a_failing_endpoint_is_probed_by_a_device_without_failures_if_possible() -> None:
    harness = Harness()
    for queue_id in (1, 2):
        harness.offer(queue_id, 500)
        harness.round(FAILING)
    harness.offer(3, 500)
    assert queues(harness.send()) == [3]


def test_a_poison_event_is_dead_lettered_after_ten_isolated_failures_in_ten_minutes() -> None:
    harness = Harness()
    harness.offer(1, 500)
    harness.offer(2)
    upstream = poisoned(7, verdict=Failing("500 Server Error", None, 500))
    isolated_at: list[int] = []
    while not harness.drained(1):
        claimed = harness.round(upstream)
        if claimed.get(1) == [7]:
            isolated_at.append(harness.now)
        harness.offer(2)
    assert harness.dead_letters == {
        1: {7: DeadLetterCause("poison", 500, "rejected because of its content: 500 Server Error")}
    }
    assert harness.delivered[1] == [n for n in range(500) if n != 7]
    assert len(isolated_at) >= 10
    assert isolated_at[-1] - isolated_at[0] >= 600_000


def test_an_outage_dead_letters_nothing_even_if_others_succeeded_at_its_beginning() -> None:
    harness = Harness()
    harness.offer(1)
    harness.offer(2, 2)
    sends = {queues(send)[0]: send for send in [harness.send(), harness.send()]}
    harness.respond(sends[1], FAILING)
    harness.respond(sends[2])
    for _ in range(500):
        harness.round(FAILING)
    assert not harness.dead_letters
    harness.round()
    assert state(harness) == "ok"


def test_a_failing_device_without_others_loses_no_event() -> None:
    harness = Harness()
    harness.offer(1, 3)
    for _ in range(200):
        harness.round(FAILING)
    assert not harness.dead_letters


def test_dropped_events_reset_the_diagnosis() -> None:
    harness = Harness()
    harness.offer(1, 10)
    harness.round(REJECTED)
    harness.drop(1, 5)
    assert len(harness.round()[1]) == 5


def test_after_an_outage_devices_share_requests_immediately() -> None:
    harness = Harness(mix_devices="always")
    for queue_id in range(10):
        harness.offer(queue_id, 5)
    harness.schedule.flush(harness.now)
    harness.round(FAILING)
    assert len(queues(harness.send())) == 10


# -- failures that need a person


@pytest.mark.parametrize(
    ("verdict", "name"),
    [(UNAUTHORIZED, "unauthorized"), (MISCONFIGURED, "misconfigured")],
)
def test_a_failure_that_needs_a_person_is_probed_slowly_without_dead_letters(verdict: Verdict, name: str) -> None:
    harness = Harness()
    for queue_id in range(20):
        harness.offer(queue_id, 500)
    waits = []
    harness.round(verdict, u=0.0)
    for _ in range(6):
        assert state(harness) == name
        waits.append(paused_ms(harness))
        harness.round(verdict, u=0.0)
    assert waits == [30_000, 60_000, 120_000, 240_000, 300_000, 300_000]
    assert not harness.dead_letters
    assert all(len(pending) == 500 for pending in harness.pending.values())


def test_responses_to_requests_sent_before_a_failure_do_not_lengthen_it() -> None:
    harness = Harness()
    for queue_id in range(8):
        harness.offer(queue_id, 500)
    for send in harness.sends():
        harness.respond(send, UNAUTHORIZED, u=0.0)
    assert paused_ms(harness) <= 30_000


@pytest.mark.parametrize("act", ["reload", "flush"])
def test_a_flush_or_reload_probes_a_paused_endpoint_immediately(act: str) -> None:
    harness = Harness()
    for queue_id in range(3):
        harness.offer(queue_id, 500)
    harness.round(UNAUTHORIZED)
    assert harness.sends() == []
    if act == "reload":
        harness.schedule.configure(harness.schedule.limits, harness.now)
    else:
        harness.schedule.flush(harness.now)
    assert len(harness.sends()) == 1


def test_a_403_to_one_device_while_others_succeed_pauses_only_that_device() -> None:
    harness = Harness()
    harness.offer(1, 500)
    harness.round()
    harness.offer(2, 500)
    harness.answer = REJECTED
    harness.round(Unauthorized("403 blocked", 403))
    assert state(harness) == "ok"
    assert harness.schedule.queues(1, harness.now).longest_paused[0].why == "backing_off", "the key is right"


def test_each_tenant_has_its_own_endpoint() -> None:
    harness = Harness()
    harness.offer(1, 500, tenant=1)
    harness.offer(2, 500, tenant=2)
    harness.respond(next(send for send in harness.sends() if send.tenant_id == 1), Misconfigured("404"))
    assert (state(harness, 1), state(harness, 2)) == ("misconfigured", "untested")
    harness.schedule.flush(harness.now)


def test_a_response_without_sent_events_changes_nothing() -> None:
    """The events had been removed from the outbox, so no request was sent."""
    harness = Harness()
    harness.offer(1, 5)
    send = harness.send()
    assert isinstance(send, Send)
    harness.pending[1] = []
    harness.respond(send, UNAUTHORIZED)
    assert state(harness) == "untested"


SLOW = Failing("the request did not arrive", while_sending=True)


def test_a_batch_that_times_out_while_the_relay_sends_it_is_halved_until_it_succeeds() -> None:
    """The successful size is stored as after a 413, and no event becomes a dead letter because of a slow link."""
    harness = Harness()
    harness.offer(1, 500)
    requests: list[int] = []

    def link(claimed: Claimed) -> Verdict:
        requests.append(len(claimed[1]))
        return SLOW if len(claimed[1]) * EVENT_BYTES > 60_000 else DELIVERED

    while harness.pending[1]:
        harness.round(link)
    assert requests[:3] == [500, 249, 124]
    assert all(size <= 124 for size in requests[2:])
    assert harness.delivered[1] == list(range(500))
    assert not harness.dead_letters.get(1)


def test_hours_without_reading_reduce_batches_to_16_kib_at_most() -> None:
    harness = Harness()
    harness.offer(1, 500)
    for _ in range(40):
        harness.round(SLOW)
    claimed = harness.round()
    assert 16 * 1024 - EVENT_BYTES - 14 <= len(claimed[1]) * EVENT_BYTES <= 16 * 1024
    assert not harness.dead_letters.get(1)


def test_a_slow_exact_request_of_several_devices_is_sent_in_halves() -> None:
    harness = Harness()
    for queue_id in (1, 2):
        harness.offer(queue_id, 100)
    harness.schedule.resume([[Share(1, 100), Share(2, 100)]], harness.now)
    assert sorted(harness.round(SLOW)) == [1, 2]
    assert len(harness.round()) == 1
    assert len(harness.round()) == 1
    assert harness.delivered == {1: list(range(100)), 2: list(range(100))}


def test_the_timeout_of_a_single_event_is_a_normal_failure() -> None:
    harness = Harness()
    harness.offer(1)
    harness.round(SLOW)
    assert harness.pending[1] == [0]
    assert state(harness) == "backing_off"


# -- no network


def test_without_a_network_the_pause_is_at_most_15_s_whatever_follows() -> None:
    harness = Harness(linger_ms=0)
    harness.offer(1, 10)
    for _ in range(20):
        harness.round(UNREACHABLE, u=0.999)
        assert paused_ms(harness) <= 15_000
        harness.round(RESET, u=0.999)
        assert paused_ms(harness) <= 15_000
    assert state(harness) == "backing_off"
    harness.round(DELIVERED)
    assert state(harness) == "ok"


def test_a_missing_network_leaves_no_evidence_against_events_and_devices() -> None:
    harness = Harness(linger_ms=0)
    harness.offer(1, 10)
    harness.offer(2, 10)
    for _ in range(200):
        harness.round(UNREACHABLE, u=0.999)
        harness.round(RESET, u=0.999)
    claimed = [harness.round(DELIVERED), harness.round(DELIVERED)]
    assert sorted(len(numbers) for each in claimed for numbers in each.values()) == [10, 10], "no smaller probes"
    assert harness.dead_letters == {}


def test_a_reset_is_a_failure_of_the_upstream_while_there_is_a_network() -> None:
    harness = Harness(linger_ms=0)
    harness.offer(1, 10)
    harness.round(UNREACHABLE, u=0.0)
    harness.round(FAILING, u=0.0)
    for _ in range(10):
        harness.round(RESET, u=0.999)
    assert paused_ms(harness) > 100_000


def test_a_missing_network_does_not_hide_a_rejected_key() -> None:
    harness = Harness(linger_ms=0)
    harness.offer(1, 10)
    harness.round(UNAUTHORIZED)
    harness.round(UNREACHABLE, u=0.5)
    assert state(harness) == "unauthorized"
    assert paused_ms(harness) <= 1_000


def test_an_exact_request_stays_exact_without_a_network() -> None:
    harness = Harness(linger_ms=0)
    harness.offer(1, 10)
    harness.round(Resend("closed"))
    harness.offer(1, 5)
    for verdict in (UNREACHABLE, RESET) * 5:
        send = harness.send()
        assert send.exact
        assert len(harness.respond(send, verdict)[1]) == 10

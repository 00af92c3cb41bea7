"""Bad events are found, only they, in a bounded number of requests; all others are delivered in order."""

from __future__ import annotations

from math import ceil, log2

from hypothesis import example, given
from hypothesis import strategies as st
from relay.policy.verdict import BatchTooLarge, Delivered, EventsRejected, Failing, Verdict
from tests.unit.policy.harness import EVENT_BYTES, REFUSED, Claimed, Desk

batches = st.integers(1, 500).flatmap(
    lambda events: st.tuples(st.just(events), st.sets(st.integers(0, events - 1), max_size=12))
)


def drain(desk: Desk, meant) -> int:
    """Requests until nothing waits."""
    requests = 0
    while any(desk.pending.values()):
        desk.round(meant)
        requests += 1
        assert requests < 5_000
    return requests


@given(batches)
@example((500, {499}))
@example((500, {0, 1, 2, 3, 4, 5, 6, 7}))
@example((500, set(range(0, 500, 42))))
def test_unnamed_bad_events_of_one_device(batch: tuple[int, set[int]]) -> None:
    events, bad = batch
    desk = Desk(device_per_window=1_000_000)
    desk.offer(1, events)

    requests = drain(desk, lambda taken: REFUSED if bad & set(taken[1]) else Delivered())

    assert set(desk.given_up.get(1, {})) == bad
    assert desk.delivered.get(1, []) == [n for n in range(events) if n not in bad]
    assert requests <= len(bad) * (2 * ceil(log2(events)) + 1) + 1


@given(batches)
def test_named_bad_events_of_one_device_cost_one_request(batch: tuple[int, set[int]]) -> None:
    events, bad = batch
    desk = Desk(device_per_window=1_000_000)
    desk.offer(1, events)

    def upstream(taken: Claimed) -> Verdict:
        named = {index: "bad" for index, n in enumerate(taken[1]) if n in bad}
        return EventsRejected(422, "422", named) if named else Delivered()

    requests = drain(desk, upstream)

    assert set(desk.given_up.get(1, {})) == bad
    assert desk.delivered.get(1, []) == [n for n in range(events) if n not in bad]
    assert requests <= 2


companies = st.lists(st.tuples(st.integers(1, 40), st.sets(st.integers(0, 39), max_size=3)), min_size=2, max_size=12)


@given(companies)
def test_unnamed_bad_events_in_companies(company: list[tuple[int, set[int]]]) -> None:
    desk = Desk(mix_devices="always", device_per_window=1_000_000)
    bad = {(queue_id, n) for queue_id, (events, numbers) in enumerate(company) for n in numbers if n < events}
    for queue_id, (events, _) in enumerate(company):
        desk.offer(queue_id, events)
    desk.schedule.flush(desk.now)

    def upstream(taken: Claimed) -> Verdict:
        return (
            REFUSED
            if any((queue_id, n) in bad for queue_id, numbers in taken.items() for n in numbers)
            else Delivered()
        )

    requests = drain(desk, upstream)

    assert {(queue_id, n) for queue_id, given_up in desk.given_up.items() for n in given_up} == bad
    for queue_id, (events, _) in enumerate(company):
        assert desk.delivered.get(queue_id, []) == [n for n in range(events) if (queue_id, n) not in bad]
    total = sum(events for events, _ in company)
    assert requests <= len(company) + len(bad) * (2 * ceil(log2(total)) + 2) + 1


@given(batches)
def test_what_brings_the_upstream_down_is_found_too_while_others_are_served(batch: tuple[int, set[int]]) -> None:
    events, bad = batch
    bad = set(sorted(bad)[:2])
    desk = Desk(device_per_window=1_000_000)
    desk.offer(1, events)
    desk.offer(2)

    def upstream(taken: Claimed) -> Verdict:
        return Failing("500", None, 500) if bad & set(taken.get(1, ())) else Delivered()

    requests = 0
    while not desk.drained(1):
        desk.round(upstream)
        desk.offer(2)
        requests += 1
        assert requests < 20_000
    assert set(desk.given_up.get(1, {})) == bad
    assert desk.delivered.get(1, []) == [n for n in range(events) if n not in bad]
    assert 2 not in desk.given_up


@given(st.integers(1, 500), st.integers(EVENT_BYTES, 200_000))
def test_413_costs_few_requests_and_no_event_that_fits(events: int, allowed_bytes: int) -> None:
    desk = Desk(device_per_window=1_000_000)
    desk.offer(1, events)

    def proxy(taken: Claimed) -> Verdict:
        size = len(taken[1]) * (EVENT_BYTES + 1) + 13
        return BatchTooLarge(413, "413") if size > allowed_bytes + 100 else Delivered()

    requests = drain(desk, proxy)

    assert not desk.given_up
    assert desk.delivered[1] == list(range(events))
    per_request = max(1, (allowed_bytes // 2) // (EVENT_BYTES + 1) - 1)
    assert requests <= 10 + ceil(events / per_request)

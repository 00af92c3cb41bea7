"""Exactly the bad events become dead letters, in a bounded number of requests. All others are delivered in order."""

from __future__ import annotations

from math import ceil, log2

from hypothesis import example, given
from hypothesis import strategies as st
from relay.policy.verdict import BatchTooLarge, Delivered, EventsRejected, Failing, Verdict
from tests.unit.policy.harness import EVENT_BYTES, REJECTED, Claimed, Harness

batches = st.integers(1, 500).flatmap(
    lambda events: st.tuples(st.just(events), st.sets(st.integers(0, events - 1), max_size=12))
)


def drain(harness: Harness, response) -> int:
    """Send until no event is pending. Return the number of requests."""
    requests = 0
    while any(harness.pending.values()):
        harness.round(response)
        requests += 1
        assert requests < 5_000
    return requests


@given(batches)
@example((500, {499}))
@example((500, {0, 1, 2, 3, 4, 5, 6, 7}))
@example((500, set(range(0, 500, 42))))
def test_unnamed_bad_events_of_one_device(batch: tuple[int, set[int]]) -> None:
    events, bad = batch
    harness = Harness(device_per_window=1_000_000)
    harness.offer(1, events)

    requests = drain(harness, lambda claimed: REJECTED if bad & set(claimed[1]) else Delivered())

    assert set(harness.dead_letters.get(1, {})) == bad
    assert harness.delivered.get(1, []) == [n for n in range(events) if n not in bad]
    assert requests <= len(bad) * (2 * ceil(log2(events)) + 1) + 1


@given(batches)
def test_named_bad_events_of_one_device_cost_one_request(batch: tuple[int, set[int]]) -> None:
    events, bad = batch
    harness = Harness(device_per_window=1_000_000)
    harness.offer(1, events)

    def upstream(claimed: Claimed) -> Verdict:
        named = {index: "bad" for index, n in enumerate(claimed[1]) if n in bad}
        return EventsRejected(422, "422", named) if named else Delivered()

    requests = drain(harness, upstream)

    assert set(harness.dead_letters.get(1, {})) == bad
    assert harness.delivered.get(1, []) == [n for n in range(events) if n not in bad]
    assert requests <= 2


mixed_batches = st.lists(
    st.tuples(st.integers(1, 40), st.sets(st.integers(0, 39), max_size=3)), min_size=2, max_size=12
)


@given(mixed_batches)
def test_unnamed_bad_events_in_mixed_batches(sizes: list[tuple[int, set[int]]]) -> None:
    harness = Harness(mix_devices="always", device_per_window=1_000_000)
    bad = {(queue_id, n) for queue_id, (events, numbers) in enumerate(sizes) for n in numbers if n < events}
    for queue_id, (events, _) in enumerate(sizes):
        harness.offer(queue_id, events)
    harness.schedule.flush(harness.now)

    def upstream(claimed: Claimed) -> Verdict:
        return (
            REJECTED
            if any((queue_id, n) in bad for queue_id, numbers in claimed.items() for n in numbers)
            else Delivered()
        )

    requests = drain(harness, upstream)

    assert {(queue_id, n) for queue_id, dead_letters in harness.dead_letters.items() for n in dead_letters} == bad
    for queue_id, (events, _) in enumerate(sizes):
        assert harness.delivered.get(queue_id, []) == [n for n in range(events) if (queue_id, n) not in bad]
    total = sum(events for events, _ in sizes)
    assert requests <= len(sizes) + len(bad) * (2 * ceil(log2(total)) + 2) + 1


@given(batches)
def test_poison_events_are_found_while_others_succeed(batch: tuple[int, set[int]]) -> None:
    events, bad = batch
    bad = set(sorted(bad)[:2])
    harness = Harness(device_per_window=1_000_000)
    harness.offer(1, events)
    harness.offer(2)

    def upstream(claimed: Claimed) -> Verdict:
        return Failing("500", None, 500) if bad & set(claimed.get(1, ())) else Delivered()

    requests = 0
    while not harness.drained(1):
        harness.round(upstream)
        harness.offer(2)
        requests += 1
        assert requests < 20_000
    assert set(harness.dead_letters.get(1, {})) == bad
    assert harness.delivered.get(1, []) == [n for n in range(events) if n not in bad]
    assert 2 not in harness.dead_letters


@given(st.integers(1, 500), st.integers(EVENT_BYTES, 200_000))
def test_413_costs_few_requests_and_no_event_that_fits(events: int, allowed_bytes: int) -> None:
    harness = Harness(device_per_window=1_000_000)
    harness.offer(1, events)

    def proxy(claimed: Claimed) -> Verdict:
        size = len(claimed[1]) * (EVENT_BYTES + 1) + 13
        return BatchTooLarge(413, "413") if size > allowed_bytes + 100 else Delivered()

    requests = drain(harness, proxy)

    assert not harness.dead_letters
    assert harness.delivered[1] == list(range(events))
    per_request = max(1, (allowed_bytes // 2) // (EVENT_BYTES + 1) - 1)
    assert requests <= 10 + ceil(events / per_request)

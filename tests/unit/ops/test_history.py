"""The history contains the differences of 15 minutes, an hour and a day, rates up to now, and a forecast."""

from __future__ import annotations

import tracemalloc

import pytest
from relay.ops.history import MERGED, NOT_WRITABLE, POINTS, Rates, Ring, Sample
from relay.outbox import Ledger
from relay.policy.overview import EndpointView
from relay.policy.upstream_origin import EndpointState

from tests.support.ops_harness import STARTED_MS, Served


def later(served: Served, ms: int, **ledger: int) -> None:
    served.clock.monotonic += ms
    served.outbox.totals = served.outbox.totals._replace(**ledger)


async def test_a_sample_contains_the_difference_from_the_previous_sample(served: Served) -> None:
    served.outbox.totals = Ledger(accepted=1_000, delivered=900, pending=100)
    served.metrics.upstream_requests.labels("202").inc(7)
    served.history.sample()
    later(served, 5_000, accepted=1_010, delivered=904, pending=106)
    served.metrics.upstream_requests.labels("202").inc(2)
    served.metrics.upstream_requests.labels("error").inc()

    served.history.sample()

    assert served.history.samples()[0] == [
        {
            "at_ms": STARTED_MS + 5_000,
            "span_ms": 5_000,
            "accepted": 10,
            "delivered": 4,
            "pending": 106,
            "bytes": 4096,
            "state": "untested",
            "responses": (2, 0, 0, 0, 0, 1),
        }
    ]


def test_each_resolution_contains_its_time_in_bounded_memory() -> None:
    tracemalloc.start()
    try:
        rings = [Ring(merged) for merged in MERGED]
        for n in range(MERGED[-1] * (POINTS + 3)):
            sample = Sample(
                5_000 * n, 5_000, 10_000, 10_000, 10**6 + n, 10**9 + n, "ok", (300 + n % 7, 300, 0, 0, 0, 0)
            )
            for ring in rings:
                ring.add(sample)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert [len(ring.points) for ring in rings] == [POINTS] * 3
    assert [sum(point.span_ms for point in ring.points) for ring in rings] == [900_000, 3_600_000, 24 * 3_600_000]
    assert [ring.points[0].accepted for ring in rings] == [10_000 * merged for merged in MERGED]
    assert used < 500_000


async def test_a_point_contains_the_worst_state_of_its_time(served: Served) -> None:
    async def state_after(*states: EndpointState) -> list[str]:
        for state in states:
            served.schedule.shown_endpoints = [
                EndpointView(1, "ok", 0, None, None, None),
                EndpointView(2, state, 0, None, None, None),
            ]
            later(served, 5_000)
            served.history.sample()
        return [point["state"] for point in served.history.samples()[1]]

    served.history.sample()
    assert await state_after("ok", "unauthorized", "rate_limited", "ok") == ["unauthorized"]
    assert await state_after("ok", "ok", "untested", "ok") == ["unauthorized", "ok"]
    served.outbox.state = served.outbox.state._replace(writable=False)
    assert (await state_after("ok", "ok", "ok", "ok"))[-1] == NOT_WRITABLE


@pytest.mark.parametrize(
    ("pending", "bytes_each", "expected"), [(10, 1_000, 91), (0, 1_000, None), (10, 0, None), (10, -1, None)]
)
async def test_the_outbox_is_full_when_its_growth_reaches_the_limit(
    served: Served, pending: int, bytes_each: int, expected: int | None
) -> None:
    """The outbox grows by 1,000 bytes in 5 s. 18 of 109 kB remain."""
    for n in range(92):
        later(served, 5_000, pending=n * pending)
        served.outbox.state = served.outbox.state._replace(bytes=n * bytes_each, max_bytes=109_200)
        if n == 12:
            assert served.history.full_in_s() is None, "less than a minute"
        served.history.sample()

    assert served.history.full_in_s() == expected


async def test_samples_after_a_time_are_returned(served: Served) -> None:
    for _ in range(4):
        served.history.sample()
        later(served, 5_000)

    first = served.history.samples()[0][0]["at_ms"]

    assert [sample["at_ms"] for sample in served.history.samples(first)[0]] == [first + 5_000, first + 10_000]


async def test_a_new_outbox_causes_no_negative_counts(served: Served) -> None:
    served.outbox.totals = Ledger(accepted=1_000, delivered=1_000)
    served.history.sample()
    later(served, 5_000, accepted=3, delivered=0, pending=3)

    served.history.sample()

    (sample,) = served.history.samples()[0]
    assert (sample["accepted"], sample["delivered"]) == (0, 0)


class TestRates:
    async def test_rates_are_unknown_in_the_first_second(self, served: Served) -> None:
        assert served.history.rates() == Rates(None, None, 0)
        served.history.sample()
        assert served.history.rates() == Rates(None, None, 0)

    async def test_rates_cover_the_last_minute_up_to_now(self, served: Served) -> None:
        served.history.sample()
        later(served, 5_000, accepted=10_000)  # More than a minute before the end.
        for _ in range(12):
            served.history.sample()
            later(served, 5_000, accepted=served.outbox.totals.accepted + 10)
        served.history.sample()
        later(served, 5_000, accepted=served.outbox.totals.accepted + 10, delivered=65)

        assert served.history.rates() == Rates(2.0, 1.0, 65)

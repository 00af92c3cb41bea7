"""The history contains the differences of 15 minutes, and rates up to now."""

from __future__ import annotations

from relay.ops.history import SAMPLES, Rates
from relay.outbox import Ledger

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

    assert served.history.samples() == [
        {
            "at_ms": STARTED_MS + 5_000,
            "span_ms": 5_000,
            "accepted": 10,
            "delivered": 4,
            "pending": 106,
            "responses": {"202": 2, "error": 1},
        }
    ]


async def test_the_history_contains_at_most_fifteen_minutes(served: Served) -> None:
    for _ in range(SAMPLES + 50):
        served.history.sample()
        later(served, 5_000)

    samples = served.history.samples()

    assert len(samples) == SAMPLES
    assert samples[-1]["at_ms"] - samples[0]["at_ms"] == 15 * 60_000 - 5_000


async def test_samples_after_a_time_are_returned(served: Served) -> None:
    for _ in range(4):
        served.history.sample()
        later(served, 5_000)

    first = served.history.samples()[0]["at_ms"]

    assert [sample["at_ms"] for sample in served.history.samples(first)] == [first + 5_000, first + 10_000]


async def test_a_new_outbox_causes_no_negative_counts(served: Served) -> None:
    served.outbox.totals = Ledger(accepted=1_000, delivered=1_000)
    served.history.sample()
    later(served, 5_000, accepted=3, delivered=0, pending=3)

    served.history.sample()

    assert (served.history.samples()[0]["accepted"], served.history.samples()[0]["delivered"]) == (0, 0)


class TestRates:
    async def test_rates_are_unknown_in_the_first_second(self, served: Served) -> None:
        assert served.history.rates() == Rates(None, None)
        served.history.sample()
        assert served.history.rates() == Rates(None, None)

    async def test_rates_cover_the_last_minute_up_to_now(self, served: Served) -> None:
        served.history.sample()
        later(served, 5_000, accepted=10_000)  # More than a minute before the end.
        for _ in range(12):
            served.history.sample()
            later(served, 5_000, accepted=served.outbox.totals.accepted + 10)
        served.history.sample()
        later(served, 5_000, accepted=served.outbox.totals.accepted + 10, delivered=65)

        assert served.history.rates() == Rates(2.0, 1.0)

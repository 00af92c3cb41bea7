"""Accepting events with a million pending events, compared with an empty outbox."""

from __future__ import annotations

from collections.abc import Iterator

from bench.report import Row, at_least
from bench.setup import Bench


def waiting(bench: Bench) -> Iterator[Row]:
    """Compare both. Each run starts with a fresh copy, because the events of one run must not affect the next."""
    full = bench.filled(bench.waiting, 1000)

    def ours() -> float:
        with bench.relay(full) as relay:
            return relay.post(seconds=bench.seconds).per_s

    def floor() -> float:
        with bench.relay() as relay:
            return relay.post(seconds=bench.seconds).per_s

    compared = bench.compare(ours, floor)
    yield Row(
        f"single accepts with {bench.waiting:,} pending events / empty",
        compared.ratio,
        "x",
        at_least(0.95),
        compared.spread,
        f"{compared.rate:,.0f}/s against {compared.floor:,.0f}/s",
        {"ours": compared.ours, "floor": compared.floors},
    )

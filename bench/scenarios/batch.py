"""Requests of 100 events, compared with a bare sqlite3 loop that has the relay's number of rows per commit."""

from __future__ import annotations

from collections.abc import Iterator

from bench.report import Row, at_least
from bench.setup import Bench

_CONNECTIONS = 16
_PER_REQUEST = 100


def batch(bench: Bench) -> Iterator[Row]:
    seen: dict[str, float] = {"per_commit": 1_000, "rows": 100_000}

    def ours() -> float:
        with bench.relay() as relay:
            cpu_s = relay.cpu_s()
            result = relay.post(seconds=bench.seconds, events_per_request=_PER_REQUEST, connections=_CONNECTIONS)
            count = result.requests * _PER_REQUEST
            seen["cpu_us"] = (relay.cpu_s() - cpu_s) / count * 1e6
            seen["client"] = result.cpu
            seen["per_commit"] = count / relay.metric("outbox_commits_total")
            seen["rows"] = count
            if relay.status()["ledger"]["accepted"] < count:
                raise RuntimeError("fewer events were stored than had a 202 response")
        return result.per_s * _PER_REQUEST

    def floor() -> float:
        return bench.sqlite_floor(int(seen["rows"]), int(seen["per_commit"]))

    ours()  # This run measures the rows per commit for the floor.
    compared = bench.compare(ours, floor)
    note = (
        f"{seen['cpu_us']:.1f} µs of CPU an event; {seen['per_commit']:,.0f} events a commit;"
        f" the client used {seen['client']:.0%} of a core"
    )
    yield Row("batch accepts, 100 a request", compared.rate, "events/s", at_least(60_000), compared.rate_spread, note)
    yield Row(
        "  / bare sqlite3 appends",
        compared.ratio,
        "x",
        at_least(0.6),
        compared.spread,
        f"{compared.floor:,.0f} rows/s",
        {"ours": compared.ours, "floor": compared.floors},
    )

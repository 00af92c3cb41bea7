"""A hundred events a request, against a bare sqlite3 loop with as many rows a commit as the relay's commits had."""

from __future__ import annotations

from collections.abc import Iterator

from bench.report import Row, at_least
from bench.setup import Bench

_CONNECTIONS = 16


def batch(bench: Bench) -> Iterator[Row]:
    yield from rows_of(bench, "batch accepts, 100 a request", seconds=bench.seconds, events_per_request=100)


def rows_of(bench: Bench, what: str, *, seconds: float, events_per_request: int, **order: object) -> Iterator[Row]:
    seen: dict[str, float] = {"per_commit": 1_000, "rows": 100_000}

    def ours() -> float:
        with bench.relay() as relay:
            cpu_s = relay.cpu_s()
            answered = relay.post(
                seconds=seconds, events_per_request=events_per_request, connections=_CONNECTIONS, **order
            )
            count = answered.requests * events_per_request
            seen["cpu_us"] = (relay.cpu_s() - cpu_s) / count * 1e6
            seen["client"] = answered.cpu
            seen["per_commit"] = count / relay.metric("outbox_commits_total")
            seen["rows"] = count
            if relay.status()["ledger"]["accepted"] < count:
                raise RuntimeError("fewer stored than answered 202")
        return answered.per_s * events_per_request

    def floor() -> float:
        return bench.sqlite_floor(int(seen["rows"]), int(seen["per_commit"]), int(order.get("event_bytes", 400)))

    ours()  # tells the floor how many rows a commit has
    compared = bench.compare(ours, floor)
    note = (
        f"{seen['cpu_us']:.1f} µs of CPU an event; {seen['per_commit']:,.0f} events a commit;"
        f" the client used {seen['client']:.0%} of a core"
    )
    yield Row(what, compared.rate, "events/s", at_least(60_000), compared.rate_spread, note)
    yield Row(
        "  / bare sqlite3 appends",
        compared.ratio,
        "x",
        at_least(0.6),
        compared.spread,
        f"{compared.floor:,.0f} rows/s",
        {"ours": compared.ours, "floor": compared.floors},
    )

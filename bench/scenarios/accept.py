"""Single durable events over HTTP, against a bare aiohttp application under the same load."""

from __future__ import annotations

from collections.abc import Iterator

from bench import events
from bench.client import Order
from bench.load import Answered, send
from bench.pairs import Compared, compare
from bench.report import Row, Target, at_least
from bench.setup import Bench

FLOOR = at_least(0.95)
GOAL = at_least(2.5)


def accept(bench: Bench) -> Iterator[Row]:
    for devices in (1, 1000, 10_000) if bench.full else (1, 1000):
        compared, last = against_aiohttp(bench, devices=devices)
        what = f"single accepts / bare aiohttp, {devices:,} device{'s' * (devices > 1)}"
        yield from _rows(what, compared, last, FLOOR)
        if devices == 1000:
            yield Row("  the goal beyond", compared.ratio, "x", GOAL, compared.spread)
    yield _alone(bench)


def against_aiohttp(
    bench: Bench, env: dict[str, str] | None = None, **order: object
) -> tuple[Compared, dict[str, Answered]]:
    """Requests a second of both; a fresh outbox for each run, so that all meet the same."""
    last: dict[str, Answered] = {}
    seconds = bench.seconds
    with bench.floor("http", env) as (_, address):

        def ours() -> float:
            with bench.relay(env=env) as relay:
                cpu_s = relay.cpu_s()
                last["ours"] = relay.post(seconds=seconds, **order)
                last["cpu"] = (relay.cpu_s() - cpu_s) / last["ours"].requests * 1e6
                accepted = relay.status()["ledger"]["accepted"]
                if accepted < last["ours"].requests:
                    raise RuntimeError(f"{accepted} stored of {last['ours'].requests} answered 202")
            return last["ours"].per_s

        def floor() -> float:
            made = Order(address=address, run=events.new_run(), seconds=seconds, **order)
            last["floor"] = send(made, bench.directory)
            return last["floor"].per_s

        return compare(bench.pairs, ours, floor), last


def _rows(what: str, compared: Compared, last: dict[str, Answered], target: Target) -> Iterator[Row]:
    ours = last["ours"]
    yield Row(
        what,
        compared.ratio,
        "x",
        target,
        compared.spread,
        f"{compared.rate:,.0f}/s against {compared.floor:,.0f}/s; {last['cpu']:.0f} µs of CPU an event;"
        f" p50 {ours.p50_ms:.1f} ms, p99 {ours.p99_ms:.1f} ms; {ours.by} used {ours.cpu:.0%} of a core",
        {"ours": compared.ours, "floor": compared.floors},
    )


def _alone(bench: Bench) -> Row:
    """One connection: what a lonely event waits for."""
    with bench.relay() as relay:
        answered = relay.post(seconds=bench.seconds, connections=1)
        commit_ms = (
            relay.metric("outbox_commit_duration_seconds_sum") / relay.metric("outbox_commit_duration_seconds_count")
        ) * 1000
    note = f"p99 {answered.p99_ms:.2f} ms; a commit with its fsync takes {commit_ms:.2f} ms"
    return Row("a lonely event's 202, median", answered.p50_ms, "ms", note=note)

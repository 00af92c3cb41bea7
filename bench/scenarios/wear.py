"""Bytes written to the disk per event until its deletion, by the relay's metric and by the kernel's count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from bench.report import Row, at_most, number
from bench.scenarios.udp import send
from bench.setup import NO_LIMITS, Bench, Relay

Load = Callable[[Relay], object]
_DATAGRAMS_PER_S = 40_000


def wear(bench: Bench) -> Iterator[Row]:
    """Measure at saturation, with many events per commit, over UDP and HTTP."""
    seconds = bench.size(4, 30)
    loads: dict[str, Load] = {
        "single events over HTTP": lambda relay: relay.post(seconds=seconds),
        "batches of 100": lambda relay: relay.post(seconds=seconds, events_per_request=100, connections=16),
        "UDP": lambda relay: send(bench, relay.udp, _DATAGRAMS_PER_S, seconds),
    }
    for transport, load in loads.items():
        yield _measured(bench, f"at saturation, 1,000 devices, {transport}", 1_700, "full", load)


class _Rate(NamedTuple):
    name: str
    per_s: float
    linger: str
    per_minute: Sequence[int]
    """Typical rates that this rate represents."""


_RATES = (
    _Rate("at one event per second", 1.0, "5s", ()),
    _Rate("each sent alone, as at 10 a minute or fewer", 1.0, "0s", (1, 10)),
    _Rate("at 100 a minute", 100 / 60, "5s", (100,)),
)
_MINUTES_A_YEAR = 525_600


def lonely(bench: Bench) -> Iterator[Row]:
    """Measure events that are alone in their commits, at rates of one device. The cases run concurrently."""
    seconds = bench.size(40, 300)
    cases = [(durability, rate) for durability in ("full", "normal") for rate in _RATES]
    with ThreadPoolExecutor(len(cases)) as pool:
        yield from pool.map(lambda case: _paced(bench, seconds, *case), cases)


def _paced(bench: Bench, seconds: float, durability: str, rate: _Rate) -> Row:

    def load(relay: Relay) -> None:
        relay.post(requests=int(seconds * rate.per_s), requests_per_s=rate.per_s, connections=1, devices=1)

    row = _measured(bench, f"{rate.name}, {durability}", 16 * 1024, durability, load, batch__linger=rate.linger)
    bytes_an_event = row.detail["by_kernel"] / row.detail["events"]
    years = [f"{number(each * _MINUTES_A_YEAR * bytes_an_event / 1e9)} at {each}/min" for each in rate.per_minute]
    return replace(row, note=f"{row.note}; GB a year: {', '.join(years)}") if years else row


def _measured(bench: Bench, when: str, target: float, durability: str, load: Load, **settings: str) -> Row:
    with (
        bench.upstream(validate=False) as upstream,
        bench.relay(upstream__url=upstream.url, outbox__durability=durability, **NO_LIMITS, **settings) as relay,
    ):
        return _row(relay, when, target, load)


def _row(relay: Relay, when: str, target: float, load: Load) -> Row:
    before, by_kernel, commits = (
        relay.reported_written_bytes(),
        relay.written_bytes(),
        relay.metric("outbox_commits_total"),
    )
    load(relay)
    relay.request("POST", "/flush")
    relay.until_pending(0)
    relay.until_idle()
    count = relay.status()["ledger"]["delivered"]
    written, by_kernel = relay.reported_written_bytes() - before, relay.written_bytes() - by_kernel
    commits = relay.metric("outbox_commits_total") - commits
    return Row(
        f"bytes written per 400-byte event, {when}",
        written / count,
        "B",
        at_most(target),
        note=f"/proc/PID/io: {by_kernel / count:,.0f} B; {count:,} events, {commits / count:.3g} commits an event",
        detail={"events": count, "written": written, "by_kernel": by_kernel, "commits": commits},
    )

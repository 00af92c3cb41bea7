"""Sending a backlog with the limits off, to a sandbox that only counts; and whether its size matters."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.report import Row, at_least
from bench.setup import NO_LIMITS, Bench, Relay, Upstream, fill

_DEVICES = 1000
_PER_LANE = 125
"""Events of a device in the comparison of backlogs: the same batches whatever waits."""


class Drained(NamedTuple):
    per_s: float
    """From the first request's arrival to the last one's."""
    cpu_us: float
    per_commit: float


def drain(bench: Bench) -> Iterator[Row]:
    waiting = bench.waiting if bench.full else 300_000
    rates, ratios, seen = [], [], []
    outbox = bench.filled(waiting, _DEVICES)
    for _ in range(bench.pairs if bench.full else 3):
        drained = drain_files(bench, outbox)
        floor = bench.sqlite_floor(waiting, 500)
        seen.append(drained)
        rates.append(drained.per_s)
        ratios.append(drained.per_s / floor)
    note = (
        f"{waiting:,} events of 1,000 devices; {statistics.median(each.cpu_us for each in seen):.1f} µs of CPU an event"
    )
    yield Row(
        "draining a backlog, limits off",
        statistics.median(rates),
        "events/s",
        at_least(60_000),
        (min(rates), max(rates)),
        note,
    )
    yield Row("  / bare sqlite3 appends", statistics.median(ratios), "x", at_least(0.6), (min(ratios), max(ratios)))
    yield from _growth(bench)


def drain_files(bench: Bench, outbox: Path) -> Drained:
    """How fast a relay that starts with these files gets rid of them."""
    with bench.upstream(validate=False) as upstream, bench.relay(outbox, **_settings(upstream)) as relay:
        relay.until_waiting(_DEVICES)
        return _flush(relay, upstream)


def _growth(bench: Bench) -> Iterator[Row]:
    """Events a second, in batches of one size, by how many wait."""
    sizes = [1_000, 10_000, 100_000] + ([1_000_000] if bench.full else [])
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(3):
        for size in sizes:
            with bench.upstream(validate=False) as upstream, bench.relay(**_settings(upstream)) as relay:
                for _ in range(5 if size == 1_000 else 1):
                    fill(relay, size, size // _PER_LANE, _PER_LANE)
                    rates[size].append(_flush(relay, upstream).per_s)
    small = statistics.median(rates[sizes[0]])
    for size in sizes:
        median = statistics.median(rates[size])
        yield Row(
            f"  draining {size:,} against {sizes[0]:,} waiting, batches of {_PER_LANE}",
            median / small,
            "x",
            at_least(0.9) if size == sizes[-1] else None,
            (min(rates[size]) / small, max(rates[size]) / small),
            f"{median:,.0f} events/s",
        )


def _settings(upstream: Upstream) -> dict[str, str]:
    """Nothing leaves before it is told to, but for full batches."""
    return {"upstream__url": upstream.url, "batch__linger": "10m", **NO_LIMITS}


def _flush(relay: Relay, upstream: Upstream) -> Drained:
    before = len(upstream.ask("requests"))
    waiting = relay.status()["ledger"]["pending"]
    cpu_s, commits = relay.cpu_s(), relay.metric("outbox_commits_total")
    relay.ask("POST", "/flush")
    began = time.monotonic()
    while (pending := relay.status()["ledger"]["pending"]) > 0:
        if time.monotonic() - began > 120:
            raise RuntimeError(f"{pending} events still wait")
        time.sleep(min(0.1, waiting / 1e6))
    times = [request[0] for request in upstream.ask("requests")[before:]]
    span_s = max(1, times[-1] - times[0]) / 1000 * len(times) / max(1, len(times) - 1)
    return Drained(
        waiting / span_s,
        (relay.cpu_s() - cpu_s) / waiting * 1e6,
        waiting / (relay.metric("outbox_commits_total") - commits),
    )

"""Half of what it can do, for long: memory, descriptors, write-ahead log and the loop's lag stay where they are.

Twenty minutes with FULL=1. The lag is the time of a GET /livez from outside: what an app would wait.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from bench.load import Answered
from bench.report import Row, at_most
from bench.setup import NO_LIMITS, Bench, Relay

_FULL_S = 20 * 60
_MB = 1_000_000


class Sample(NamedTuple):
    rss_bytes: int
    descriptors: int
    wal_bytes: int
    lag_ms: float


def soak(bench: Bench) -> Iterator[Row]:
    seconds = bench.size(40, _FULL_S)
    with (
        bench.upstream(validate=False) as upstream,
        bench.relay(upstream__url=upstream.url, batch__linger="1s", **NO_LIMITS) as relay,
    ):
        most_per_s = relay.post(seconds=2).per_s
        per_s = most_per_s / 2
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(relay.post, requests=int(seconds * per_s), requests_per_s=per_s, connections=64)
            samples = _watch(relay, load, seconds / 160)
        answered = load.result()
    yield from _rows(samples[len(samples) // 8 :], answered)


def _watch(relay: Relay, load: Future[Answered], every_s: float) -> list[Sample]:
    samples = []
    while not load.done():
        began = time.monotonic()
        relay.ask("GET", "/livez")
        lag_ms = (time.monotonic() - began) * 1000
        samples.append(Sample(relay.rss_bytes(), relay.descriptors(), relay.wal_bytes(), lag_ms))
        time.sleep(every_s)
    return samples


def _rows(samples: Sequence[Sample], answered: Answered) -> Iterator[Row]:
    """The first eighth, in which caches fill, is left out by the caller."""
    part = max(1, len(samples) // 4)
    first, last = samples[:part], samples[-part:]
    note = f"{answered.requests:,} events in {answered.seconds:.0f} s, {answered.per_s:,.0f}/s"
    grown = _mean(each.rss_bytes for each in last) / _mean(each.rss_bytes for each in first)
    yield Row(
        "soak at half speed: memory, last quarter / first",
        grown,
        "x",
        at_most(1.05),
        (samples[0].rss_bytes / first[0].rss_bytes, samples[-1].rss_bytes / first[0].rss_bytes),
        f"{samples[-1].rss_bytes / _MB:.0f} MB RSS; {note}",
        {"samples": samples},
    )
    more = statistics.median(each.descriptors for each in last) - statistics.median(each.descriptors for each in first)
    yield Row("  more descriptors in the last quarter", more, "", at_most(0), note=f"{samples[-1].descriptors} open")
    logs = [each.wal_bytes for each in samples]
    yield Row(
        "  write-ahead log at its largest", max(logs) / _MB, "MB", at_most(16), note=f"{logs[-1] / _MB:.1f} at the end"
    )
    lags = sorted(each.lag_ms for each in samples)
    yield Row(
        "  event-loop lag, median", statistics.median(lags), "ms", note=f"largest of {len(lags)}: {lags[-1]:.0f} ms"
    )
    yield Row("  202 at half speed, median", answered.p50_ms, "ms", note=f"p99 {answered.p99_ms:.1f} ms")


def _mean(values: Iterator[int]) -> float:
    return statistics.fmean(values)

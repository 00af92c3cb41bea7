"""A long run at half of the maximum rate: memory, descriptors, write-ahead log and event-loop lag must not grow.

With FULL=1 (`make soak`) the run takes twenty minutes. The lag is the duration of a GET /livez, which an app would see,
too. The upstream is a bare application without memory, because the sandbox would grow with every event.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from bench.load import LoadResult
from bench.report import Row, at_most
from bench.setup import NO_LIMITS, Bench, Relay

_FULL_S = 20 * 60
_SAMPLES = 160
_PING_S = 0.25
_MB = 1_000_000


class Sample(NamedTuple):
    rss_bytes: int
    descriptors: int
    wal_bytes: int
    lag_ms: float
    """Median since the previous sample."""
    most_lag_ms: float


def soak(bench: Bench) -> Iterator[Row]:
    seconds = bench.size(40, _FULL_S)
    with (
        bench.floor("http") as (_, upstream),
        bench.relay(upstream__url=f"http://{upstream}/v1/events", batch__linger="1s", **NO_LIMITS) as relay,
    ):
        per_s = max(relay.post(seconds=2).per_s for _ in range(3)) / 2
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(relay.post, requests=int(seconds * per_s), requests_per_s=per_s, connections=64)
            samples = _watch(relay, load, seconds / _SAMPLES)
        result = load.result()
        relay.request("POST", "/flush")
        relay.until_pending(0)
    yield from _rows(samples[len(samples) // 8 :], result)


def _watch(relay: Relay, load: Future[LoadResult], every_s: float) -> list[Sample]:
    samples = []
    while not load.done():
        lags, until = [], time.monotonic() + every_s
        while not lags or time.monotonic() < until:
            began = time.monotonic()
            relay.request("GET", "/livez")
            lags.append((time.monotonic() - began) * 1000)
            time.sleep(min(_PING_S, every_s))
        lag_ms = statistics.median(lags)
        samples.append(Sample(relay.rss_bytes(), relay.descriptors(), relay.wal_bytes(), lag_ms, max(lags)))
    return samples


def _rows(samples: Sequence[Sample], result: LoadResult) -> Iterator[Row]:
    """Yield the rows for samples without the first eighth, in which caches fill."""
    part = max(1, len(samples) // 4)
    first, last = samples[:part], samples[-part:]
    note = f"{result.requests:,} events in {result.seconds:.0f} s, {result.per_s:,.0f}/s, all sent on"
    grown = _mean(each.rss_bytes for each in last) / _mean(each.rss_bytes for each in first)
    yield Row(
        "soak at half speed: memory, last quarter / first",
        grown,
        "x",
        at_most(1.05),
        note=f"{samples[-1].rss_bytes / _MB:.0f} MB RSS; {note}",
        detail={"samples": samples},
    )
    more = statistics.median(each.descriptors for each in last) - statistics.median(each.descriptors for each in first)
    yield Row("  more descriptors in the last quarter", more, "", at_most(0), note=f"{samples[-1].descriptors} open")
    logs = [each.wal_bytes for each in samples]
    yield Row(
        "  write-ahead log at its largest", max(logs) / _MB, "MB", at_most(16), note=f"{logs[-1] / _MB:.1f} at the end"
    )
    longer = max(each.wal_bytes for each in last) / max(1, *(each.wal_bytes for each in first))
    yield Row("  write-ahead log, last quarter / first", longer, "x", at_most(1.05), note="the largest of each")
    lags = [statistics.median(each.lag_ms for each in quarter) for quarter in (first, last)]
    yield Row(
        "  event-loop lag, last quarter / first",
        lags[1] / lags[0],
        "x",
        at_most(1.5),
        note=f"medians {lags[0]:.1f} and {lags[1]:.1f} ms; largest {max(each.most_lag_ms for each in samples):.0f} ms",
    )
    yield Row("  202 at half speed, median", result.p50_ms, "ms", note=f"p99 {result.p99_ms:.1f} ms")


def _mean(values: Iterator[int]) -> float:
    return statistics.fmean(values)

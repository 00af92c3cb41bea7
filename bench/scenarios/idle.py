"""Memory and processor time of an idle relay, and its memory with a million pending events."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.report import Row, at_most
from bench.setup import Bench, fill

_MB = 1_000_000


def memory(bench: Bench) -> Iterator[Row]:
    with bench.relay() as relay:
        time.sleep(2)
        yield Row("memory, idle", relay.rss_bytes() / _MB, "MB", at_most(60), note="RSS")
        fill(relay, bench.waiting, 1000)
        time.sleep(1)
        accepted, peak = relay.rss_bytes(), relay.peak_bytes()
    what = f"memory with {bench.waiting:,} pending events of 1,000 devices"
    yield Row(what, accepted / _MB, "MB", at_most(120), note=f"RSS; {peak / _MB:.0f} MB at its peak")
    with bench.relay(bench.filled(bench.waiting, 1000)) as relay:
        time.sleep(1)
        resident, peak = relay.rss_bytes(), relay.peak_bytes()
    note = f"RSS; {peak / _MB:.0f} MB at its peak"
    yield Row("  the same after a restart", resident / _MB, "MB", at_most(120), note=note)


def idle(bench: Bench) -> Iterator[Row]:
    """Measure the processor time with a working upstream, no pending event, and the periodic tasks."""
    seconds = bench.size(30, 120)
    with bench.upstream() as upstream, bench.relay(upstream__url=upstream.url) as relay:
        time.sleep(3)
        before = relay.cpu_s()
        time.sleep(seconds)
        used = (relay.cpu_s() - before) / seconds * 100
    yield Row("idle CPU", used, "% of a core", at_most(0.5), note=f"over {seconds:.0f} s")

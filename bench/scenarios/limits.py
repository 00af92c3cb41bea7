"""Draining with limits: the relay uses all of a known limit without a 429, and learns an unknown limit."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.report import Row, at_least, at_most
from bench.setup import Bench, fill

_PER_WINDOW = 120
_SHARED_LIMIT = 20


def limits(bench: Bench) -> Iterator[Row]:
    """Measure the use of the device limit.

    Each device has more events than its limit admits. Batches are small, so that the number of requests matters.
    """
    window_ms, windows, devices = int(bench.size(5_000, 60_000)), 4, 10
    settings = {"batch__max_events": "10", "rate__window": f"{window_ms}ms", "batch__linger": "0s"}
    with bench.upstream(window_ms=window_ms) as upstream, bench.relay(upstream__url=upstream.url, **settings) as relay:
        fill(relay, devices * (windows + 2) * _PER_WINDOW * 10, devices)
        first = upstream.request("requests")[0][0]
        time.sleep((windows + 0.5) * window_ms / 1000)
        requests = upstream.request("requests")
    sent = [status for at, _, _, _, status, _ in requests if at < first + windows * window_ms]
    allowed = windows * devices * _PER_WINDOW
    yield Row(
        "draining against a limiting upstream",
        len(sent) / allowed * 100,
        "% of allowed",
        at_least(99),
        note=f"{len(sent):,} requests of {allowed:,} in {windows} windows of {window_ms / 1000:g} s, {devices} devices",
    )
    rejected = sum(status == 429 for *_, status, _ in requests)
    yield Row("  429s", rejected, "responses", at_most(0), note=f"of {len(requests):,}")


def shared_limit(bench: Bench) -> Iterator[Row]:
    """Measure how the relay learns a limit per address that is neither configured nor announced in headers."""
    window_ms, windows, devices = int(bench.size(6_000, 60_000)), 9, 50
    settings = {"rate__window": f"{window_ms}ms", "batch__linger": "1s"}
    with (
        bench.upstream(
            window_ms=window_ms, ip_limit="always", ip_per_window=_SHARED_LIMIT, announce_limits=False
        ) as upstream,
        bench.relay(upstream__url=upstream.url, **settings) as relay,
    ):
        # The limit suffices for this rate with mixed batches, but not with one batch per device.
        seconds = windows * window_ms / 1000
        relay.post(seconds=seconds, requests_per_s=devices * 2, devices=devices, connections=4)
        requests = upstream.request("requests")
    yield from _shared_limit_rows(requests, window_ms, windows)


def _shared_limit_rows(requests: list[list[object]], window_ms: int, windows: int) -> Iterator[Row]:
    first = int(str(requests[0][0]))
    found = [(int(str(at)) - first, status) for at, _, _, _, status, _ in requests]
    accepted = [
        sum(1 for at, status in found if status == 202 and number * window_ms <= at < (number + 1) * window_ms)
        for number in range(windows)
    ]
    reached = next((number + 1 for number, count in enumerate(accepted) if count >= 0.9 * _SHARED_LIMIT), None)
    note = f"accepted in each window: {', '.join(map(str, accepted))}"
    yield Row("shared ceiling of 20: windows until 90 % of it", reached, "windows", at_most(3), note=note)
    later = accepted[3:-1]
    used = sum(later) / (len(later) * _SHARED_LIMIT) * 100
    yield Row("  accepted afterwards", used, "% of the ceiling", at_least(90))
    statuses = [status for at, status in found if at >= 3 * window_ms]
    share = sum(status == 429 for status in statuses) / max(1, len(statuses)) * 100
    yield Row("  429s afterwards", share, "% of responses", at_most(5), note=f"of {len(statuses)}")

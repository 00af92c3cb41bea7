"""Draining against limits: all of what the known one allows and not one 429; an unknown one found and kept."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.report import Row, at_least, at_most
from bench.setup import Bench, fill

_PER_WINDOW = 120
_CEILING = 20


def limits(bench: Bench) -> Iterator[Row]:
    """Every device has more than its limit lets through; batches are small, so that requests are what counts."""
    window_ms, windows, devices = int(bench.size(5_000, 60_000)), 4, 10
    settings = {"batch__max_events": "10", "rate__window": f"{window_ms}ms", "batch__linger": "0s"}
    with bench.upstream(window_ms=window_ms) as upstream, bench.relay(upstream__url=upstream.url, **settings) as relay:
        fill(relay, devices * (windows + 2) * _PER_WINDOW * 10, devices)
        first = upstream.ask("requests")[0][0]
        time.sleep((windows + 0.5) * window_ms / 1000)
        requests = upstream.ask("requests")
    sent = [status for at, _, _, _, status, _ in requests if at < first + windows * window_ms]
    allowed = windows * devices * _PER_WINDOW
    yield Row(
        "draining against a limiting upstream",
        len(sent) / allowed * 100,
        "% of allowed",
        at_least(99),
        note=f"{len(sent):,} requests of {allowed:,} in {windows} windows of {window_ms / 1000:g} s, {devices} devices",
    )
    refused = sum(status == 429 for *_, status, _ in requests)
    yield Row("  429s", refused, "answers", at_most(0), note=f"of {len(requests):,}")


def shared_limit(bench: Bench) -> Iterator[Row]:
    """A limit per address of which the relay was not told, and of which no header speaks."""
    window_ms, windows, devices = int(bench.size(6_000, 60_000)), 9, 50
    settings = {"rate__window": f"{window_ms}ms", "batch__linger": "1s"}
    with (
        bench.upstream(
            window_ms=window_ms, ip_limit="always", ip_per_window=_CEILING, announce_limits=False
        ) as upstream,
        bench.relay(upstream__url=upstream.url, **settings) as relay,
    ):
        # slower than the ceiling lets through with mixed batches, faster than without
        seconds = windows * window_ms / 1000
        relay.post(seconds=seconds, requests_per_s=devices * 2, devices=devices, connections=4)
        requests = upstream.ask("requests")
    yield from _ceiling_rows(requests, window_ms, windows)


def _ceiling_rows(requests: list[list[object]], window_ms: int, windows: int) -> Iterator[Row]:
    first = int(str(requests[0][0]))
    found = [(int(str(at)) - first, status) for at, _, _, _, status, _ in requests]
    accepted = [
        sum(1 for at, status in found if status == 202 and number * window_ms <= at < (number + 1) * window_ms)
        for number in range(windows)
    ]
    reached = next((number + 1 for number, count in enumerate(accepted) if count >= 0.9 * _CEILING), None)
    note = f"accepted in each window: {', '.join(map(str, accepted))}"
    yield Row("shared ceiling of 20: windows until 90 % of it", reached, "windows", at_most(3), note=note)
    later = accepted[3:-1]
    used = sum(later) / (len(later) * _CEILING) * 100
    yield Row("  accepted afterwards", used, "% of the ceiling", at_least(90))
    answers = [status for at, status in found if at >= 3 * window_ms]
    share = sum(status == 429 for status in answers) / max(1, len(answers)) * 100
    yield Row("  429s afterwards", share, "% of answers", at_most(5), note=f"of {len(answers)}")

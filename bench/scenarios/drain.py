"""Sending a backlog without limits to a sandbox that only counts, and the effect of the backlog's size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.report import Row, at_least
from bench.setup import NO_LIMITS, Bench, Relay, Upstream, fill

_DEVICES = 1000
_PER_DEVICE = 50
"""Events of a device in the comparison of backlogs, so that the batches have the same size in both."""
_FEW = 1_000
_FILLS_OF_FEW = 15
_SECONDS = 3.0
"""Maximum duration of a measurement. A longer backlog is not drained completely."""
_POLL_S = 0.05
_IN_FLIGHT = 8
"""The default of upstream.max_in_flight."""


class Drained(NamedTuple):
    per_s: float
    """Events per second by the arrivals of the requests, after the first `upstream.max_in_flight` requests."""
    cpu_us: float
    """Processor time of the relay per event."""
    written_bytes: float
    """Bytes that the relay wrote per event."""


def drain(bench: Bench) -> Iterator[Row]:
    outbox = bench.filled(bench.waiting, _DEVICES)
    cpu_us: list[float] = []

    def ours() -> float:
        drained = drain_files(bench, outbox)
        cpu_us.append(drained.cpu_us)
        return drained.per_s

    compared = bench.compare(ours, lambda: bench.sqlite_floor(200_000, 500))
    note = (
        f"{bench.waiting:,} events of 1,000 devices, for {_SECONDS:g} s;"
        f" {statistics.median(cpu_us):.1f} µs of CPU an event"
    )
    yield Row("draining a backlog, limits off", compared.rate, "events/s", at_least(60_000), compared.rate_spread, note)
    yield Row(
        "  / bare sqlite3 appends",
        compared.ratio,
        "x",
        at_least(0.6),
        compared.spread,
        f"{compared.floor:,.0f} rows/s, 500 a commit",
        {"ours": compared.ours, "floor": compared.floors, "cpu_us": cpu_us},
    )
    yield _growth(bench)


def drain_files(bench: Bench, outbox: Path) -> Drained:
    """Start a relay with these files, and measure how fast it sends the pending events."""
    with bench.upstream(validate=False) as upstream:
        upstream.reject_key()  # Otherwise full batches would be sent while the log is read.
        with bench.relay(outbox, **_settings(upstream)) as relay:
            upstream.heal()
            return _flush(relay, upstream)


def _growth(bench: Bench) -> Row:
    """Compare the events per second with a million and with a thousand pending events, in batches of one size."""
    many = bench.filled(bench.waiting, bench.waiting // _PER_DEVICE, _PER_DEVICE)

    def ours() -> float:
        return drain_files(bench, many).per_s

    def few() -> float:
        with bench.upstream(validate=False) as upstream, bench.relay(**_settings(upstream)) as relay:
            rates = []
            for _ in range(_FILLS_OF_FEW):
                fill(relay, _FEW, _FEW // _PER_DEVICE, _PER_DEVICE)
                rates.append(_flush(relay, upstream).per_s)
            return statistics.median(rates)

    compared = bench.compare(ours, few)
    return Row(
        f"  draining {bench.waiting:,} / {_FEW:,} pending events, batches of {_PER_DEVICE}",
        compared.ratio,
        "x",
        at_least(0.9),
        compared.spread,
        f"{compared.rate:,.0f} against {compared.floor:,.0f} events/s",
        {"many": compared.ours, "few": compared.floors},
    )


def _settings(upstream: Upstream) -> dict[str, str]:
    """Return settings with which the relay sends only full batches before a flush."""
    return {"upstream__url": upstream.url, "batch__linger": "10m", **NO_LIMITS}


def _flush(relay: Relay, upstream: Upstream) -> Drained:
    """Flush the pending events, and measure for at most _SECONDS."""
    before, arrived = len(upstream.request("requests")), upstream.request("report")["events"]
    pending, written = relay.pending(), relay.reported_written_bytes()
    cpu_s, began = relay.cpu_s(), time.monotonic()
    relay.request("POST", "/flush")
    # Only the sandbox is polled. The relay's status with many devices would be part of the measurement.
    sent = 0
    while sent < pending and time.monotonic() - began < _SECONDS:
        time.sleep(_POLL_S)
        sent = upstream.request("report")["events"] - arrived
    used_s, written = relay.cpu_s() - cpu_s, relay.reported_written_bytes() - written
    requests = upstream.request("requests")[before:]
    if len(requests) < 2 or not sent:
        raise RuntimeError(f"{sent} of {pending} events were sent, in {len(requests)} requests")
    if sent == pending:
        relay.until_pending(0)
    arrivals = [(at, events) for at, _, _, events, *_ in requests]
    # The first requests are sent at the same moment and do not show the rate. The last of them starts the measurement.
    at_once = min(_IN_FLIGHT, len(arrivals) // 2)
    span_s = max(1, arrivals[-1][0] - arrivals[at_once - 1][0]) / 1000
    return Drained(sum(events for _, events in arrivals[at_once:]) / span_s, used_s / sent * 1e6, written / sent)

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
_PER_LANE = 50
"""Events of a device in the comparison of backlogs: the same batches whatever waits."""
_FEW = 1_000
_FILLS_OF_FEW = 15
_SECONDS = 3.0
"""A longer backlog is not drained to its end."""
_POLL_S = 0.05
_IN_FLIGHT = 8
"""The default of upstream.max_in_flight."""


class Drained(NamedTuple):
    per_s: float
    """By the requests' arrivals, once as many are on their way as may be."""
    cpu_us: float
    """Of the relay, an event."""
    written_bytes: float
    """An event."""


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
    """How fast a relay that starts with these files gets rid of what waits in them."""
    with bench.upstream(validate=False) as upstream:
        upstream.refuse()  # full batches would leave while the log is read
        with bench.relay(outbox, **_settings(upstream)) as relay:
            upstream.heal()
            return _flush(relay, upstream)


def _growth(bench: Bench) -> Row:
    """Events a second with a million waiting, through those with a thousand, both in batches of one size."""
    many = bench.filled(bench.waiting, bench.waiting // _PER_LANE, _PER_LANE)

    def ours() -> float:
        return drain_files(bench, many).per_s

    def few() -> float:
        with bench.upstream(validate=False) as upstream, bench.relay(**_settings(upstream)) as relay:
            rates = []
            for _ in range(_FILLS_OF_FEW):
                fill(relay, _FEW, _FEW // _PER_LANE, _PER_LANE)
                rates.append(_flush(relay, upstream).per_s)
            return statistics.median(rates)

    compared = bench.compare(ours, few)
    return Row(
        f"  draining {bench.waiting:,} / {_FEW:,} waiting, batches of {_PER_LANE}",
        compared.ratio,
        "x",
        at_least(0.9),
        compared.spread,
        f"{compared.rate:,.0f} against {compared.floor:,.0f} events/s",
        {"many": compared.ours, "few": compared.floors},
    )


def _settings(upstream: Upstream) -> dict[str, str]:
    """Nothing leaves before it is told to, but for full batches."""
    return {"upstream__url": upstream.url, "batch__linger": "10m", **NO_LIMITS}


def _flush(relay: Relay, upstream: Upstream) -> Drained:
    """Send what waits, for so many seconds at most."""
    before, arrived = len(upstream.ask("requests")), upstream.ask("report")["events"]
    waiting, written = relay.pending(), relay.written_bytes_said()
    cpu_s, began = relay.cpu_s(), time.monotonic()
    relay.ask("POST", "/flush")
    # asked of the sandbox: a status of many devices would be part of what is measured
    sent = 0
    while sent < waiting and time.monotonic() - began < _SECONDS:
        time.sleep(_POLL_S)
        sent = upstream.ask("report")["events"] - arrived
    used_s, written = relay.cpu_s() - cpu_s, relay.written_bytes_said() - written
    requests = upstream.ask("requests")[before:]
    if len(requests) < 2 or not sent:
        raise RuntimeError(f"{sent} of {waiting} events were sent, in {len(requests)} requests")
    if sent == waiting:
        relay.until_pending(0)
    arrivals = [(at, events) for at, _, _, events, *_ in requests]
    # those that leave at once say nothing of the pace: the last one's arrival starts the clock
    at_once = min(_IN_FLIGHT, len(arrivals) // 2)
    span_s = max(1, arrivals[-1][0] - arrivals[at_once - 1][0]) / 1000
    return Drained(sum(events for _, events in arrivals[at_once:]) / span_s, used_s / sent * 1e6, written / sent)

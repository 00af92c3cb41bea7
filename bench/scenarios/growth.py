"""Costs by number of pending events and by number of devices: the figures of the plots in docs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from bench.report import Row
from bench.scenarios.drain import drain_files
from bench.setup import Bench

_WAITING = (1_000, 10_000, 100_000, 1_000_000)
_DEVICES = (1, 10, 100, 1_000, 10_000)
_USUAL_WAITING = 10_000
_USUAL_DEVICES = 1_000


@dataclass(frozen=True, slots=True)
class Point:
    waiting: int
    devices: int
    start_s: float
    memory_mb: float
    accepts_per_s: float
    accepted_cpu_us: float
    accepted_written_bytes: float
    drained_per_s: float
    drained_cpu_us: float
    drained_written_bytes: float


def growth(bench: Bench) -> Iterator[Row]:
    """Yield one row per point. The spread covers the repetitions, and `detail` has all figures of the point."""
    points = [(waiting, _USUAL_DEVICES) for waiting in _WAITING]
    points += [(_USUAL_WAITING, devices) for devices in _DEVICES if devices != _USUAL_DEVICES]
    measured: dict[tuple[int, int], list[Point]] = {point: [] for point in points}
    for _ in range(int(bench.size(1, 5))):
        for waiting, devices in points:
            measured[waiting, devices].append(_measure(bench, waiting, devices))
    for (waiting, devices), found in measured.items():
        point = _median(found)
        rates = [each.accepts_per_s for each in found]
        yield Row(
            f"growth: accepts, {waiting:,} pending, {devices:,} device{'s' * (devices > 1)}",
            point.accepts_per_s,
            "events/s",
            None,
            (min(rates), max(rates)) if len(rates) > 1 else None,
            f"{point.accepted_cpu_us:.0f} µs of CPU, {point.accepted_written_bytes:,.0f} B written an event;"
            f" drain {point.drained_per_s:,.0f}/s, {point.drained_cpu_us:.1f} µs, {point.drained_written_bytes:,.0f} B;"
            f" {point.memory_mb:.0f} MB; start {point.start_s:.2f} s",
            asdict(point),
        )


def _measure(bench: Bench, waiting: int, devices: int) -> Point:
    outbox = bench.filled(waiting, devices)
    with bench.relay(outbox) as relay:
        start_s = relay.ready_after_s
        memory_mb = relay.rss_bytes() / 1e6
        cpu_s, written = relay.cpu_s(), relay.reported_written_bytes()
        result = relay.post(seconds=1, devices=devices)
        cpu_s, written = relay.cpu_s() - cpu_s, relay.reported_written_bytes() - written
    drained = drain_files(bench, outbox)
    return Point(
        waiting,
        devices,
        start_s,
        memory_mb,
        result.per_s,
        cpu_s / result.requests * 1e6,
        written / result.requests,
        drained.per_s,
        drained.cpu_us,
        drained.written_bytes,
    )


def _median(points: list[Point]) -> Point:
    """Return the median of each figure."""
    columns = [asdict(point) for point in points]
    return Point(**{name: statistics.median(column[name] for column in columns) for name in columns[0]})

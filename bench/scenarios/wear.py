"""Bytes written to the disk over an event's whole life: by the relay's metric, and by the kernel's account."""

from __future__ import annotations

from collections.abc import Iterator

from bench.report import Row, at_most
from bench.setup import NO_LIMITS, Bench, Relay, Upstream


def wear(bench: Bench) -> Iterator[Row]:
    with (
        bench.upstream(validate=False) as upstream,
        bench.relay(upstream__url=upstream.url, **NO_LIMITS) as relay,
    ):
        load = {"seconds": bench.size(6, 30)}
        yield _row(relay, upstream, "at saturation, 1,000 devices, single events", 1_700, load)
    with (
        bench.upstream(validate=False) as upstream,
        bench.relay(upstream__url=upstream.url, **NO_LIMITS) as relay,
    ):
        requests = int(bench.size(40, 300))
        load = {"requests": requests, "requests_per_s": 1.0, "connections": 1, "devices": 1}
        yield _row(relay, upstream, "at one event per second", 16 * 1024, load)


def _row(relay: Relay, upstream: Upstream, when: str, target: float, load: dict[str, float]) -> Row:
    before, by_kernel, commits = _written(relay), relay.written_bytes(), relay.metric("outbox_commits_total")
    relay.post(**load)
    relay.ask("POST", "/flush")
    relay.until_pending(0)
    count = relay.status()["ledger"]["delivered"]
    written, by_kernel = _written(relay) - before, relay.written_bytes() - by_kernel
    commits = relay.metric("outbox_commits_total") - commits
    return Row(
        f"bytes written per 400-byte event, {when}",
        written / count,
        "B",
        at_most(target),
        note=f"/proc/PID/io says {by_kernel / count:,.0f} B; {count:,} events, {commits / count:.3g} commits an event",
        detail={"events": count, "written": written, "by_kernel": by_kernel, "commits": commits},
    )


def _written(relay: Relay) -> float:
    return relay.metric("outbox_written_bytes_total")

"""Bytes written to the disk over an event's whole life: by the relay's metric, and by the kernel's account."""

from __future__ import annotations

from collections.abc import Iterator

from bench.report import Row, at_most
from bench.setup import NO_LIMITS, Bench, Relay


def wear(bench: Bench) -> Iterator[Row]:
    """At saturation, where a commit holds many events, over UDP and HTTP."""
    for transport in ("single events over HTTP", "batches of 100"):
        load = {"seconds": bench.size(4, 30)}
        if transport.startswith("batches"):
            load |= {"events_per_request": 100, "connections": 16}
        yield _measured(bench, f"at saturation, 1,000 devices, {transport}", 1_700, "full", load)


def lonely(bench: Bench) -> Iterator[Row]:
    """Alone in their commits, by the pace of one device; and what `normal` makes of it."""
    for durability in ("full", "normal"):
        requests = int(bench.size(30, 300))
        load = {"requests": requests, "requests_per_s": 1.0, "connections": 1, "devices": 1}
        yield _measured(bench, f"at one event per second, {durability}", 16 * 1024, durability, load)


def _measured(bench: Bench, when: str, target: float, durability: str, load: dict[str, float]) -> Row:
    with (
        bench.upstream(validate=False) as upstream,
        bench.relay(upstream__url=upstream.url, outbox__durability=durability, **NO_LIMITS) as relay,
    ):
        return _row(relay, when, target, load)


def _row(relay: Relay, when: str, target: float, load: dict[str, float]) -> Row:
    before, by_kernel, commits = relay.written_bytes_said(), relay.written_bytes(), relay.metric("outbox_commits_total")
    relay.post(**load)
    relay.ask("POST", "/flush")
    relay.until_pending(0)
    count = relay.status()["ledger"]["delivered"]
    written, by_kernel = relay.written_bytes_said() - before, relay.written_bytes() - by_kernel
    commits = relay.metric("outbox_commits_total") - commits
    return Row(
        f"bytes written per 400-byte event, {when}",
        written / count,
        "B",
        at_most(target),
        note=f"/proc/PID/io says {by_kernel / count:,.0f} B; {count:,} events, {commits / count:.3g} commits an event",
        detail={"events": count, "written": written, "by_kernel": by_kernel, "commits": commits},
    )

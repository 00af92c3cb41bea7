"""UDP datagrams of a thousand devices, stored and forwarded to a sandbox at the same time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import NamedTuple

from bench import events
from bench.datagrams import Datagrams
from bench.process import PATIENCE_S, Child, python
from bench.report import Row, at_least, at_most
from bench.setup import NO_LIMITS, Bench, Relay, Upstream

_POLL_S = 0.05
_QUIET_S = 0.3
"""Time without an arrival after which the relay is flushed again."""


class Flow(NamedTuple):
    """The result of one period of datagrams."""

    sent: int
    stored: int
    delivered: int
    delivered_per_s: float
    """Rate from the first datagram until the last delivery, without the linger of the last batches."""
    stored_per_s: float
    """Rate while the datagrams were sent."""
    cpu_us: float
    """Processor time of all threads of the relay per event, from the first datagram until the last delivery."""
    sender: float
    """Share of a core that the sender used."""
    per_commit: float
    kernel_drops: int


def udp(bench: Bench) -> Iterator[Row]:
    seconds = bench.size(12, 30)  # More than twice the linger, so that events are forwarded at the rate of arrival.
    steady = flow(bench, 20_000, seconds)
    lost = steady.sent - steady.delivered
    yield Row(
        "UDP stored and forwarded, 20,000/s sent: lost",
        lost,
        "events",
        at_most(0),
        note=f"{steady.sent:,} sent in {seconds:.0f} s, {steady.kernel_drops} dropped by the kernel",
    )
    yield Row(
        "  CPU an event over its whole life",
        steady.cpu_us,
        "µs",
        at_most(30),
        note="all threads, from before the first datagram until the last event's delivery; /metrics are read about"
        f" three times meanwhile; {steady.per_commit:,.0f} events a commit;"
        f" the sender used {steady.sender:.0%} of a core",
    )
    floods: list[Flow] = []

    def ours() -> float:
        floods.append(flow(bench, 60_000, seconds))
        return floods[-1].delivered_per_s

    def floor() -> float:
        last = floods[-1]
        return bench.sqlite_floor(max(50_000, last.stored), int(last.per_commit))

    ours()  # This run measures the rows per commit for the floor.
    compared = bench.compare(ours, floor)
    flood = sorted(floods, key=lambda each: each.delivered_per_s)[len(floods) // 2]
    yield Row(
        "UDP stored and forwarded at once, 60,000/s sent",
        compared.rate,
        "events/s",
        at_least(30_000),
        compared.rate_spread,
        f"stored {flood.stored_per_s:,.0f}/s while sent; {flood.cpu_us:.1f} µs of CPU an event;"
        f" {flood.per_commit:,.0f} events a commit; the sender used {flood.sender:.0%} of a core;"
        f" kernel dropped {flood.kernel_drops:,} of {flood.sent:,}",
    )
    yield Row(
        "  / bare sqlite3 appends",
        compared.ratio,
        "x",
        at_least(0.3),
        compared.spread,
        f"{compared.floor:,.0f} rows/s",
        {"ours": compared.ours, "floor": compared.floors},
    )
    received, sent = _bare_socket(bench, 60_000, min(seconds, 5.0))
    yield Row("  a bare socket, the same datagrams", received, "datagrams/s", note=f"{sent:,.0f}/s sent")


def flow(bench: Bench, per_s: float, seconds: float, event_bytes: int = 400) -> Flow:
    with (
        bench.upstream(validate=False) as upstream,
        bench.relay(upstream__url=upstream.url, **NO_LIMITS) as relay,
    ):
        cpu_s = relay.cpu_s()
        sending = send(bench, relay.udp, per_s, seconds, event_bytes)
        stored_by_then, sent_s = _stored(relay), time.monotonic() - sending["began"]
        delivered, over_at = _until_delivered(relay, upstream)
        used_s = relay.cpu_s() - cpu_s
        stored = _stored(relay)
        return Flow(
            int(sending["sent"]),
            stored,
            delivered,
            stored / (over_at - sending["began"]),
            stored_by_then / sent_s,
            used_s / max(1, stored) * 1e6,
            sending["cpu_s"] / sending["seconds"],
            stored / relay.metric("outbox_commits_total"),
            int(relay.metric("udp_datagrams_dropped_total", 'reason="kernel"')),
        )


def _until_delivered(relay: Relay, upstream: Upstream) -> tuple[int, float]:
    """Flush until the sandbox has all stored events. Return their number, and the monotonic time of the last one.

    The sandbox is polled. The relay is queried only when no more events arrive, because its responses would be part of
    the measurement.
    """
    delivered, began = 0, time.monotonic()
    last_at = began
    while relay.udp_unread_bytes() or delivered < _stored(relay):
        if time.monotonic() - began > PATIENCE_S:
            raise RuntimeError(f"only {delivered} events were delivered in time")
        relay.request("POST", "/flush")
        quiet_from = time.monotonic()
        while time.monotonic() - quiet_from < _QUIET_S:
            if (arrived := int(upstream.request("report")["events"])) > delivered:
                delivered, last_at = arrived, time.monotonic()
                quiet_from = last_at
            time.sleep(_POLL_S)
    return delivered, last_at


def _stored(relay: Relay) -> int:
    return int(relay.metric("events_accepted_total", 'transport="udp"'))


def send(bench: Bench, address: str, per_s: float, seconds: float, event_bytes: int = 400) -> dict[str, float]:
    order = Datagrams(address=address, run=events.new_run(), per_s=per_s, seconds=seconds, event_bytes=event_bytes)
    log = bench.new_directory() / "datagrams.log"
    with Child(python("bench.datagrams", json.dumps(asdict(order))), log, os.environ) as sender:
        return sender.wait_for_line("sent")


def _bare_socket(bench: Bench, per_s: float, seconds: float) -> tuple[float, float]:
    """Return the received and the sent datagrams per second."""
    with bench.floor("udp") as (floor, address):
        sent = send(bench, address, per_s, seconds)["sent"]
        time.sleep(0.2)
        floor.stop()
        return floor.wait_for_line("received")["received"] / seconds, sent / seconds

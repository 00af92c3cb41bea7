"""A million pending events of a million devices: memory, start, and the rate at which a relay sends them.

Without a shared limit a request contains the events of one device.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.report import Row
from bench.setup import NO_LIMITS, Bench, Relay, fill, free_port

_SECONDS = 10.0
_MB = 1_000_000


def devices(bench: Bench) -> Iterator[Row]:
    count = bench.waiting
    large = {"outbox__max_devices": str(count), "outbox__max_size": "2GiB", "batch__linger": "10m"}
    directory = bench.new_directory()
    with Relay(directory, large, {}, free_port()) as relay:
        relay.until_ready()
        empty = relay.rss_bytes()
        fill(relay, count, count)
        live, peak = relay.rss_bytes(), relay.peak_bytes()
    note = f"RSS; {peak / _MB:.0f} MB at its peak; {(live - empty) / count:.0f} B for each"
    yield Row(f"memory with {count:,} pending events of {count:,} devices", live / _MB, "MB", note=note)
    with (
        bench.upstream(validate=False) as upstream,
        Relay(directory, {"upstream__url": upstream.url, **large, **NO_LIMITS}, {}, free_port()) as relay,
    ):
        ready_s = relay.until_ready()
        while relay.metric("devices_waiting") < count:
            time.sleep(0.5)
        loaded_s = time.monotonic() - relay.started_at
        live, peak = relay.rss_bytes(), relay.peak_bytes()
        note = f"RSS; {peak / _MB:.0f} MB at its peak; {(live - empty) / count:.0f} B for each"
        yield Row("  the same after a restart", live / _MB, "MB", note=note)
        yield Row("  start to ready", ready_s, "s", note=f"all devices loaded after {loaded_s:.1f} s")
        relay.request("POST", "/flush")
        while not (first := upstream.request("report")["events"]):
            time.sleep(0.05)
        time.sleep(_SECONDS)
        sent = upstream.request("report")["events"] - first
    yield Row("  draining, a request for each device", sent / _SECONDS, "events/s", note=f"for {_SECONDS:.0f} s")

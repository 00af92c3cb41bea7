"""An outage of the upstream: steady traffic, an unavailable upstream, and its recovery under steady traffic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from bench.load import LoadResult
from bench.report import Row, at_least, at_most
from bench.setup import NO_LIMITS, Bench, Relay, free_port

_PER_S = 1_000
_DEVICES = 1000


def outage(bench: Bench) -> Iterator[Row]:
    """Run all phases with one relay and single events, at a rate below the relay's capacity."""
    seconds = bench.size(6, 60)
    port = free_port()
    settings = {"upstream__url": f"http://127.0.0.1:{port}/v1/events", "batch__linger": "1s", **NO_LIMITS}
    with bench.relay(**settings) as relay:
        with bench.upstream(validate=False, port=port):
            yield _phase("steady state", relay, _paced(relay, seconds))
            relay.request("POST", "/flush")
            relay.until_pending(0)
        yield _phase("the upstream unavailable", relay, _paced(relay, seconds))
        relay.post(requests=int(bench.size(2_000, 20_000)), events_per_request=100, connections=8)
        waiting = relay.pending()
        with bench.upstream(validate=False, port=port), ThreadPoolExecutor(1) as pool:
            fresh = pool.submit(_paced, relay, seconds)
            relay.request("POST", "/flush")
            began = time.monotonic()
            relay.until_pending(_PER_S * 3)
            caught_up_s = time.monotonic() - began
            result = fresh.result()
            relay.request("POST", "/flush")
            relay.until_pending(0)
        yield _phase("draining the outage", relay, result)
        ledger = relay.status()["ledger"]
    yield Row(
        "  backlog sent while fresh events arrive",
        waiting / caught_up_s,
        "events/s",
        None,
        note=f"{waiting:,} pending events, delivered after {caught_up_s:.1f} s",
    )
    lost = ledger["accepted"] - ledger["delivered"]
    yield Row("  accepted and not delivered", lost, "events", at_most(0), note=f"of {ledger['accepted']:,}")


def _paced(relay: Relay, seconds: float) -> LoadResult:
    requests = int(seconds * _PER_S)
    return relay.post(requests=requests, requests_per_s=_PER_S, connections=32, devices=_DEVICES)


def _phase(name: str, relay: Relay, result: LoadResult) -> Row:
    return Row(
        f"{name}: of {_PER_S:,} events/s, accepted",
        result.per_s / _PER_S * 100,
        "%",
        at_least(99),
        note=f"202 after {result.p50_ms:.1f} ms, p99 {result.p99_ms:.1f} ms; {relay.rss_bytes() / 1e6:.0f} MB RSS",
    )

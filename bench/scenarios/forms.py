"""All input forms and event sizes: accepts per second, compared with a bare program under the same load.

Requests of one event are compared with bare aiohttp, all other forms with the bare sqlite3 loop.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from bench.report import Row
from bench.scenarios.accept import against_aiohttp
from bench.scenarios.udp import flow
from bench.setup import Bench

_SIZES_BYTES = (200, 400, 4 << 10, 60 << 10)
_BATCH_BODY_BYTES = 400 << 10
"""Maximum body of a batch. A batch has as many events as fit, but at most 100."""
_CONNECTIONS = 8
_DATAGRAM_BYTES_PER_S = 16e6
_MAX_DATAGRAMS_PER_S = 20_000


def forms(bench: Bench) -> Iterator[Row]:
    for size_bytes in _SIZES_BYTES:
        yield _single(bench, size_bytes)
        per_request = min(100, max(2, _BATCH_BODY_BYTES // size_bytes))
        for form in ("json", "ndjson", "gzip"):
            yield _batch(bench, size_bytes, form, per_request)
        yield _udp(bench, size_bytes)


def _single(bench: Bench, size_bytes: int) -> Row:
    compared, seen = against_aiohttp(bench, pairs=bench.few_pairs, event_bytes=size_bytes)
    return Row(
        f"events of {size_bytes:,} B, one a request / bare aiohttp",
        compared.ratio,
        "x",
        None,
        compared.spread,
        f"{compared.rate:,.0f}/s; {statistics.median(seen.cpu_us):.0f} µs of CPU an event",
    )


def _batch(bench: Bench, size_bytes: int, form: str, per_request: int) -> Row:
    cpu_us: list[float] = []
    clients: list[float] = []

    def ours() -> float:
        with bench.relay() as relay:
            cpu_s = relay.cpu_s()
            result = relay.post(
                seconds=1,
                events_per_request=per_request,
                connections=_CONNECTIONS,
                event_bytes=size_bytes,
                form=form,
            )
            cpu_us.append((relay.cpu_s() - cpu_s) / (result.requests * per_request) * 1e6)
            clients.append(result.cpu)
            return result.per_s * per_request

    rows = max(500, 20_000_000 // size_bytes)
    compared = bench.compare(
        ours,
        lambda: bench.sqlite_floor(rows, per_request * _CONNECTIONS // 2, size_bytes),
        bench.few_pairs,
    )
    name = {"json": "batches", "ndjson": "NDJSON", "gzip": "batches, gzip"}[form]
    return Row(
        f"  {name} of {per_request} / bare sqlite3 appends",
        compared.ratio,
        "x",
        None,
        compared.spread,
        f"{compared.rate:,.0f} events/s; {statistics.median(cpu_us):.1f} µs of CPU an event;"
        f" the client used {max(clients):.0%} of a core",
    )


def _udp(bench: Bench, size_bytes: int) -> Row:
    """Measure events that are stored and forwarded, at a rate that the relay is expected to process without loss."""
    per_s = min(_MAX_DATAGRAMS_PER_S, _DATAGRAM_BYTES_PER_S / size_bytes)
    flowed = flow(bench, per_s, 2, size_bytes)
    return Row(
        f"  UDP, {per_s:,.0f}/s sent, stored and forwarded",
        flowed.delivered_per_s,
        "events/s",
        None,
        note=f"{flowed.cpu_us:.1f} µs of CPU an event; {flowed.sent - flowed.stored:,} of {flowed.sent:,} lost",
    )

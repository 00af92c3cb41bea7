"""What a small box can expect, and what many devices cost: a quarter of a core, syncs of 20 ms, 10,000 devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.report import Row, at_most
from bench.scenarios.slow import NO_COMPILER, slow_disk
from bench.setup import NO_LIMITS, Bench

_PERIOD_US, _QUOTA_US = 100_000, 25_000
_SPARSE_DEVICES, _SPARSE_PER_S = 10_000, 10_000 / 60


def many_devices(bench: Bench) -> Iterator[Row]:
    """Measure devices with one event per minute, each sent as soon as possible."""
    seconds = bench.size(30, 120)
    with (
        bench.upstream(validate=False) as upstream,
        bench.relay(upstream__url=upstream.url, batch__linger="0s", **NO_LIMITS) as relay,
    ):
        cpu_s = relay.cpu_s()
        relay.post(
            requests=int(seconds * _SPARSE_PER_S),
            requests_per_s=_SPARSE_PER_S,
            connections=8,
            devices=_SPARSE_DEVICES,
        )
        relay.request("POST", "/flush")
        relay.until_pending(0)
        cpu_us, requests = (relay.cpu_s() - cpu_s) * 1e6, int(upstream.request("report")["requests"])
    note = f"{requests:,} requests upstream; the accept, its commit and the idle work included"
    what = f"{_SPARSE_DEVICES:,} devices, one event per minute each: CPU per request"
    yield Row(what, cpu_us / max(1, requests), "µs", at_most(150), note=note)


def box(bench: Bench) -> Iterator[Row]:
    """Measure accepts with a quarter of a core and syncs of 20 ms."""
    env = slow_disk(bench)
    if not env:
        yield Row("a small box", None, "", note=NO_COMPILER)
        return
    for what, connections, per_request in (
        ("one connection", 1, 1),
        ("64 connections", 64, 1),
        ("64 connections, batches of 100", 64, 100),
    ):
        with (
            bench.upstream(validate=False) as upstream,
            bench.relay(env=env, upstream__url=upstream.url, **NO_LIMITS) as relay,
        ):
            try:
                with _quarter_core(relay.pid):
                    result = relay.post(
                        seconds=bench.size(8, 30), connections=connections, events_per_request=per_request
                    )
            except OSError as error:
                yield Row("a small box", None, "", note=f"the processor cannot be limited: {error}")
                return
        yield Row(
            f"a quarter of a core, syncs of 20 ms: {what}",
            result.per_s * per_request,
            "events/s",
            note=f"p50 {result.p50_ms:.0f} ms, p99 {result.p99_ms:.0f} ms, forwarding at the same time",
        )


@contextmanager
def _quarter_core(pid: int) -> Iterator[None]:
    """Limit a process with a control group (version 2, or 1). Raise OSError where this is not possible."""
    name = f"relay-bench-{os.getpid()}"
    root = Path("/sys/fs/cgroup")
    one = root / "cpu"
    group = (one if one.is_dir() else root) / name
    group.mkdir()
    try:
        if one.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(_QUOTA_US))
        else:
            (group / "cpu.max").write_text(f"{_QUOTA_US} {_PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))
        try:
            yield
        finally:
            (group.parent / "cgroup.procs").write_text(str(pid))
    finally:
        group.rmdir()

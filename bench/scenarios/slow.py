"""A disk whose syncs take 20 ms: group commit preserves the throughput, and a response waits for one or two commits.

The delay is a small library that is compiled and preloaded. Without a C compiler the scenario is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.report import Row, at_least, at_most
from bench.setup import Bench

NO_COMPILER = "no C compiler (cc) to build the slow disk with"
_DELAY_MS = 20
_SOURCE = Path(__file__).parent.parent / "slow_fsync.c"


def slow(bench: Bench) -> Iterator[Row]:
    env = slow_disk(bench)
    if not env:
        yield Row("a disk with syncs of 20 ms", None, "", note=NO_COMPILER)
        return
    for connections in (1, 64):
        yield _waiting(bench, env, connections)
    yield _throughput(bench, env)


def slow_disk(bench: Bench) -> dict[str, str]:
    """Return the environment in which a program has the slow disk; empty without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {}
    library = bench.new_directory() / "slow_fsync.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"], check=True)
    env = {"LD_PRELOAD": str(library), "FSYNC_DELAY_MS": str(_DELAY_MS)}
    if "LD_PRELOAD" in os.environ:
        env["LD_PRELOAD"] += f":{os.environ['LD_PRELOAD']}"
    return env


def _waiting(bench: Bench, env: dict[str, str], connections: int) -> Row:
    """Measure the wait of a response in commits: its own commit, and the rest of the previous one."""
    with bench.relay(env=env) as relay:
        result = relay.post(seconds=bench.seconds, connections=connections)
        commit_ms = (
            relay.metric("outbox_commit_duration_seconds_sum") / relay.metric("outbox_commit_duration_seconds_count")
        ) * 1000
    who = "one connection" if connections == 1 else f"{connections} connections"
    return Row(
        f"disk with syncs of {_DELAY_MS} ms: {who}, median wait for 202",
        result.p50_ms / commit_ms,
        "commits",
        at_most(1.25 if connections == 1 else 2.25),
        note=f"{result.p50_ms:.1f} ms, p99 {result.p99_ms:.1f} ms; a commit takes {commit_ms:.1f} ms",
    )


def _throughput(bench: Bench, env: dict[str, str]) -> Row:
    """Compare the throughput with and without the delay. Batches are used, so that each commit has many events."""

    def rate(which: dict[str, str]) -> float:
        with bench.relay(env=which) as relay:
            return relay.post(seconds=bench.seconds, events_per_request=100, connections=64).per_s * 100

    compared = bench.compare(lambda: rate(env), lambda: rate({}))
    return Row(
        "  batch accepts / with the disk as it is",
        compared.ratio,
        "x",
        at_least(0.8),
        compared.spread,
        f"{compared.rate:,.0f} against {compared.floor:,.0f} events/s",
    )

"""Single durable events over HTTP, compared with a bare aiohttp application under the same load."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench import events
from bench.client import Order
from bench.load import LoadResult, send
from bench.pairs import Compared
from bench.report import Row, Target, at_least
from bench.setup import Bench

FLOOR = at_least(0.95)
GOAL = at_least(2.5)
NEWEST = Path(__file__).parent.parent.parent / ".venv-newest/bin/python"
"""The newest installed Python with the relay's dependencies, prepared by `make newest`."""


_PROCESSOR = "  / bare aiohttp, in processor time an event"


def accept(bench: Bench) -> Iterator[Row]:
    for devices in (1000, 1, 10_000):
        compared, last = against_aiohttp(bench, devices=devices)
        what = f"single durable accepts / bare aiohttp, {devices:,} device{'s' * (devices > 1)}"
        yield from _rows(what, compared, last, FLOOR)
        if devices == 1000:
            yield Row("  the goal beyond", compared.ratio, "x", GOAL, compared.spread)
            processor = Compared(last.floor_cpu_us, last.cpu_us)
            yield Row(_PROCESSOR, processor.ratio, "x", None, processor.spread, "the floor's through ours")
    compared, last = against_aiohttp(bench, connections=256)
    yield from _rows("single durable accepts / bare aiohttp, 256 connections", compared, last, GOAL)
    yield _alone(bench)


def loops(bench: Bench) -> Iterator[Row]:
    """Compare relay and floor on uvloop and on asyncio's event loop, with this Python and the newest installed one."""
    without_uvloop = _without_uvloop(bench)
    interpreters = [sys.executable]
    if (NEWEST.parent.parent / "ready").exists():
        interpreters.append(str(NEWEST))
    else:
        yield Row("single durable accepts with a newer Python", None, "", note="none was found by `make newest`")
    for interpreter in interpreters:
        version = subprocess.run([interpreter, "-V"], capture_output=True, text=True, check=True).stdout.strip()
        for loop, env in (("uvloop", {}), ("asyncio's loop", without_uvloop)):
            compared, last = against_aiohttp(bench, env, interpreter=interpreter)
            what = f"single durable accepts / bare aiohttp, {version}, {loop}"
            yield from _rows(what, compared, last, FLOOR)


def _without_uvloop(bench: Bench) -> dict[str, str]:
    """Return environment variables with which Python cannot import uvloop."""
    directory = bench.new_directory()
    (directory / "uvloop.py").write_text("raise ImportError\n")
    return {"PYTHONPATH": str(directory)}


@dataclass(slots=True)
class RunDetails:
    """Results of the runs in addition to their rates."""

    ours: LoadResult | None = None
    cpu_us: list[float] = field(default_factory=list)
    """Processor time of the relay per event."""
    floor_cpu_us: list[float] = field(default_factory=list)


def against_aiohttp(
    bench: Bench,
    env: dict[str, str] | None = None,
    pairs: int = 0,
    interpreter: str = sys.executable,
    **order: object,
) -> tuple[Compared, RunDetails]:
    """Compare the requests per second of relay and floor. Each run has an empty outbox, so that all runs are alike."""
    runs = RunDetails()
    seconds = bench.seconds
    with bench.floor("http", env, interpreter) as (floor_process, address):

        def ours() -> float:
            with bench.relay(env=env, interpreter=interpreter) as relay:
                cpu_s = relay.cpu_s()
                runs.ours = result = relay.post(seconds=seconds, **order)
                runs.cpu_us.append((relay.cpu_s() - cpu_s) / result.requests * 1e6)
                accepted = relay.status()["ledger"]["accepted"]
                if accepted < result.requests:
                    raise RuntimeError(f"{accepted} events were stored of {result.requests} with a 202 response")
            return result.per_s

        def floor() -> float:
            made = Order(address=address, run=events.new_run(), seconds=seconds, **order)
            cpu_s = floor_process.cpu_s()
            result = send(made, bench.directory)
            runs.floor_cpu_us.append((floor_process.cpu_s() - cpu_s) / result.requests * 1e6)
            return result.per_s

        return bench.compare(ours, floor, pairs), runs


def _rows(what: str, compared: Compared, runs: RunDetails, target: Target) -> Iterator[Row]:
    ours = runs.ours
    assert ours is not None
    yield Row(
        what,
        compared.ratio,
        "x",
        target,
        compared.spread,
        f"{compared.rate:,.0f}/s against {compared.floor:,.0f}/s;"
        f" {statistics.median(runs.cpu_us):.0f} against {statistics.median(runs.floor_cpu_us):.0f} µs of CPU an event;"
        f" p50 {ours.p50_ms:.1f} ms, p99 {ours.p99_ms:.1f} ms; {ours.by} used {ours.cpu:.0%} of a core",
        {"ours": compared.ours, "floor": compared.floors, "cpu_us": runs.cpu_us, "floor_cpu_us": runs.floor_cpu_us},
    )


def _alone(bench: Bench) -> Row:
    """Measure the time until the 202 response to a single event on one connection."""
    with bench.relay() as relay:
        result = relay.post(seconds=bench.seconds, connections=1)
        commit_ms = (
            relay.metric("outbox_commit_duration_seconds_sum") / relay.metric("outbox_commit_duration_seconds_count")
        ) * 1000
    note = f"p99 {result.p99_ms:.2f} ms; a commit with its fsync takes {commit_ms:.2f} ms"
    return Row("a 202 without other load, median", result.p50_ms, "ms", note=note)

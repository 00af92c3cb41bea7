"""The time from the start of the process until /readyz reports that events can be stored."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.report import Row, at_most
from bench.setup import Bench, Relay, copy, free_port


def start(bench: Bench) -> Iterator[Row]:
    imports = statistics.median(_import_s() for _ in range(bench.pairs))
    note = f"Python with aiohttp's import alone takes {imports:.2f} s"
    yield _row("start to ready, empty", 0.7, [start_s(bench, None) for _ in range(bench.pairs)], note)
    full = bench.filled(bench.waiting, 1000)
    times = [start_s(bench, full) for _ in range(bench.pairs)]
    yield _row(f"start to ready with {bench.waiting:,} pending events", 1.0, times)
    killed = bench.new_directory()
    copy(full, killed)
    with Relay(killed, {}, {}, free_port()) as relay:
        relay.until_ready()
        relay.post(seconds=1)
        relay.kill()
    times = [start_s(bench, killed) for _ in range(bench.pairs)]
    yield _row("  the same after kill -9 under load", 1.0, times)


def start_s(bench: Bench, outbox: Path | None) -> float:
    directory = bench.new_directory()
    if outbox is not None:
        copy(outbox, directory)
    with Relay(directory, {}, {}, free_port()) as relay:
        seconds = relay.until_ready()
        relay.kill()
    shutil.rmtree(directory)
    return seconds


def _row(what: str, target: float, times: list[float], note: str = "") -> Row:
    return Row(what, statistics.median(times), "s", at_most(target), (min(times), max(times)), note)


def _import_s() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import aiohttp.web"], check=True)
    return time.monotonic() - began

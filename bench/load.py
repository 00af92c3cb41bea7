"""HTTP load from other processes: wrk if it is installed, otherwise `bench.client`.

This module selects the generator and sums the outcomes. `bench.client` is required for what wrk does not support: exact
counts, rates, gzip, and several successive events of one device.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import events
from bench.client import Order
from bench.process import python

POST = Path(__file__).parent / "post.lua"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The load generator's result. `cpu` is the generator's share of one core (1.0: the whole core)."""

    requests: int
    seconds: float
    rejected: int
    broken: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu: float
    by: str

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds


def by_wrk(order: Order) -> bool:
    plain = order.requests is None and not order.requests_per_s and order.form != "gzip" and order.consecutive == 1
    return plain and shutil.which("wrk") is not None


def send(order: Order, directory: Path, *, processes: int = 1) -> LoadResult:
    """Generate the load and return its result. Raise RuntimeError if a response was not 2xx."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    outcomes, by = (_wrk(order, directory), "wrk") if by_wrk(order) else (_own(order, processes), "own client")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = max(each["duration_us"] for each in outcomes) / 1e6
    result = LoadResult(
        requests=sum(each["requests"] for each in outcomes),
        seconds=seconds,
        rejected=sum(each["rejected"] for each in outcomes),
        broken=sum(each["broken"] for each in outcomes),
        p50_ms=max(each["p50_us"] for each in outcomes) / 1000,
        p99_ms=max(each["p99_us"] for each in outcomes) / 1000,
        max_ms=max(each["max_us"] for each in outcomes) / 1000,
        cpu=cpu_s / seconds,
        by=by,
    )
    if result.rejected or result.broken or not result.requests:
        raise RuntimeError(f"the load was not accepted: {result}")
    return result


def _wrk(order: Order, directory: Path) -> list[dict[str, int]]:
    assert order.seconds is not None
    path = directory / f"templates-{order.run}"
    events.write(path, events.templates(order.run, order.devices, order.event_bytes))
    command = ["wrk", "-t1", f"-c{order.connections}", f"-d{max(1, round(order.seconds))}s", "-s", str(POST)]
    command += [f"http://{order.address}/v1/events", "--", str(path), str(order.first)]
    done = subprocess.run(
        [*command, str(order.events_per_request), order.form], capture_output=True, text=True, check=True
    )
    path.unlink()
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _own(order: Order, processes: int) -> list[dict[str, int]]:
    """Split the order over processes. Each process has its own range of event numbers."""
    total = asdict(order)
    running = []
    for number in range(processes):
        share = total | {
            "connections": max(1, order.connections // processes),
            "requests_per_s": order.requests_per_s / processes,
        }
        if order.requests is not None:
            share["requests"] = order.requests // processes
            share["first"] = order.first + number * share["requests"] * order.events_per_request
        else:
            share["first"] = order.first + number * (1 << 40)
        command = python("bench.client", json.dumps(share))
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    outcomes = []
    for process in running:
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"a load generator failed with {process.returncode}")
        outcomes.append(json.loads(output))
    return outcomes

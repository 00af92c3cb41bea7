"""Exhausted descriptors and memory. The relay recovers by itself, or ends and works after a restart."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from contextlib import suppress
from pathlib import Path

from relay.sandbox.server import Sandbox

from tests.e2e.harness import http, running
from tests.fault.apps import Fleet, all_settled, settings, timed_event, until_ready

LOG_LINES = 60


async def test_no_descriptor_is_left(sandbox: Sandbox, tmp_path: Path) -> None:
    """With RLIMIT_NOFILE reached, new connections wait or are rejected, and the log stays short."""
    fleet = Fleet(5)
    async with running(settings(sandbox.url, tmp_path / "state")) as relay:
        fleet.address = relay.http
        await fleet.send(2)
        before = resource.prlimit(relay.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (descriptors(relay.pid) + 3, before[1]))
        crowd = [await connect(relay.http) for _ in range(30)]
        await asyncio.sleep(1)  # The duration of the fault.
        for writer in crowd:
            writer.close()
        assert len(relay.log) < LOG_LINES
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, before)
        await until_ready(relay)
        await fleet.send(2)
        await all_settled(relay, sandbox, fleet)


async def test_no_descriptor_for_the_upstream_nor_for_the_disk(sandbox: Sandbox, tmp_path: Path) -> None:
    """The relay cannot open a file or socket: every event answered with 202 is on disk and delivered later."""
    fleet = Fleet(5)
    async with running(settings(sandbox.url, tmp_path / "state")) as relay:
        fleet.address = relay.http
        await fleet.send(2)
        before = resource.prlimit(relay.pid, resource.RLIMIT_NOFILE)
        async with fleet.sending():
            await fleet.until(stored=10)
            resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (8, before[1]))
            await asyncio.sleep(1)  # The duration of the fault.
            resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, before)
            await until_ready(relay)
            await fleet.until(stored=20)
        await all_settled(relay, sandbox, fleet, repeats=10)


async def test_no_memory_is_left(sandbox: Sandbox, tmp_path: Path) -> None:
    """RLIMIT_AS is reached while batches of 400 KiB arrive: the relay responds, or ends. No stored event is lost."""
    fleet = Fleet(1)
    env = settings(sandbox.url, tmp_path / "state")
    stored: list[str] = []
    async with running(env) as relay:
        fleet.address = relay.http
        await fleet.send(2)
        size_bytes = int(Path(f"/proc/{relay.pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.prlimit(relay.pid, resource.RLIMIT_AS, (size_bytes, resource.RLIM_INFINITY))
        statuses = await asyncio.gather(*(post_many(relay.http, part) for part in range(20)))
        for part, status in enumerate(statuses):
            assert status in (0, 202, 408, 500, 503), status
            if status == 202:
                stored += [one["event_id"] for one in many(part)]
        with suppress(ProcessLookupError):  # The relay has ended.
            resource.prlimit(relay.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    async with running(env) as relay:
        fleet.address = relay.http
        await fleet.send(2)
        fleet.offered |= {one["event_id"]: json.dumps(one).encode() for part in range(20) for one in many(part)}
        fleet.stored += stored
        await all_settled(relay, sandbox, fleet, repeats=8)


def many(part: int) -> list[dict[str, object]]:
    return [timed_event(n, f"part-{part}") | {"context": {"n": n, "pad": "x" * 4_000}} for n in range(100)]


async def post_many(address: str, part: int) -> int:
    try:
        status, _, _ = await http(address, "POST", "/v1/events", json.dumps(many(part)).encode())
    except (OSError, IndexError, ValueError):
        return 0
    return status


def descriptors(pid: int) -> int:
    return max(int(fd) for fd in os.listdir(f"/proc/{pid}/fd"))


async def connect(address: str) -> asyncio.StreamWriter:
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    return writer

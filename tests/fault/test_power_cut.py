"""Power cuts at random instants of the kernel's and SQLite's work.

The relay runs once, on a disk that logs its writes and flushes. The test then rebuilds the disk as it could be after
a power cut at random instants. Every event answered with 202 before the instant must be delivered or in the outbox.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from relay.cli.outbox_on_disk import NoHolder
from relay.config import OutboxSettings
from relay.outbox.factory import create_outbox
from relay.runtime.clock import SystemClock
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks
from relay.sandbox.server import Sandbox

from tests.e2e.harness import running
from tests.fault import disk
from tests.fault.apps import Fleet, settings
from tests.fault.sizes import LONG_S, chance, size

LOAD_S = 1.5


class Run(NamedTuple):
    """One run of the relay: its disk, its apps with the time of each 202, and its time.monotonic() limits."""

    disk: disk.LoggedDisk
    fleet: Fleet
    began: float
    ended: float


async def run_once(sandbox: Sandbox, tmp_path: Path, durability: str) -> Run:
    if why := disk.rejection():
        pytest.skip(why)
    fleet = Fleet(10)
    with disk.logged_disk(tmp_path) as (logged, at):
        env = settings(sandbox.url, at / "state", outbox__durability=durability)
        async with running(env) as relay:
            fleet.address = relay.http
            began = time.monotonic()
            async with fleet.sending():
                await asyncio.sleep(LOAD_S)  # The duration of the run.
            ended = time.monotonic()
    assert fleet.stored
    return Run(logged, fleet, began, ended)


@pytest.mark.timeout(LONG_S)
async def test_a_power_cut_at_random_instants_loses_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    """G1 and G2 hold on a disk that keeps flushed data."""
    run = await run_once(sandbox, tmp_path, "full")
    assert run.disk.flushes > 20
    assert await lost(run, sandbox, tmp_path, cuts=size(50, 500)) == {}


@pytest.mark.timeout(LONG_S)
async def test_a_relay_without_fsync_loses_events(sandbox: Sandbox, tmp_path: Path) -> None:
    """The same cuts lose events with `outbox.durability = "normal"`, as documented. So the test can detect a loss."""
    run = await run_once(sandbox, tmp_path, "normal")
    assert await lost(run, sandbox, tmp_path, cuts=10)


async def lost(run: Run, sandbox: Sandbox, tmp_path: Path, cuts: int) -> dict[float, list[str]]:
    """Return the lost events of each power cut with a loss, by its instant in seconds since the start."""
    random = chance("power cut")
    missing = {}
    for _ in range(cuts):
        instant = random.uniform(run.began, run.ended)
        stored = [id_ for id_ in run.fleet.stored if run.fleet.stored_at[id_] <= instant]
        with disk.rebuilt(tmp_path, run.disk.cut_at(instant, random)) as at:
            lost = await missing_events(at / "state" / "outbox.db", stored, sandbox)
        if lost:
            missing[instant - run.began] = lost
    return missing


async def missing_events(path: Path, stored: list[str], sandbox: Sandbox) -> list[str]:
    """Open the outbox as the next start would. Return the events that are neither stored nor delivered."""
    tasks = Tasks()
    outbox = create_outbox(OutboxSettings(path=path), SystemClock(), Metrics(), tasks)
    await outbox.open()
    try:
        await outbox.load(NoHolder())
        assert outbox.ledger().balanced
        lost = []
        for id_ in stored:
            event_id = bytes.fromhex(id_.replace("-", ""))
            found = await outbox.find(event_id)
            if found is None or (found == "delivered" and not sandbox.record.has(event_id)):
                lost.append(id_)
        return lost
    finally:
        await outbox.close()
        await tasks.cancel_all()

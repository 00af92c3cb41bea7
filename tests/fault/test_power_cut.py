"""The power goes: what the disk had not flushed is forgotten, wherever the kernel and SQLite were just then.

The relay runs once, on a disk that logs its writes and flushes; the disk is then rebuilt as it would have been at
random instants, and what was answered 202 before each must be in the outbox that is found there, or delivered.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from relay.config import OutboxSettings
from relay.outbox.sqlite import SqliteOutbox
from relay.runtime.clock import SystemClock
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks
from relay.sandbox.server import Sandbox

from tests.e2e.harness import running
from tests.fault import disk
from tests.fault.apps import Fleet, settings
from tests.fault.sizes import LONG_S, chance, size

LOAD_S = 1.5


class Lived(NamedTuple):
    """A run of the relay: its disk, and who was answered 202 when."""

    disk: disk.LoggedDisk
    fleet: Fleet
    began: float
    ended: float


async def live(sandbox: Sandbox, tmp_path: Path, durability: str) -> Lived:
    if why := disk.rejection():
        pytest.skip(why)
    fleet = Fleet(10)
    with disk.forgetful(tmp_path) as (logged, at):
        env = settings(sandbox.url, at / "state", outbox__durability=durability)
        async with running(env) as relay:
            fleet.address = relay.http
            began = time.monotonic()
            async with fleet.sending():
                await asyncio.sleep(LOAD_S)  # how long the box has power
            ended = time.monotonic()
    assert fleet.kept
    return Lived(logged, fleet, began, ended)


@pytest.mark.timeout(LONG_S)
async def test_a_power_cut_at_random_instants_loses_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    """The plug of the box, pulled: G1 and G2 on a disk that keeps what it flushed."""
    lived = await live(sandbox, tmp_path, "full")
    assert lived.disk.flushes > 20
    assert await lost(lived, sandbox, tmp_path, cuts=size(50, 500)) == {}


@pytest.mark.timeout(LONG_S)
async def test_a_relay_that_does_not_flush_is_found_out(sandbox: Sandbox, tmp_path: Path) -> None:
    """The same cuts see that `outbox.durability = "normal"` loses the last moments: this is what it says it may."""
    lived = await live(sandbox, tmp_path, "normal")
    assert await lost(lived, sandbox, tmp_path, cuts=10)


async def lost(lived: Lived, sandbox: Sandbox, tmp_path: Path, cuts: int) -> dict[float, list[str]]:
    """Per instant (seconds since the beginning) what was answered 202 before it, and is not there."""
    random = chance("power cut")
    missing = {}
    for _ in range(cuts):
        instant = random.uniform(lived.began, lived.ended)
        kept = [id_ for id_ in lived.fleet.kept if lived.fleet.kept_at[id_] <= instant]
        with disk.rebuilt(tmp_path, lived.disk.cut_at(instant, random)) as at:
            gone = await not_there(at / "state" / "outbox.db", kept, sandbox)
        if gone:
            missing[instant - lived.began] = gone
    return missing


async def not_there(path: Path, kept: list[str], sandbox: Sandbox) -> list[str]:
    """Opened by the relay's own outbox, as the next start would."""
    tasks = Tasks()
    outbox = SqliteOutbox(OutboxSettings(path=path), SystemClock(), Metrics(), tasks)
    await outbox.open()
    try:
        await outbox.load(lambda *_: None)
        assert outbox.ledger().balanced
        gone = []
        for id_ in kept:
            event_id = bytes.fromhex(id_.replace("-", ""))
            found = outbox.find(event_id)
            if found is None or (found == "delivered" and not sandbox.record.has(event_id)):
                gone.append(id_)
        return gone
    finally:
        await outbox.close()
        await tasks.cancel_all()

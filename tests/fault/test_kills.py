"""Kills at any instant: a power switch, the out-of-memory killer, a watchdog."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from contextlib import closing, suppress
from pathlib import Path
from zlib import crc32

import pytest
from relay.outbox.sqlite.schema import MIGRATIONS, migrate
from relay.sandbox.server import Sandbox

from tests.e2e.harness import RelayProcess, launch, running
from tests.fault.apps import MAX_IN_FLIGHT, PER_WINDOW, Fleet, all_settled, balanced, check_promises, settings
from tests.fault.shim import Shim, needs_cc
from tests.fault.sizes import LONG_S, chance, size

DEVICES = 20


@pytest.mark.timeout(LONG_S)
async def test_kill_9_at_random_instants(sandbox: Sandbox, tmp_path: Path) -> None:
    """The relay is killed under load again and again. No event is lost, and only events in flight are repeated."""
    random, kills = chance("kill 9"), size(10, 100)
    env, fleet = settings(sandbox.url, tmp_path), Fleet(DEVICES)
    async with fleet.sending():
        for _ in range(kills):
            async with running(env) as relay:
                fleet.address = relay.http
                await asyncio.sleep(random.uniform(0, 0.6))
                assert balanced(await relay.status())
        relay = await start(env, fleet)
    await all_settled(relay, sandbox, fleet, repeats=kills * MAX_IN_FLIGHT)
    await relay.kill()
    assert len(fleet.stored) > kills


async def test_a_kill_does_not_reset_the_rate_window(sandbox: Sandbox, tmp_path: Path) -> None:
    """In a crash loop, each start knows the requests of the previous run (G5)."""
    sandbox.change(window_ms=60_000)
    env, fleet = settings(sandbox.url, tmp_path, batch__linger="0s", rate__window="60s"), Fleet(1)
    for goal in (PER_WINDOW // 3, PER_WINDOW // 2):
        async with running(env) as relay:
            fleet.address = relay.http
            async with fleet.sending():
                await relay.until(lambda _, goal=goal: sandbox.report().requests >= goal)
    # A relay without memory would send half of the window at once in each of these runs.
    for _ in range(2):
        async with running(env) as relay:
            fleet.address = relay.http
            async with fleet.sending():
                await relay.until(lambda status: any(device["why"] == "limit" for device in status["devices"]))
    report = sandbox.report()
    assert report.requests <= PER_WINDOW
    assert report.rate_limited == 0


@needs_cc
@pytest.mark.timeout(LONG_S)
async def test_a_kill_while_the_outbox_is_created(sandbox: Sandbox, tmp_path: Path) -> None:
    """The relay is killed during its first start, and the next start completes the file.

    The kill is before the first call that changes the disk, then before the second, and so on until the start succeeds.
    """
    fleet, at, started = Fleet(1), 1, False
    while not started:
        env = settings(sandbox.url, tmp_path / str(at))
        started = await starts_before_kill(Shim(tmp_path / "orders"), env, kill_at=at)
        await check_delivers_one(env, fleet)
        at += size(15, 1)
    assert at > 30
    assert len(sandbox.record.delivered()) == len(fleet.stored)


@needs_cc
@pytest.mark.timeout(LONG_S)
async def test_a_kill_during_a_migration(sandbox: Sandbox, tmp_path: Path) -> None:
    """The relay is killed while it migrates a file of the first schema. The next start delivers all its events."""
    at, started = 1, False
    while not started:
        env, fleet = settings(sandbox.url, tmp_path / str(at)), Fleet(1)
        older_file(Path(env["RELAY__OUTBOX__PATH"]), fleet, events=10)
        started = await starts_before_kill(Shim(tmp_path / "orders"), env, kill_at=at)
        async with running(env) as relay:
            await relay.until(lambda status: status["ledger"]["delivered"] == 10)
        check_promises(sandbox, fleet, repeats=at)
        at += size(6, 1)
    assert at > 6


@needs_cc
@pytest.mark.timeout(LONG_S)
async def test_a_kill_during_recovery_from_a_kill(sandbox: Sandbox, tmp_path: Path) -> None:
    """The relay is killed again while it recovers from a kill."""
    env, fleet, at, started = settings(sandbox.url, tmp_path / "state"), Fleet(5), 1, False
    relay = await start(env, fleet)
    async with fleet.sending():
        await fleet.until(stored=50)
        await relay.kill()
        while not started:
            started = await starts_before_kill(Shim(tmp_path / "orders"), env, kill_at=at)
            at += size(4, 1)
        relay = await start(env, fleet)
    await all_settled(relay, sandbox, fleet, repeats=at * MAX_IN_FLIGHT)
    await relay.kill()


async def start(env: dict[str, str], fleet: Fleet) -> RelayProcess:
    relay = await launch(env)
    fleet.address = relay.http = (await relay.logged("relay started"))["http"][0]
    return relay


async def starts_before_kill(shim: Shim, env: dict[str, str], kill_at: int) -> bool:
    """Start a relay that is killed at call `kill_at` that changes the disk. Return whether it started before that."""
    shim.kill_at(kill_at)
    relay = await launch(shim.around(env))
    with suppress(AssertionError):  # The relay ended before it logged the line.
        await relay.logged("relay started")
    await relay.kill()
    return any(line["message"] == "relay started" for line in relay.log)


async def check_delivers_one(env: dict[str, str], fleet: Fleet) -> None:
    """Check that a relay on the same outbox stores and delivers an event."""
    async with running(env) as relay:
        fleet.address = relay.http
        async with fleet.sending():
            await fleet.until(stored=1)
        status = await relay.until(lambda status: status["ledger"]["pending"] == 0)
        assert balanced(status)
        assert status["ledger"]["delivered"] == status["ledger"]["accepted"] > 0


def older_file(path: Path, fleet: Fleet, events: int) -> None:
    """Create an outbox of the first schema with events of one device."""
    path.parent.mkdir(mode=0o700)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA auto_vacuum=INCREMENTAL")
        database.execute("PRAGMA journal_mode=WAL").fetchall()
        migrate(database, MIGRATIONS[:1])
        database.execute(
            "INSERT INTO lanes(lane, tenant_id, platform, device_id, cursor) VALUES (1, '1', 'tv', ?, 0)",
            (fleet.devices[0],),
        )
        for seq in range(1, events + 1):
            body = fleet.offer(fleet.devices[0])
            event_id = uuid.UUID(json.loads(body)["event_id"]).bytes
            database.execute("INSERT INTO log VALUES (?, 1, ?, 0, ?, ?)", (seq, event_id, crc32(body), body))
            fleet.mark_stored(body)

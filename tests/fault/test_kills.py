"""The relay dies at any instant: the plug of the box is pulled, the kernel kills it for memory, a watchdog shoots."""

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
from tests.fault.apps import MAX_IN_FLIGHT, PER_WINDOW, Fleet, all_settled, balanced, held_to_promises, settings
from tests.fault.shim import Shim, needs_cc
from tests.fault.sizes import LONG_S, chance, size

DEVICES = 20


@pytest.mark.timeout(LONG_S)
async def test_kill_9_at_random_instants(sandbox: Sandbox, tmp_path: Path) -> None:
    """The out-of-memory killer, or a box switched off at the wall, under load, again and again."""
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
    assert len(fleet.kept) > kills


async def test_a_kill_does_not_free_the_window(sandbox: Sandbox, tmp_path: Path) -> None:
    """A crash loop of the box: each start knows of the requests of the one before (G5)."""
    sandbox.change(window_ms=60_000)
    env, fleet = settings(sandbox.url, tmp_path, batch__linger="0s", rate__window="60s"), Fleet(1)
    for goal in (PER_WINDOW // 3, PER_WINDOW // 2):
        async with running(env) as relay:
            fleet.address = relay.http
            async with fleet.sending():
                await relay.until(lambda _, goal=goal: sandbox.report().requests >= goal)
    async with running(env) as relay:
        fleet.address = relay.http
        async with fleet.sending():
            await relay.until(lambda status: any(device["why"] == "limit" for device in status["devices"]))
        report = sandbox.report()
        assert report.requests <= PER_WINDOW
        assert report.rate_limited == 0


@needs_cc
@pytest.mark.timeout(LONG_S)
async def test_killed_while_it_makes_its_file(sandbox: Sandbox, tmp_path: Path) -> None:
    """A box that loses power during its very first start, or while a new version migrates the file.

    Killed before the first call that changes the disk, then before the second, and so on until it lives:
    the next start finds what is half made, and makes it whole.
    """
    fleet, at, lived = Fleet(1), 1, False
    while not lived:
        env = settings(sandbox.url, tmp_path / str(at))
        lived = await lives_on(Shim(tmp_path / "orders"), env, kill_at=at)
        await one_more(env, fleet)
        at += size(15, 1)
    assert at > 30
    assert len(sandbox.record.delivered()) == len(fleet.kept)


@needs_cc
@pytest.mark.timeout(LONG_S)
async def test_killed_while_it_migrates_an_older_relays_file(sandbox: Sandbox, tmp_path: Path) -> None:
    """An update of the box, and the plug is pulled during its first start: what the old relay kept is all there."""
    at, lived = 1, False
    while not lived:
        env, fleet = settings(sandbox.url, tmp_path / str(at)), Fleet(1)
        older_file(Path(env["RELAY__OUTBOX__PATH"]), fleet, events=10)
        lived = await lives_on(Shim(tmp_path / "orders"), env, kill_at=at)
        async with running(env) as relay:
            await relay.until(lambda status: status["ledger"]["delivered"] == 10)
        held_to_promises(sandbox, fleet, repeats=at)
        at += size(6, 1)
    assert at > 6


@needs_cc
@pytest.mark.timeout(LONG_S)
async def test_killed_while_it_opens_what_a_kill_left(sandbox: Sandbox, tmp_path: Path) -> None:
    """A loose plug: power goes while the relay still recovers from the last time it went."""
    env, fleet, at, lived = settings(sandbox.url, tmp_path / "state"), Fleet(5), 1, False
    relay = await start(env, fleet)
    async with fleet.sending():
        await fleet.until(kept=50)
        await relay.kill()
        while not lived:
            lived = await lives_on(Shim(tmp_path / "orders"), env, kill_at=at)
            at += size(4, 1)
        relay = await start(env, fleet)
    await all_settled(relay, sandbox, fleet, repeats=at * MAX_IN_FLIGHT)
    await relay.kill()


async def start(env: dict[str, str], fleet: Fleet) -> RelayProcess:
    relay = await launch(env)
    fleet.address = relay.http = (await relay.logged("relay started"))["http"][0]
    return relay


async def lives_on(shim: Shim, env: dict[str, str], kill_at: int) -> bool:
    """Whether a start is over before so many calls have changed the disk; it is killed either way."""
    shim.kill_at(kill_at)
    relay = await launch(shim.around(env))
    with suppress(AssertionError):  # it ended without saying so
        await relay.logged("relay started")
    await relay.kill()
    return any(line["event"] == "relay started" for line in relay.log)


async def one_more(env: dict[str, str], fleet: Fleet) -> None:
    """The same relay, unharmed, takes and delivers an event."""
    async with running(env) as relay:
        fleet.address = relay.http
        async with fleet.sending():
            await fleet.until(kept=1)
        status = await relay.until(lambda status: status["ledger"]["pending"] == 0)
        assert balanced(status)
        assert status["ledger"]["delivered"] == status["ledger"]["accepted"] > 0


def older_file(path: Path, fleet: Fleet, events: int) -> None:
    """What the first relay there was left of a device's events."""
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
            fleet.keep(body)

"""Files of the outbox that are damaged, locked or gone: worn flash, a clean-up script, a copy that broke off."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import RelayProcess, running
from tests.fault.apps import (
    Fleet,
    all_settled,
    balanced,
    dead_ids,
    delivered,
    flush,
    held_to_promises,
    ready,
    settings,
    until_ready,
)
from tests.fault.sizes import LONG_S, chance, size

EVENTS = 60
TOLD = ("outbox set aside", "outbox ledger corrected")
Damage = Callable[[Path], None]


def wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def zero(path: Path, offset: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(length))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


async def filled(sandbox: Sandbox, env: dict[str, str], fleet: Fleet, *, clean: bool = False) -> Path:
    """An outbox that holds EVENTS events, left by a kill, or by a clean stop; the upstream is away meanwhile."""
    sandbox.faults.add(Misbehaviour(answer=503))
    path = Path(env["RELAY__OUTBOX__PATH"])
    async with running(env) as relay:
        fleet.address = relay.http
        await fleet.send(EVENTS // 3)
        if clean:
            relay.process.terminate()
            await relay.ended()
    sandbox.faults.heal()
    return path


async def goes_on(relay: RelayProcess, fleet: Fleet) -> None:
    """It is ready, takes events and sends them; the ledger balances."""
    fleet.address = relay.http
    await until_ready(relay)
    before = (await relay.status())["ledger"]["delivered"]
    # what is broken may show with the first write only, which is refused then
    await fleet.send(1, patient=True)
    status = await relay.until(lambda status: status["ledger"]["pending"] == 0)
    assert balanced(status)
    assert status["ledger"]["delivered"] > before


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: zero(path, 0, 100), id="header-zeroed"),
        pytest.param(lambda path: zero(path, 0, path.stat().st_size), id="all-zeroed"),
        pytest.param(cut, id="half"),
        pytest.param(lambda path: path.write_bytes(os.urandom(20_000)), id="garbage"),
        pytest.param(lambda path: os.truncate(path, 0), id="empty"),
        pytest.param(lambda path: path.unlink(), id="gone"),
    ],
)
async def test_a_database_that_is_broken_at_the_start(sandbox: Sandbox, tmp_path: Path, damage: Damage) -> None:
    """A flash chip that forgot, a copy that broke off: it starts, with what can be read; the old file is kept."""
    env, fleet = settings(sandbox.url, tmp_path / "state"), Fleet(3)
    path = await filled(sandbox, env, fleet, clean=True)
    before = path.read_bytes()
    damage(path)
    damaged = path.read_bytes() if path.exists() else b""
    async with running(env) as relay:
        await goes_on(relay, fleet)
        unaltered(sandbox, fleet)
        if damaged and damaged != before:
            assert (path.parent / f"{path.name}.broken-1").exists()
            assert await relay.logged("outbox set aside")


@pytest.mark.parametrize("damage", [pytest.param(cut, id="cut"), pytest.param(Path.unlink, id="gone")])
async def test_a_log_of_the_last_moments_that_is_not_whole(sandbox: Sandbox, tmp_path: Path, damage: Damage) -> None:
    """The -wal is lost between a kill and the start: SQLite cannot tell, the last moments are gone, it goes on."""
    env, fleet = settings(sandbox.url, tmp_path / "state"), Fleet(3)
    damage(wal(await filled(sandbox, env, fleet)))
    async with running(env) as relay:
        await goes_on(relay, fleet)
        unaltered(sandbox, fleet)


@pytest.mark.timeout(LONG_S)
async def test_bits_flipped_by_the_disk_are_never_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    """Worn flash: bits of the files change between two starts. What was changed is told of, never delivered (G8)."""
    random = chance("bits")
    env = settings(sandbox.url, tmp_path / "state")
    fleet = Fleet(3)
    dead_lettered_rows: set[str] = set()
    for _ in range(size(4, 150)):
        clean = random.random() < 0.5
        path = await filled(sandbox, env, fleet, clean=clean)
        for name in (path, wal(path)):
            if name.exists() and name.stat().st_size:
                flip(name, random.randrange(name.stat().st_size * 8))
        async with running(env) as relay:
            await goes_on(relay, fleet)
            dead_lettered_rows.update(await dead_ids(relay))
            got = delivered(sandbox)
            missing = [id_ for id_ in fleet.kept if id_ not in got and id_ not in dead_lettered_rows]
            status = await relay.status()
            relay.process.terminate()
            await relay.ended()
        unaltered(sandbox, fleet)
        assert balanced(status)
        # a dead letter was told of, whatever the disk does to it afterwards;
        # without a clean end the last moments are in the -wal, and what SQLite leaves out of one it tells nobody
        assert not (missing and clean) or any(line["event"] in TOLD for line in relay.log), missing
        for id_ in missing:
            fleet.kept.remove(id_)
    assert len(sandbox.record.delivered()) > EVENTS


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


async def test_a_database_locked_by_somebody_else(sandbox: Sandbox, tmp_path: Path) -> None:
    """A technician's sqlite3 shell holds the file while the box boots: not ready, 503, and ready when it lets go."""
    env, fleet = settings(sandbox.url, tmp_path / "state"), Fleet(3)
    path = await filled(sandbox, env, fleet, clean=True)
    shell = sqlite3.connect(path, isolation_level=None)
    shell.execute("PRAGMA locking_mode=EXCLUSIVE")
    shell.execute("BEGIN IMMEDIATE")
    shell.execute("UPDATE ledger SET clean = clean")
    async with running(env) as relay:
        fleet.address = relay.http
        assert not await ready(relay)
        assert await fleet.post_one() == 503
        shell.execute("ROLLBACK")
        shell.close()
        await goes_on(relay, fleet)
        await all_settled(relay, sandbox, fleet)


async def test_nobody_else_writes_while_it_runs(sandbox: Sandbox, tmp_path: Path) -> None:
    """The same shell comes later: it is refused, and the relay does not notice."""
    env, fleet = settings(sandbox.url, tmp_path / "state"), Fleet(3)
    async with running(env) as relay:
        fleet.address = relay.http
        await fleet.send(2)
        shell = sqlite3.connect(tmp_path / "state" / "outbox.db", timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            shell.execute("DELETE FROM log")
        shell.close()
        await fleet.send(2)
        await all_settled(relay, sandbox, fleet)


@pytest.mark.parametrize("names", [("outbox.db",), ("outbox.db-wal",), ("outbox.db", "outbox.db-wal")], ids=str)
async def test_files_deleted_under_the_running_relay(sandbox: Sandbox, tmp_path: Path, names: tuple[str, ...]) -> None:
    """A clean-up script takes them: it notices, writes them anew from what it still holds open, and loses nothing."""
    env, fleet = settings(sandbox.url, tmp_path / "state"), Fleet(3)
    sandbox.faults.add(Misbehaviour(answer=503))
    async with running(env) as relay:
        fleet.address = relay.http
        async with fleet.sending():
            await fleet.until(kept=20)
            for name in names:
                (tmp_path / "state" / name).unlink()
            await relay.logged("outbox files were deleted and have been written again")
            await until_ready(relay)
            await fleet.until(kept=20)
    sandbox.faults.heal()
    async with running(env) as relay:
        await all_settled(relay, sandbox, fleet, repeats=8)


async def test_a_directory_deleted_under_the_running_relay(sandbox: Sandbox, tmp_path: Path) -> None:
    """All of it is gone, and there is nowhere to write: it must say so, and give no 202 that nothing stands behind."""
    env, fleet = settings(sandbox.url, tmp_path / "state"), Fleet(3)
    async with running(env) as relay:
        fleet.address = relay.http
        await fleet.send(5)
        shutil.rmtree(tmp_path / "state")
        await until_ready(relay, False)
        assert await fleet.post_one() == 503
        assert (await relay.status())["outbox"]["problem"]
        assert (await relay.request("GET", "/livez"))[0] == 200


async def test_another_file_put_in_its_place(sandbox: Sandbox, tmp_path: Path) -> None:
    """A restore from a backup while it runs: nothing is written to either file behind the other's back."""
    env, fleet = settings(sandbox.url, tmp_path / "state"), Fleet(3)
    path = tmp_path / "state" / "outbox.db"
    async with running(env) as relay:
        fleet.address = relay.http
        await fleet.send(5)
        shutil.copy(path, path.with_name("backup"))
        path.with_name("backup").rename(path)
        await until_ready(relay, False)
        assert await fleet.post_one() == 503
        await flush(relay)
        assert "replaced" in (await relay.status())["outbox"]["problem"]


def unaltered(sandbox: Sandbox, fleet: Fleet) -> None:
    """G8, and G4, of what was delivered; what the disk lost is not asked for."""
    held_to_promises(sandbox, fleet, dead=set(fleet.kept), repeats=1_000)

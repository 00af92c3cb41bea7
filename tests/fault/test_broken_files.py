"""Damaged, locked, deleted and replaced files of the outbox: worn flash, clean-up scripts, interrupted copies."""

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
    check_promises,
    dead_ids,
    delivered,
    flush,
    ready,
    settings,
    until_ready,
)
from tests.fault.sizes import LONG_S, chance, size

EVENTS = 60
REPORTED = ("outbox set aside", "outbox ledger corrected")
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
    """Return the path of an outbox with EVENTS events, left by a kill or a clean stop. The upstream responds 503."""
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


async def check_works(relay: RelayProcess, fleet: Fleet) -> None:
    """Check that the relay is ready, stores an event and delivers all, and that the ledger balances."""
    fleet.address = relay.http
    await until_ready(relay)
    before = (await relay.status())["ledger"]["delivered"]
    # Only the first write may find the damage; the relay rejects that event.
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
async def test_a_database_that_is_damaged_at_the_start(sandbox: Sandbox, tmp_path: Path, damage: Damage) -> None:
    """The relay starts with the events that it can read, and quarantines the old file."""
    env, fleet = settings(sandbox.url, tmp_path / "state"), Fleet(3)
    path = await filled(sandbox, env, fleet, clean=True)
    before = path.read_bytes()
    damage(path)
    damaged = path.read_bytes() if path.exists() else b""
    async with running(env) as relay:
        await check_works(relay, fleet)
        check_unaltered(sandbox, fleet)
        if damaged and damaged != before:
            assert (path.parent / f"{path.name}.broken-1").exists()
            assert await relay.logged("outbox set aside")


@pytest.mark.parametrize("damage", [pytest.param(cut, id="cut"), pytest.param(Path.unlink, id="gone")])
async def test_an_incomplete_wal(sandbox: Sandbox, tmp_path: Path, damage: Damage) -> None:
    """SQLite cannot detect a lost -wal file: the relay starts without the last events, and works."""
    env, fleet = settings(sandbox.url, tmp_path / "state"), Fleet(3)
    damage(wal(await filled(sandbox, env, fleet)))
    async with running(env) as relay:
        await check_works(relay, fleet)
        check_unaltered(sandbox, fleet)


@pytest.mark.timeout(LONG_S)
async def test_flipped_bits_are_never_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    """Bits of the files change between two starts. The relay reports a changed event and never delivers it (G8)."""
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
            await check_works(relay, fleet)
            dead_lettered_rows.update(await dead_ids(relay))
            got = delivered(sandbox)
            missing = [id_ for id_ in fleet.stored if id_ not in got and id_ not in dead_lettered_rows]
            status = await relay.status()
            relay.process.terminate()
            await relay.ended()
        check_unaltered(sandbox, fleet)
        assert balanced(status)
        # A dead letter was reported, also if the disk loses it later. After a kill, the last events are in the -wal,
        # and SQLite ignores damaged frames of a -wal without a report.
        assert not (missing and clean) or any(line["message"] in REPORTED for line in relay.log), missing
        for id_ in missing:
            fleet.stored.remove(id_)
    assert len(sandbox.record.delivered()) > EVENTS


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


async def test_a_database_locked_by_another_process(sandbox: Sandbox, tmp_path: Path) -> None:
    """A sqlite3 shell locks the file while the relay starts: the relay is not ready until the shell closes."""
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
        await check_works(relay, fleet)
        await all_settled(relay, sandbox, fleet)


async def test_no_other_process_can_write_while_the_relay_runs(sandbox: Sandbox, tmp_path: Path) -> None:
    """SQLite rejects the write of a sqlite3 shell, and the relay is not affected."""
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
    """The relay notices the deletion, writes the files again from its open descriptors, and loses nothing."""
    env, fleet = settings(sandbox.url, tmp_path / "state"), Fleet(3)
    sandbox.faults.add(Misbehaviour(answer=503))
    async with running(env) as relay:
        fleet.address = relay.http
        async with fleet.sending():
            await fleet.until(stored=20)
            for name in names:
                (tmp_path / "state" / name).unlink()
            await relay.logged("outbox files were deleted and have been written again")
            await until_ready(relay)
            await fleet.until(stored=20)
    sandbox.faults.heal()
    async with running(env) as relay:
        await all_settled(relay, sandbox, fleet, repeats=8)


async def test_a_directory_deleted_under_the_running_relay(sandbox: Sandbox, tmp_path: Path) -> None:
    """The relay cannot write any more: it reports the problem and responds 503."""
    env, fleet = settings(sandbox.url, tmp_path / "state"), Fleet(3)
    async with running(env) as relay:
        fleet.address = relay.http
        await fleet.send(5)
        shutil.rmtree(tmp_path / "state")
        await until_ready(relay, False)
        assert await fleet.post_one() == 503
        assert (await relay.status())["outbox"]["problem"]
        assert (await relay.request("GET", "/livez"))[0] == 200


async def test_a_replaced_database_file(sandbox: Sandbox, tmp_path: Path) -> None:
    """A backup is restored while the relay runs: the relay stops writing and reports the replaced file."""
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


def check_unaltered(sandbox: Sandbox, fleet: Fleet) -> None:
    """Check G4 and G8 for the delivered events. Events that the disk lost are not missed."""
    check_promises(sandbox, fleet, dead=set(fleet.stored), repeats=1_000)

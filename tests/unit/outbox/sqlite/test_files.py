"""The files of the outbox: lock, type, owner and mode."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from contextlib import closing
from pathlib import Path

import pytest
from relay.outbox import OutboxLocked, OutboxUnusable
from relay.outbox.sqlite import connection

from tests.contract.boxes import SqliteBox, bodies, close
from tests.unit.outbox.sqlite.conftest import MakeBox


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_second_relay_is_rejected_without_effect_on_the_first(box: SqliteBox) -> None:
    await box.append([1])
    with pytest.raises(OutboxLocked, match=str(box.path)):
        await box.make().open()
    await box.append([2])
    assert await box.deliver(10) == bodies([1, 2])


async def test_close_releases_the_lock(box: SqliteBox) -> None:
    await box.outbox.close()
    again = box.make()
    await again.open()
    await again.close()


async def test_created_files_are_private(make_box: MakeBox, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        box = make_box(path=tmp_path / "made" / "deep" / "outbox.db")
        await box.start()
        await box.append([1])
        files = {each.name: mode(each) for each in box.path.parent.iterdir()}
        assert files == {"outbox.db": 0o600, "outbox.db-wal": 0o600, "outbox.db.lock": 0o600}
        assert mode(tmp_path / "made") == mode(tmp_path / "made" / "deep") == 0o700
    finally:
        os.umask(old)


async def test_readable_file_is_made_private(box: SqliteBox) -> None:
    await box.outbox.close()
    box.path.chmod(0o644)
    box.outbox = box.make()
    await box.start()
    assert mode(box.path) == 0o600


def test_sqlite_empties_the_cache_of_the_drive_on_macos(tmp_path: Path) -> None:
    """https://www.sqlite.org/pragma.html#pragma_fullfsync: without effect on other systems."""
    with closing(connection.connect(tmp_path / "other.db")) as database:
        connection.configure(database, "full", 1 << 20, 1 << 16)
        assert database.execute("PRAGMA fullfsync").fetchone() == (1,)


@pytest.mark.parametrize("suffix", ["", "-wal", ".lock"])
async def test_symbolic_link_is_rejected(make_box: MakeBox, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    box = make_box(path=tmp_path / "outbox.db")
    box.path.with_name(box.path.name + suffix).symlink_to(target)
    with pytest.raises(OutboxUnusable):
        await box.outbox.open()
    assert target.read_bytes() == b"precious"


class TestLogOfAnotherUser:
    """SQLite applies a -wal or a hot -journal to the database, so a user who can write one can change the outbox."""

    @pytest.fixture
    async def box(self, box: SqliteBox) -> SqliteBox:
        """Return a killed outbox with its last events in the -wal."""
        await box.append([1])
        return await box.kill()

    @pytest.mark.parametrize("suffix", ["-wal", "-journal"])
    @pytest.mark.parametrize("mode", [0o666, 0o602])
    async def test_world_writable_log_is_rejected(self, box: SqliteBox, suffix: str, mode: int) -> None:
        log = box.path.with_name(box.path.name + suffix)
        log.touch()
        log.chmod(mode)
        with pytest.raises(OutboxUnusable, match=f"mode {mode:o}.*set its mode to 600"):
            await box.outbox.open()
        log.chmod(0o600)
        await box.start()
        assert await box.deliver_all() == bodies([1])
        await close(box)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    async def test_log_of_another_owner_is_rejected(self, box: SqliteBox) -> None:
        log = box.path.with_name(box.path.name + "-wal")
        os.chown(log, 65_533, 65_533)
        with pytest.raises(OutboxUnusable, match="belongs to user 65533, the outbox to user 0: change its owner"):
            await box.outbox.open()
        os.chown(box.path, 65_533, 65_533)
        await box.start()
        assert await box.deliver_all() == bodies([1])
        await close(box)

    async def test_a_file_system_without_modes_is_used(self, box: SqliteBox) -> None:
        """On vfat with umask=000 every file is world-writable, and so is the relay's lock file."""
        for suffix in ("", "-wal", ".lock"):
            file = box.path.with_name(box.path.name + suffix)
            file.touch()
            file.chmod(0o777)
        await box.start()
        assert await box.deliver_all() == bodies([1])
        await close(box)

    async def test_world_writable_database_does_not_prevent_the_next_start(self, box: SqliteBox) -> None:
        """SQLite gives the -wal the mode of the database, before the relay makes both private."""
        box.path.with_name(box.path.name + "-wal").unlink()
        box.path.chmod(0o666)
        await box.start()
        assert mode(box.path) == mode(box.path.with_name(box.path.name + "-wal")) == 0o600
        await close(box)


async def test_another_program_cannot_open_an_existing_outbox(box: SqliteBox) -> None:
    """The program would checkpoint the -wal and delete it while the relay runs."""
    for _ in range(2):
        code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT count(*) FROM log')"
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(box.path), stderr=asyncio.subprocess.PIPE
        )
        assert b"database is locked" in (await other.communicate())[1]
        await box.restart()


async def test_directory_as_path_is_rejected(make_box: MakeBox, tmp_path: Path) -> None:
    box = make_box(path=tmp_path / "outbox.db")
    box.path.mkdir()
    with pytest.raises(OutboxUnusable, match="no regular file"):
        await box.outbox.open()


async def test_path_that_cannot_be_created_is_rejected_with_the_reason(make_box: MakeBox, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutboxUnusable, match="file"):
        await make_box(path=tmp_path / "file" / "outbox.db").outbox.open()


async def test_rejected_outbox_opens_after_the_cause_is_removed(make_box: MakeBox, tmp_path: Path) -> None:
    box = make_box(path=tmp_path / "outbox.db")
    box.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutboxUnusable):
        await box.outbox.open()
    box.path.unlink()
    await box.start()
    assert await box.append([1]) == 0

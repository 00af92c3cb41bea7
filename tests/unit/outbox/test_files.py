"""Who may hold the outbox's files, and what they may be."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from pathlib import Path

import pytest
from relay.outbox import OutboxLocked, OutboxRefused

from tests.contract.boxes import SqliteBox, bodies
from tests.unit.outbox.conftest import MakeBox


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_second_relay_is_refused_and_the_first_unharmed(box: SqliteBox) -> None:
    await box.append([1])
    with pytest.raises(OutboxLocked, match=str(box.path)):
        await box.make().open()
    await box.append([2])
    assert await box.deliver(10) == bodies([1, 2])


async def test_the_lock_is_free_again_after_close(box: SqliteBox) -> None:
    await box.outbox.close()
    again = box.make()
    await again.open()
    await again.close()


async def test_everything_it_makes_is_private(make_box: MakeBox, tmp_path: Path) -> None:
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


async def test_a_file_that_others_could_read_is_made_private(box: SqliteBox) -> None:
    await box.outbox.close()
    box.path.chmod(0o644)
    box.outbox = box.make()
    await box.start()
    assert mode(box.path) == 0o600


@pytest.mark.parametrize("suffix", ["", "-wal", ".lock"])
async def test_a_symbolic_link_in_place_of_a_file_is_refused(make_box: MakeBox, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    box = make_box(path=tmp_path / "outbox.db")
    box.path.with_name(box.path.name + suffix).symlink_to(target)
    with pytest.raises(OutboxRefused):
        await box.outbox.open()
    assert target.read_bytes() == b"precious"


async def test_another_program_is_kept_out_of_an_outbox_that_existed(box: SqliteBox) -> None:
    """It would copy the -wal back and delete it under the running relay."""
    for _ in range(2):
        code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT count(*) FROM log')"
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(box.path), stderr=asyncio.subprocess.PIPE
        )
        assert b"database is locked" in (await other.communicate())[1]
        await box.restart()


async def test_a_directory_in_place_of_the_file_is_refused(make_box: MakeBox, tmp_path: Path) -> None:
    box = make_box(path=tmp_path / "outbox.db")
    box.path.mkdir()
    with pytest.raises(OutboxRefused, match="no regular file"):
        await box.outbox.open()


async def test_a_path_that_cannot_be_made_is_refused_with_its_reason(make_box: MakeBox, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutboxRefused, match="file"):
        await make_box(path=tmp_path / "file" / "outbox.db").outbox.open()


async def test_a_refused_outbox_can_be_opened_once_the_reason_is_gone(make_box: MakeBox, tmp_path: Path) -> None:
    box = make_box(path=tmp_path / "outbox.db")
    box.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutboxRefused):
        await box.outbox.open()
    box.path.unlink()
    await box.start()
    assert await box.append([1]) == 0

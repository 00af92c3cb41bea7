"""The log's file is extended before a commit, so that no 202 depends on a new file size."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from relay.outbox import OutboxUnavailable
from relay.outbox.sqlite import connection
from relay.outbox.sqlite.connection import Executed, Step, configure, connect
from relay.outbox.sqlite.wal import Wal

from tests.contract.boxes import TV, SqliteBox, bodies
from tests.unit.outbox.sqlite.conftest import MakeBox

KIB, MIB = 1 << 10, 1 << 20
STEP = 256 * KIB
USUAL = 4 * MIB


def log(box: SqliteBox) -> Path:
    return box.path.with_name("outbox.db-wal")


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return the sizes of the log's file before and after each commit."""
    found: list[tuple[int, int]] = []
    commit = connection.commit

    def watched(database: sqlite3.Connection, steps: Sequence[Step]) -> Executed:
        path = Path(database.execute("PRAGMA database_list").fetchone()[2] + "-wal")
        before = path.stat().st_size
        committed = commit(database, steps)
        found.append((before, path.stat().st_size))
        return committed

    monkeypatch.setattr(connection, "commit", watched)
    return found


def changed(sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [each for each in sizes if each[0] != each[1]]


async def test_no_commit_changes_the_size_of_the_log(make_box: MakeBox, sizes: list[tuple[int, int]]) -> None:
    """Single events, batches, journal entries, settlements and deletes, until the log has restarted several times."""
    box = make_box()
    await box.start()
    sizes.clear()  # written by opening, before any 202
    for base in range(0, 6_000, 300):
        await box.append([100_000 + base])
        await box.append(range(base, base + 299), body_bytes=2_000)
        await box.deliver(200)
    await box.deliver_all()
    assert len(sizes) > 60
    assert changed(sizes) == []
    assert log(box).stat().st_size == USUAL
    assert box.outbox.gauges().bytes >= box.path.stat().st_size + USUAL


async def test_append_larger_than_the_log_is_reserved_and_truncated_later(
    make_box: MakeBox, sizes: list[tuple[int, int]]
) -> None:
    box = make_box(max_size_bytes=64 * MIB)
    await box.start()
    sizes.clear()
    await box.append(range(120), body_bytes=60_000)
    assert all(before > USUAL and before >= after for before, after in sizes), sizes
    await box.deliver_all()
    for number in range(200, 240):
        await box.append([number], body_bytes=60_000)
    assert log(box).stat().st_size == USUAL
    box.check()


async def test_few_events_reserve_little(box: SqliteBox) -> None:
    await box.append([1])
    await box.deliver(1)
    assert log(box).stat().st_size == STEP


async def test_log_is_reused_after_a_kill(make_box: MakeBox, sizes: list[tuple[int, int]]) -> None:
    """Boxes lose power each evening. The relay writes the zeros once, not at each start."""
    box = make_box()
    await box.start()
    for base in range(0, 3_000, 100):
        await box.append(range(base, base + 100), body_bytes=4_000)
    size = log(box).stat().st_size
    assert USUAL // 2 < size <= USUAL
    after = await box.restart_after_kill()
    assert log(after).stat().st_size == size
    written = after.metrics.outbox_written_bytes._value.get()
    sizes.clear()
    await after.append([9_999])
    await after.outbox.check()
    assert after.metrics.outbox_written_bytes._value.get() - written < STEP, "frames of the run before are not counted"
    assert changed(sizes) == []
    again = await after.restart_after_kill()
    assert await again.deliver_all() == bodies(range(3_000), TV, 4_000) + bodies([9_999])
    again.check()
    for each in (after, again):
        await each.outbox.close()


async def test_durability_normal_reserves_nothing(make_box: MakeBox) -> None:
    box = make_box(durability="normal")
    await box.start()
    await box.append([1])
    assert log(box).stat().st_size < STEP


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
async def test_nearly_full_disk_stores_small_commits(
    box: SqliteBox, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The relay removes the incomplete reservation. The commit itself needs less space."""
    pwrite, tried = os.pwrite, []

    def full(fd: int, data: bytes, offset: int) -> int:
        tried.append(offset)
        if len(tried) == 2:
            raise OSError(number, os.strerror(number))
        return pwrite(fd, data[:1_000], offset)

    monkeypatch.setattr(os, "pwrite", full)
    assert await box.append([1]) == 0
    assert log(box).stat().st_size < STEP
    for other in range(2, 40):
        assert await box.append([other]) == 0
    assert len(tried) == 2, "it is not tried with each commit"


async def test_failed_reservation_fails_the_commit(box: SqliteBox, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(OutboxUnavailable, match="the disk fails"):
        await box.append([1])


class TestWalFile:
    @pytest.fixture
    def database(self, tmp_path: Path) -> sqlite3.Connection:
        database = connect(tmp_path / "x.db")
        configure(database, "full", 1 << 30, USUAL)
        database.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
        return database

    def test_sqlite_ignores_zeros_after_the_frames(self, database: sqlite3.Connection, tmp_path: Path) -> None:
        """A kill may leave new frames, old frames and zeros."""
        wal = Wal(tmp_path / "x.db-wal")
        for rows in (200, 3):
            database.executemany("INSERT INTO t(b) VALUES (?)", [(bytes(400),)] * rows)
            wal.reserve(2 * MIB, USUAL)
            assert (tmp_path / "x.db-wal").stat().st_size == 2 * MIB
            killed = tmp_path / f"killed-{rows}.db"
            for suffix in ("", "-wal"):
                shutil.copy(tmp_path / f"x.db{suffix}", f"{killed}{suffix}")
            found = sqlite3.connect(killed)
            assert found.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert found.execute("SELECT * FROM t").fetchall() == database.execute("SELECT * FROM t").fetchall()
            found.close()
            database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        database.close()
        wal.close()

    def test_file_of_zeros_is_an_empty_log(self, database: sqlite3.Connection, tmp_path: Path) -> None:
        """For SQLite and for `Wal`, although the salts of a header of zeros match any zeros."""
        database.execute("INSERT INTO t(b) VALUES (1)")
        database.close()
        (tmp_path / "x.db-wal").write_bytes(bytes(MIB))
        wal = Wal(tmp_path / "x.db-wal")
        assert wal.grown() == 0
        again = connect(tmp_path / "x.db")
        configure(again, "full", 1 << 30, USUAL)
        assert again.execute("SELECT count(*) FROM t").fetchone() == (1,)
        again.execute("INSERT INTO t(b) VALUES (2)")
        assert (tmp_path / "x.db-wal").stat().st_size == MIB
        assert wal.grown() > 0
        again.close()
        wal.close()

    def test_file_grows_in_steps_to_the_bound_and_beyond_only_as_needed(self, tmp_path: Path) -> None:
        (tmp_path / "y.db-wal").touch()
        wal = Wal(tmp_path / "y.db-wal")
        assert wal.reserve(1, USUAL) == STEP
        assert wal.reserve(STEP, USUAL) == 0
        assert wal.reserve(STEP + 1, USUAL) == STEP
        assert wal.reserve(USUAL - 1, USUAL) == USUAL - 2 * STEP
        assert wal.reserve(USUAL + 5, USUAL) == 5
        assert wal.reserve(100, 100) == 0
        assert (tmp_path / "y.db-wal").read_bytes() == bytes(USUAL + 5)
        wal.close()

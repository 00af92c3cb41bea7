"""The size of the write-ahead log, compared with SQLite's report."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from relay.outbox.sqlite.connection import configure, connect
from relay.outbox.sqlite.wal import Wal


@pytest.fixture
def database(tmp_path: Path) -> sqlite3.Connection:
    database = connect(tmp_path / "x.db")
    configure(database, "full", 1 << 30, 4 << 20)
    database.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
    return database


def test_frames_and_pages_are_counted_since_the_restart_of_the_log(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    wal = Wal(tmp_path / "x.db-wal")
    for rows in (1, 300, 2, 40):
        grown = 0
        for _ in range(3):
            database.executemany("INSERT INTO t(b) VALUES (?)", [(bytes(400),)] * rows)
            grown += wal.grown()
        assert grown == wal.frames
        pages = wal.distinct_pages()
        busy, log, copied = database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        assert (busy, log, copied) == (0, wal.frames, wal.frames)
        assert 0 < pages <= wal.frames
    database.close()
    wal.close()


def test_empty_log_has_no_frames(tmp_path: Path) -> None:
    (tmp_path / "y.db-wal").touch()
    wal = Wal(tmp_path / "y.db-wal")
    assert (wal.grown(), wal.distinct_pages(), wal.frames) == (0, 0, 0)
    wal.close()

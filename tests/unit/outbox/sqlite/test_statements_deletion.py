"""Deletion of the oldest rows: it writes hardly any page, and the rows that stay do not count."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from relay.outbox.engine.commands import Deleted, DeleteSettled, DeletionKind, InsertEvents, SeqRange
from relay.outbox.sqlite import files
from relay.outbox.sqlite.connection import Database, commit, configure, connect
from relay.outbox.sqlite.schema import migrate
from relay.outbox.sqlite.statements import delete_settled, insertion
from relay.outbox.sqlite.wal import Wal

from tests.contract.boxes import SqliteBox, close

ROWS = 2_000


def filled(path: Path, body_bytes: int) -> Database:
    """Return an outbox with ROWS rows, appended in commits of 50."""
    files.create(path)
    database = connect(path)
    configure(database, "normal", 1 << 30, 4 << 20)
    migrate(database)
    for first in range(1, ROWS + 1, 50):
        values = ([7] * 50, [bytes(16)] * 50, [1] * 50, [0] * 50, [bytes(body_bytes)] * 50, [body_bytes] * 50)
        commit(database, [insertion(InsertEvents(first, 1, *values))])
    return database


def delete(database: Database, first: int, last: int, kind: DeletionKind = "front") -> Deleted:
    command = DeleteSettled(SeqRange(first, last, first, b"", b"", b"", 0), kind, 0)
    deleted: Deleted = commit(database, [lambda each: delete_settled(each, command)]).results[0]
    return deleted


@pytest.mark.parametrize("body_bytes", [150, 300, 400, 450, 600, 900, 1_500, 2_500])
def test_pages_of_the_oldest_rows_are_not_written(body_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    wal = Wal(files.beside(path, "-wal"))
    with closing(filled(path, body_bytes)) as database:
        wal.grown()
        for first in (1, 601, 1_201):
            free = database.execute("PRAGMA freelist_count").fetchone()[0]
            assert delete(database, first, first + 599).rows == 600
            freed = database.execute("PRAGMA freelist_count").fetchone()[0] - free
            assert (freed > 20, wal.grown() <= 12) == (True, True)
    wal.close()


def test_rows_of_the_stub_count_once(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "outbox.db", 400)) as database:
        assert delete(database, 1, 600) == Deleted(600, 601, ROWS)
        assert delete(database, 601, 700) == Deleted(100, 701, ROWS)
        assert database.execute("SELECT count(*), max(seq) FROM log WHERE seq <= 700").fetchone() == (4, 4)
        assert delete(database, 1, 600) == Deleted(4, 701, ROWS), "a restart has counted it"
        assert delete(database, 701, ROWS) == Deleted(ROWS - 700, None, 4)


async def test_stub_is_deleted_with_the_last_rows_and_its_events_stay_known(box: SqliteBox) -> None:
    await box.append(range(100), body_bytes=400)
    for base in range(100, 6_000, 500):
        await box.append(range(base, base + 500), body_bytes=400)
        await box.deliver(500)
    assert await rows(box) == (4, box.outbox._owner.known.log.rows)
    restarted = await box.restart_after_kill()
    restarted.check()
    assert await restarted.append(range(2), body_bytes=400) == 2, "the events of the stub are duplicates"
    await restarted.append(range(10_000, 10_500), body_bytes=400)
    await restarted.deliver_all()
    log = restarted.outbox._owner.known.log
    while log.rows:
        await asyncio.sleep(0.005)
    assert await rows(restarted) == (0, 0)
    restarted.check()
    await close(restarted)


async def rows(box: SqliteBox) -> tuple[int, int]:
    """Return the number of rows of the stub, and of the rows that the engine counts."""
    owner = box.outbox._owner
    return await owner.storage.run(counted, owner.known.log.first_row)


def counted(database: sqlite3.Connection, first_row: int) -> tuple[int, int]:
    found: tuple[int, int] = database.execute(
        "SELECT count(*) FILTER (WHERE seq < ?1), count(*) FILTER (WHERE seq >= ?1) FROM log", (first_row,)
    ).fetchone()
    return found

"""Migrations: from each older version, resumed after a kill, and rejected from a newer version."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from zlib import crc32

import pytest
from relay.outbox import ClaimPart, OutboxUnusable, Selection
from relay.outbox.sqlite.connection import PAGE_BYTES
from relay.outbox.sqlite.schema import MIGRATIONS, migrate

from tests.contract.boxes import PHONE, TV, SqliteBox, bodies, events
from tests.unit.outbox.sqlite.conftest import MakeBox

ADD_COLUMN = ("ALTER TABLE device_queues ADD COLUMN note TEXT",)
FAIL_HALF_WAY = (*ADD_COLUMN, "SELECT missing FROM device_queues")


def version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


LAST_WITH_OLD_NAMES = 4


def write_older_file(path: Path, schema_version: int) -> None:
    """Write an outbox of an older version.

    The TV has ten events: 0 and 1 are delivered (1 is no longer in the log), 2 is a dead letter, the rest is pending.
    """
    path.parent.mkdir(mode=0o700)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA auto_vacuum=INCREMENTAL")
    database.execute("PRAGMA journal_mode=WAL").fetchall()
    migrate(database, MIGRATIONS[: min(schema_version, LAST_WITH_OLD_NAMES)])
    database.execute(
        "INSERT INTO lanes(lane, tenant_id, platform, device_id, cursor, delivered, window, boot, request, ordinal,"
        " first_seq, last_seq) VALUES (5, ?, ?, ?, 3, 2, x'77', 1, 1, 0, 4, 5)",
        (str(TV[0]), *TV[1:]),
    )
    rows = [
        (seq, 5, event.event_id, 0, crc32(event.body), event.body)
        for seq, event in enumerate(events(range(10), TV), start=1)
    ]
    database.executemany(
        "INSERT INTO log(seq, lane, event_id, at_ms, crc, body) VALUES (?, ?, ?, ?, ?, ?)", [rows[0], *rows[3:]]
    )
    database.execute("INSERT INTO recent(first_seq, last_seq, ids, marks) VALUES (2, 2, ?, x'00')", (rows[1][2],))
    dead = rows[2]
    database.execute(
        "INSERT INTO dead_letters(seq, event_id, tenant_id, platform, device_id, reason, status, words, dead_at_ms,"
        " crc, body) VALUES (3, ?, ?, ?, ?, 'refused', 400, 'no such type', 0, ?, ?)",
        (dead[2], str(TV[0]), *TV[1:], dead[4], dead[5]),
    )
    database.execute(
        "UPDATE ledger SET last_seq = 3, next_lane = 9, dead_lettered = 1, dead_letters = 1, dead_letter_bytes = ?",
        (len(dead[5]),),
    )
    migrate(database, MIGRATIONS[:schema_version])
    database.close()


async def check_older_file(box: SqliteBox) -> None:
    """Check that the outbox has everything that `write_older_file` wrote."""
    await box.start()
    box.check()
    ledger = box.outbox.ledger()
    assert ledger == (10, 0, 2, 1, 0, 7)
    (queue,) = box.loaded.queues
    assert (queue.queue_id, queue.key, queue.window) == (5, TV, b"w")
    assert box.loaded.unsettled == [[ClaimPart(5, 2)]]
    (letter,) = await box.outbox.dead_letters(Selection(all=True), 10)
    assert (letter.message, letter.body) == ("no such type", bodies([2])[0])
    assert await box.append(range(2)) == 2
    assert await box.deliver_all() == bodies(range(3, 10))
    assert await box.append([10], PHONE) == 0
    await box.restart()
    assert box.outbox.ledger() == (11, 0, 9, 1, 0, 1)
    assert {queue.queue_id for queue in box.loaded.queues if queue.key == PHONE} == {9}


OLDER_VERSIONS = range(1, len(MIGRATIONS))


@pytest.mark.parametrize("schema_version", OLDER_VERSIONS)
async def test_a_file_of_each_older_version_is_migrated_with_all_its_rows(
    make_box: MakeBox, schema_version: int
) -> None:
    box = make_box()
    write_older_file(box.path, schema_version)
    await check_older_file(box)
    await box.outbox.close()
    database = box.database()
    assert version(database) == len(MIGRATIONS)
    database.close()


@pytest.mark.parametrize("schema_version", OLDER_VERSIONS)
async def test_a_broken_file_of_each_older_version_is_salvaged_with_all_its_rows(
    make_box: MakeBox, schema_version: int
) -> None:
    """The file has lost its last pages, so that SQLite rejects it and the migration fails."""
    box = make_box()
    write_older_file(box.path, schema_version)
    database = box.database()
    database.execute("CREATE TABLE filler(content)")
    database.execute("INSERT INTO filler VALUES (zeroblob(20000))")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    database.close()
    with box.path.open("r+b") as file:
        file.truncate(box.path.stat().st_size - 2 * PAGE_BYTES)
    await check_older_file(box)
    assert [each.name for each in box.path.parent.iterdir() if ".broken-" in each.name] == ["outbox.db.broken-1"]


def test_each_migration_runs_once_and_in_order() -> None:
    database = sqlite3.connect(":memory:", isolation_level=None)
    migrate(database)
    assert version(database) == len(MIGRATIONS)
    migrate(database, (*MIGRATIONS, ADD_COLUMN))
    migrate(database, (*MIGRATIONS, ADD_COLUMN))
    assert version(database) == len(MIGRATIONS) + 1
    database.execute("SELECT note FROM device_queues")
    database.close()


def test_interrupted_migration_is_rolled_back_and_repeated() -> None:
    database = sqlite3.connect(":memory:", isolation_level=None)
    migrate(database)
    with pytest.raises(sqlite3.OperationalError, match="missing"):
        migrate(database, (*MIGRATIONS, FAIL_HALF_WAY))
    assert version(database) == len(MIGRATIONS)
    migrate(database, (*MIGRATIONS, ADD_COLUMN))
    assert version(database) == len(MIGRATIONS) + 1
    database.close()


async def test_file_of_a_newer_relay_is_rejected_unchanged(make_box: MakeBox) -> None:
    box = make_box()
    await box.start()
    await box.append(range(3))
    await box.outbox.close()
    database = box.database()
    database.execute("PRAGMA user_version=99")
    database.close()
    before = box.path.read_bytes()
    with pytest.raises(OutboxUnusable, match="newer relay"):
        await box.make().open()
    assert box.path.read_bytes() == before
    assert [each.name for each in box.path.parent.iterdir() if "broken" in each.name] == []


async def test_database_of_another_program_is_rejected_unchanged(make_box: MakeBox, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE customers(name)")
    database.commit()
    database.close()
    path.chmod(0o640)
    before = path.read_bytes()
    with pytest.raises(OutboxUnusable, match="not an outbox"):
        await make_box(path=path).outbox.open()
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o640


async def test_ids_of_an_older_version_are_repetitions_with_any_bytes(make_box: MakeBox) -> None:
    """A migrated file does not contain checks of the received bytes."""
    box = make_box()
    await box.start()
    await box.append(range(600))
    await box.deliver(300)
    await box.outbox.close()
    database = box.database()
    database.execute("UPDATE log SET received_crc = NULL")
    database.execute("UPDATE dedupe_window SET checks = NULL")
    database.close()
    await box.restart()
    assert await box.append([1, 599, 1000], PHONE) == 2
    assert box.metrics.event_id_conflicts._value.get() == 0
    assert await box.append([1000]) == 1
    assert box.metrics.event_id_conflicts._value.get() == 1

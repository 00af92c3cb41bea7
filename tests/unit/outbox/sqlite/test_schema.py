"""Migrations: resumed after a kill, refused when from the future."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from relay.outbox import OutboxUnusable
from relay.outbox.sqlite.schema import MIGRATIONS, migrate

from tests.contract.boxes import PHONE
from tests.unit.outbox.sqlite.conftest import MakeBox


def add_column(database: sqlite3.Connection) -> None:
    database.execute("ALTER TABLE lanes ADD COLUMN note TEXT")


def fail_half_way(database: sqlite3.Connection) -> None:
    database.execute("ALTER TABLE lanes ADD COLUMN note TEXT")
    raise KeyboardInterrupt


def version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def test_each_migration_runs_once_and_in_order() -> None:
    database = sqlite3.connect(":memory:", isolation_level=None)
    migrate(database)
    assert version(database) == len(MIGRATIONS)
    migrate(database, (*MIGRATIONS, add_column))
    migrate(database, (*MIGRATIONS, add_column))
    assert version(database) == len(MIGRATIONS) + 1
    database.execute("SELECT note FROM lanes")
    database.close()


def test_one_that_is_interrupted_leaves_nothing_and_runs_again() -> None:
    database = sqlite3.connect(":memory:", isolation_level=None)
    migrate(database)
    with pytest.raises(KeyboardInterrupt):
        migrate(database, (*MIGRATIONS, fail_half_way))
    assert version(database) == len(MIGRATIONS)
    migrate(database, (*MIGRATIONS, add_column))
    assert version(database) == len(MIGRATIONS) + 1
    database.close()


async def test_a_file_of_a_newer_relay_is_refused_and_not_touched(make_box: MakeBox) -> None:
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


async def test_somebody_elses_database_is_refused_and_not_touched(make_box: MakeBox, tmp_path: Path) -> None:
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


async def test_ids_of_an_older_relay_are_repetitions_whatever_their_bytes(make_box: MakeBox) -> None:
    """What an event was as received is not known of a file that is migrated."""
    box = make_box()
    await box.start()
    await box.append(range(600))
    await box.deliver(300)
    await box.outbox.close()
    database = box.database()
    database.execute("UPDATE log SET received_crc = NULL")
    database.execute("UPDATE recent SET checks = NULL")
    database.close()
    await box.restart()
    assert await box.append([1, 599, 1000], PHONE) == 2
    assert box.metrics.event_id_conflicts._value.get() == 0
    assert await box.append([1000]) == 1
    assert box.metrics.event_id_conflicts._value.get() == 1

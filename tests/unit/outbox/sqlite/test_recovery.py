"""Broken files: they are quarantined and salvaged, and the relay starts."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from relay.outbox import Ledger, Selection
from relay.outbox.sqlite.connection import PAGE_BYTES

from tests.contract.boxes import PHONE, REFUSED, TV, SqliteBox, bodies, close
from tests.unit.outbox.sqlite.conftest import MakeBox
from tests.unit.outbox.sqlite.test_store_failure import no_file_may_grow_beyond

ALL = Selection(all=True)
EVENTS = 2_000


def set_aside(box: SqliteBox) -> list[str]:
    names = [each.name for each in box.path.parent.iterdir() if ".broken-" in each.name]
    return sorted(name for name in names if not name.endswith("-wal"))


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def zero_header(path: Path) -> None:
    overwrite(path, 0, bytes(100))


def zero_first_page(path: Path) -> None:
    overwrite(path, 0, bytes(PAGE_BYTES))


def no_database(path: Path) -> None:
    path.write_bytes(b"this is no database, and it is longer than a header of one hundred bytes. " * 99)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // PAGE_BYTES * PAGE_BYTES)


def truncate_within_a_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size - PAGE_BYTES // 2)


def garbage_in_the_middle(path: Path) -> None:
    overwrite(path, path.stat().st_size // 2 // PAGE_BYTES * PAGE_BYTES, os.urandom(4 * PAGE_BYTES))


def name_that_is_no_text(path: Path) -> None:
    """SQLite quotes the name in its message, and the sqlite3 module cannot decode the message."""
    overwrite(path, path.read_bytes().index(b"tabledevice_queuesdevice_queues") + len(b"table"), b"\xec")


def statement_that_is_no_text(path: Path) -> None:
    overwrite(path, path.read_bytes().index(b"CREATE TABLE log"), b"\xc3")


def column_with_another_name(path: Path) -> None:
    overwrite(path, path.read_bytes().index(b"first_seq INTEGER") + 4, b"u")


def checksum_with_another_name(path: Path) -> None:
    overwrite(path, path.read_bytes().index(b"crc INTEGER"), b"b")


def lost_ledger(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("DROP TABLE ledger")
    database.commit()
    database.close()


def lost_queues(path: Path) -> None:
    database = sqlite3.connect(path)
    (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'device_queues'").fetchone()
    database.close()
    overwrite(path, (page - 1) * PAGE_BYTES, os.urandom(PAGE_BYTES))


async def filled(box: SqliteBox) -> None:
    """Fill two queues with EVENTS events each. Of the TV's, ten are delivered and one is dead."""
    await box.start()
    for base in range(0, EVENTS, 500):
        await box.append(range(base, base + 500), TV, body_bytes=300)
        await box.append(range(10_000 + base, 10_500 + base), PHONE, body_bytes=300)
    await box.deliver(10)
    await box.claim(1)
    await box.settle(dead={0: REFUSED})


@pytest.mark.parametrize(
    ("damage", "at_least"),
    [
        (zero_header, 2 * EVENTS - 11),
        (zero_first_page, 2 * EVENTS - 11),
        (truncate, EVENTS // 2),
        (truncate_within_a_page, 2 * EVENTS - 30),
        (garbage_in_the_middle, 2 * EVENTS - 100),
        (name_that_is_no_text, 2 * EVENTS - 11),
        (statement_that_is_no_text, 2 * EVENTS - 11),
        (column_with_another_name, 2 * EVENTS - 11),
        (checksum_with_another_name, 2 * EVENTS - 11),
        (lost_ledger, 2 * EVENTS - 11),
        (lost_queues, 2 * EVENTS - 11),
        (no_database, 0),
    ],
)
async def test_broken_file_is_salvaged_and_quarantined(
    make_box: MakeBox, damage: Callable[[Path], None], at_least: int
) -> None:
    box = make_box()
    await filled(box)
    after = await box.kill()
    checkpoint(after.path)
    damage(after.path)
    await after.start()
    assert set_aside(after) == ["outbox.db.broken-1"]
    assert after.metrics.outbox_set_aside._value.get() == 1
    ledger = after.outbox.ledger()
    assert at_least <= ledger.pending <= 2 * EVENTS
    after.check()
    assert await after.append([99_999], PHONE, body_bytes=300) == 0
    expected = {*bodies(range(EVENTS), TV, 300), *bodies(range(10_000, 10_000 + EVENTS), PHONE, 300)}
    delivered = await after.deliver_all()
    assert len(delivered) == ledger.pending + 1
    assert set(delivered) <= expected | set(bodies([99_999], PHONE, 300))
    assert after.outbox.ledger().pending == 0
    await close(after)


def checkpoint(path: Path) -> None:
    """Checkpoint, so that damage to the database affects the newest rows."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


async def test_quarantined_file_is_unchanged(make_box: MakeBox) -> None:
    box = make_box()
    await filled(box)
    after = await box.kill()
    checkpoint(after.path)
    zero_first_page(after.path)
    before = after.path.read_bytes()
    await after.start()
    assert after.path.with_name("outbox.db.broken-1").read_bytes() == before
    assert after.outbox.ledger().pending == 2 * EVENTS - 11
    await close(after)


async def test_failed_salvage_leaves_no_files(make_box: MakeBox) -> None:
    """The relay tries again, and does not change the broken file meanwhile."""
    box = make_box()
    await filled(box)
    after = await box.kill()
    checkpoint(after.path)
    garbage_in_the_middle(after.path)
    before = after.path.read_bytes()
    with no_file_may_grow_beyond(200_000):
        await after.outbox.open()
        assert not after.outbox.gauges().writable
        assert sorted(each.name for each in after.path.parent.iterdir()) == ["outbox.db", "outbox.db.lock"]
        assert after.path.read_bytes() == before
    await after.outbox.load(after)
    assert after.outbox.ledger().pending > EVENTS
    await close(after)


async def test_salvage_preserves_ledger_cursors_dead_letters_and_journal(make_box: MakeBox) -> None:
    """Ledger, cursors, dead letters, known ids and the journal survive a broken page of the log."""
    box = make_box()
    await filled(box)
    await box.claim(5, PHONE, window=b"w")
    before = box.outbox.ledger()
    after = await box.kill()
    checkpoint(after.path)
    garbage_in_the_middle(after.path)
    await after.start()
    ledger = after.outbox.ledger()
    lost = ledger.dead_lettered - before.dead_lettered
    assert 0 < lost < 100
    assert ledger == before._replace(dead_lettered=1 + lost, pending=before.pending - lost)
    assert [letter.body for letter in await after.outbox.dead_letters(ALL, 10)] == bodies([10], TV, 300)
    assert {queue.key: queue.window for queue in after.loaded.queues} == {TV: b"", PHONE: b"w"}
    ((part,),) = after.loaded.unsettled
    (claimed,) = await after.outbox.claim([part])
    assert claimed.bodies == bodies(range(10_000, 10_005), PHONE, 300)
    assert await after.append([0, 10, 11]) == 3
    await close(after)


async def test_second_broken_file_gets_another_number(make_box: MakeBox) -> None:
    box = make_box()
    for number in (1, 2):
        await box.start()
        await box.append([number])
        await box.outbox.close()
        no_database(box.path)
        box.outbox = box.make()
    await box.start()
    assert set_aside(box) == ["outbox.db.broken-1", "outbox.db.broken-2"]


async def test_file_is_not_quarantined_after_a_kill(make_box: MakeBox) -> None:
    box = make_box()
    await filled(box)
    after = await box.restart_after_kill()
    assert set_aside(after) == []
    assert after.outbox.ledger() == Ledger(accepted=2 * EVENTS, delivered=10, dead_lettered=1, pending=2 * EVENTS - 11)
    await close(after)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, path.stat().st_size // 2)])
async def test_lost_wal_does_not_prevent_the_start(make_box: MakeBox, damage: Callable[[Path], None]) -> None:
    """The content of the -wal is lost, which SQLite cannot detect. Earlier events are not lost."""
    box = make_box()
    await box.start()
    await box.append(range(100))
    await box.restart()
    await box.append(range(100, 1_000))
    after = await box.kill()
    damage(after.path.with_name("outbox.db-wal"))
    await after.start()
    delivered = await after.deliver_all()
    assert delivered[:100] == bodies(range(100))
    assert delivered == bodies(range(len(delivered)))
    await close(after)


async def test_empty_file_becomes_a_new_outbox(make_box: MakeBox) -> None:
    box = make_box()
    box.path.parent.mkdir()
    box.path.touch()
    await box.start()
    assert await box.append([1]) == 0
    assert set_aside(box) == []


async def test_kill_during_salvage_loses_nothing(make_box: MakeBox) -> None:
    """Before the exchange the old file is in its place; afterwards the new file is complete."""
    box = make_box()
    await filled(box)
    before = await box.kill()
    before.path.with_name("outbox.db.salvaging").write_bytes(b"half")
    await before.start()
    assert before.outbox.ledger().pending == 2 * EVENTS - 11
    await before.outbox.close()
    before.path.rename(before.path.with_name("outbox.db.salvaging"))
    before.outbox = before.make()
    await before.start()
    assert before.outbox.ledger().pending == 2 * EVENTS - 11
    await close(before)

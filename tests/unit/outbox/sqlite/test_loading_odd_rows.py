"""Values that a disk has changed without an error of SQLite: the relay starts, and loses no event.

The pages are sound and `quick_check` finds no error, but a column has another value.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from relay.outbox import Selection

from tests.contract.boxes import PHONE, REFUSED, TV, SqliteBox, bodies, close, event_id, events
from tests.unit.outbox.sqlite.conftest import MakeBox

ALL = Selection(all=True)


async def stopped(make_box: MakeBox) -> SqliteBox:
    """Return a cleanly stopped outbox with 20 events of a TV and 10 of a phone."""
    box = make_box()
    await box.start()
    await box.append(range(20), TV)
    await box.append(range(100, 110), PHONE)
    await box.outbox.close()
    box.outbox = box.make()
    return box


def execute(box: SqliteBox, *statements: str) -> None:
    """Execute statements without the constraints of the schema."""
    database = box.database()
    database.execute("PRAGMA writable_schema=ON")
    before = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
    database.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')")
    database.close()
    database = box.database()
    for statement in statements:
        database.execute(statement)
    database.execute("PRAGMA writable_schema=ON")
    for name, sql in before:
        database.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (sql, name))
    database.close()


async def found(box: SqliteBox) -> set[bytes]:
    """Return every body that can be delivered or is a dead letter."""
    delivered = await box.deliver_all()
    letters = await box.outbox.dead_letters(ALL, 1_000)
    assert len(delivered) == len(set(delivered))
    return {*delivered, *(letter.body for letter in letters)}


EVERYTHING = {*bodies(range(20), TV), *bodies(range(100, 110), PHONE)}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE device_queues SET tenant_id = 'x1'",
        "UPDATE device_queues SET tenant_id = NULL",
        "UPDATE device_queues SET platform = CAST(x'ff00' AS TEXT)",
        "UPDATE device_queues SET device_id = x'01'",
        "UPDATE device_queues SET cursor = NULL",
        "UPDATE device_queues SET cursor = 'x'",
        "UPDATE device_queues SET rate_window = NULL",
        "UPDATE device_queues SET boot = 'x'",
        "UPDATE device_queues SET request = 'x', first_seq = 1, last_seq = 2",
        "UPDATE device_queues SET queue_id = queue_id + 4611686018427387904",
        "UPDATE device_queues SET queue_id = queue_id + 1000",
        "UPDATE device_queues SET queue_id = -queue_id",
        "DELETE FROM device_queues",
        "UPDATE ledger SET next_queue_id = 'x'",
        "UPDATE ledger SET boot_id = x'ff'",
        "UPDATE ledger SET delivered = NULL",
        "UPDATE ledger SET delivered = 9223372036854775807; UPDATE device_queues SET delivered = 1",
        "UPDATE ledger SET delivered = 4611686018427387904",
        "UPDATE ledger SET last_seq = 4611686018427387904",
        "UPDATE ledger SET requeued = -1",
        "UPDATE device_queues SET delivered = 9223372036854775807",
        "UPDATE device_queues SET cursor = 4611686018427387904",
        "UPDATE device_queues SET delivered = -5",
        "UPDATE ledger SET outbox_ms = 'x'",
        "UPDATE ledger SET outbox_ms = 4611686018427387904",
        "UPDATE ledger SET dead_letters = 'x'",
        "UPDATE log SET queue_id = queue_id + 1000 WHERE seq = 5",
        "UPDATE log SET queue_id = 1099511627776 WHERE seq IN (5, 6)",
        "UPDATE log SET queue_id = -1 WHERE seq = 5",
        "UPDATE log SET queue_id = 'x' WHERE seq = 5",
        "UPDATE log SET queue_id = NULL WHERE seq = 5",
        "UPDATE log SET event_id = CAST(event_id AS TEXT) WHERE seq = 5",
        "UPDATE log SET event_id = NULL WHERE seq = 5",
        "UPDATE log SET at_ms = 'x' WHERE seq = 30",
    ],
)
async def test_outbox_with_a_changed_value_starts_without_loss(make_box: MakeBox, change: str) -> None:
    box = await stopped(make_box)
    execute(box, *change.split("; "))
    await box.start()
    box.check()
    assert await found(box) == EVERYTHING
    assert box.outbox.ledger().balanced
    assert box.outbox.ledger().pending == 0
    await box.restart()
    assert box.outbox.ledger().pending == 0
    assert len([each for each in box.path.parent.iterdir() if ".broken-" in each.name and "-wal" not in each.name]) <= 1


@pytest.mark.parametrize("value", ["NULL", "'text'", "7", "x''"])
async def test_body_of_another_type_is_corrupt(make_box: MakeBox, value: str) -> None:
    box = await stopped(make_box)
    execute(box, f"UPDATE log SET body = {value} WHERE seq = 1", f"UPDATE log SET crc = {value} WHERE seq = 2")
    await box.start()
    assert (await box.claim(1)).bodies == []
    assert await box.deliver_all() == [*bodies(range(2, 20), TV), *bodies(range(100, 110), PHONE)]
    assert box.outbox.ledger().dead_lettered == 2
    assert [letter.reason for letter in await box.outbox.dead_letters(ALL, 10)] == ["corrupt"] * 2


@pytest.mark.parametrize(
    "change",
    [
        "tenant_id = 'x'",
        "tenant_id = NULL",
        "platform = CAST(x'ff' AS TEXT)",
        "message = CAST(x'80' AS TEXT)",
        "message = NULL",
        "event_id = 'short'",
        "event_id = NULL",
        "status = 'x'",
        "reason = x'ff'",
        "dead_at_ms = 'x'",
        "dead_at_ms = 9223372036854775807",
        "body = NULL",
        "body = 'text'",
    ],
)
async def test_dead_letter_with_a_changed_value_can_be_listed_and_discarded(make_box: MakeBox, change: str) -> None:
    box = await stopped(make_box)
    await box.start()
    await box.claim(2)
    await box.settle(dead={0: REFUSED, 1: REFUSED})
    await box.outbox.close()
    execute(box, f"UPDATE dead_letters SET {change} WHERE id = 1")
    box.outbox = box.make()
    await box.start()
    letters = await box.outbox.dead_letters(ALL, 10)
    assert [letter.id for letter in letters] == [1, 2]
    assert letters[1].body == bodies([1])[0]
    await box.outbox.requeue(ALL, 10)
    await box.outbox.discard(ALL, 10)
    assert await box.append([500]) == 0
    assert set(await box.deliver_all()) >= {*bodies(range(1, 20)), *bodies([500])}
    assert box.outbox.ledger().balanced


def change_number_of_row(path: Path, number: int) -> None:
    """Set bits of the rowid of a row, so that the rows of its page are out of order."""
    content = path.read_bytes()
    # The rowid of two bytes is a few bytes before the id: https://www.sqlite.org/fileformat2.html#record_format
    at = content.rindex(bytes([0x80 | number >> 7, number & 0x7F]), 0, content.index(event_id(number - 1)))
    path.write_bytes(content[:at] + b"\xff\x7f" + content[at + 2 :])


async def test_row_out_of_order_does_not_hide_later_rows(make_box: MakeBox) -> None:
    box = make_box()
    await box.start()
    await box.append(range(1_000), body_bytes=200)
    await box.outbox.close()
    change_number_of_row(box.path, 501)
    box.outbox = box.make()
    await box.start()
    assert await found(box) >= {*bodies(range(500), body_bytes=200), *bodies(range(501, 1_000), body_bytes=200)}
    assert box.outbox.ledger().pending == 0
    await close(box)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE log SET event_id = CASE seq WHEN 5 THEN substr(event_id, 2) ELSE event_id || x'00' END"
        " WHERE seq IN (5, 6)",
        "UPDATE log SET event_id = NULL WHERE seq IN (5, 6)",
        "UPDATE log SET event_id = CAST(x'c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9' AS TEXT) WHERE seq IN (5, 6)",
        "DELETE FROM log WHERE seq IN (5, 6)",
    ],
    ids=["lengths", "nothing", "text", "gone"],
)
async def test_lost_id_does_not_shift_other_ids(make_box: MakeBox, change: str) -> None:
    box = await stopped(make_box)
    execute(box, change)
    await box.start()
    lost, known = {4, 5}, {*range(20), *range(100, 110)} - {4, 5}
    assert {number for number in known | lost if await box.outbox.find(event_id(number)) is not None} == known
    assert (await box.outbox.append(events(known, TV))).duplicates == len(known)
    assert box.outbox.ledger().accepted == 30

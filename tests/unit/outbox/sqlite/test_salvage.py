"""Salvage reads the broken file and never writes to it, whatever is broken."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from relay.outbox.sqlite import files, recovery
from relay.outbox.sqlite.connection import configure, connect
from relay.outbox.sqlite.salvage import Salvaged, salvage
from relay.outbox.sqlite.schema import migrate

from tests.contract.boxes import PHONE, SqliteBox, bodies, close
from tests.unit.outbox.sqlite.conftest import MakeBox
from tests.unit.outbox.sqlite.test_recovery import (
    EVENTS,
    checkpoint,
    column_with_another_name,
    filled,
    garbage_in_the_middle,
    no_database,
    set_aside,
    statement_that_is_no_text,
    truncate,
    zero_first_page,
    zero_header,
)

MIB = 1 << 20
DAMAGES = [
    zero_header,
    zero_first_page,
    truncate,
    garbage_in_the_middle,
    statement_that_is_no_text,
    column_with_another_name,
    no_database,
]
LATER = range(20_000, 20_300)


@contextmanager
def new_outbox(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield an empty outbox as recovery creates it."""
    files.create(path)
    database = connect(path)
    with closing(database):
        configure(database, "full", 64 * MIB, 4 * MIB)
        migrate(database)
        yield database


def salvaged(broken: Path) -> Salvaged:
    with new_outbox(broken.with_name("new.db")) as new:
        return salvage(broken, new)


async def killed(box: SqliteBox, damage: Callable[[Path], None]) -> SqliteBox:
    """Return a killed outbox with a damaged database, and with the events LATER in its -wal only."""
    await filled(box)
    first = await box.restart_after_kill()
    await first.outbox.close()
    checkpoint(first.path)
    first.outbox = first.make()
    await first.start()
    await first.append(LATER, PHONE)
    after = await first.kill()
    await close(first)
    damage(after.path)
    return after


def content(directory: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in directory.iterdir() if each.is_file()}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("has_log", [False, True], ids=["database", "database and -wal"])
async def test_broken_file_is_not_changed(make_box: MakeBox, damage: Callable[[Path], None], has_log: bool) -> None:
    box = await killed(make_box(), damage)
    if not has_log:
        box.path.with_name("outbox.db-wal").unlink()
    before = content(box.path.parent)
    salvaged(box.path)
    after = content(box.path.parent)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"new.db"}


@pytest.mark.parametrize("damage", [truncate, zero_first_page, statement_that_is_no_text, garbage_in_the_middle])
async def test_commits_of_the_log_are_salvaged(make_box: MakeBox, damage: Callable[[Path], None]) -> None:
    """SQLite does not copy the log into a database that it rejects at once, for example one with missing pages."""
    box = await killed(make_box(), damage)
    await box.start()
    assert set_aside(box) <= ["outbox.db.broken-1"]
    assert set(await box.deliver_all()) >= set(bodies(LATER, PHONE))
    await close(box)


async def test_copy_is_not_begun_without_room(make_box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay reports a full disk and tries again. Each attempt without room would wear the flash chip."""
    box = await killed(make_box(), zero_first_page)
    box.path.with_name("outbox.db-wal").unlink()
    size = box.path.stat().st_size
    usage = shutil.disk_usage(box.path.parent)._replace(free=size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    before = content(box.path.parent)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        salvaged(box.path)
    assert content(box.path.parent).keys() - before.keys() == {"new.db"}
    await box.outbox.open()
    assert "the disk is full" in box.outbox.gauges().problem
    assert content(box.path.parent)["outbox.db"] == before["outbox.db"]
    monkeypatch.undo()
    await box.outbox.load(box)
    assert box.outbox.ledger().pending == 2 * EVENTS - 11
    await close(box)


async def test_file_larger_than_a_lowered_limit_is_salvaged(make_box: MakeBox) -> None:
    box = make_box(max_size_bytes=64 * MIB)
    await box.start()
    for base in range(0, 4_000, 500):
        await box.append(range(base, base + 500), body_bytes=5_000)
    after = await box.kill()
    checkpoint(after.path)
    garbage_in_the_middle(after.path)
    small = make_box(path=after.path, max_size_bytes=16 * MIB)
    await small.start()
    assert set_aside(small) == ["outbox.db.broken-1"]
    assert small.outbox.ledger().pending > 3_900
    assert len(await small.deliver_all()) > 3_900
    await close(small)
    await close(box)


async def test_settled_events_are_repetitions_after_salvage(make_box: MakeBox) -> None:
    """Salvage keeps the checksum of received bytes, too: the same id with other bytes is a conflict."""
    box = make_box()
    await filled(box)
    after = await box.kill()
    checkpoint(after.path)
    garbage_in_the_middle(after.path)
    await after.start()
    assert await after.append([0, 10, 11], body_bytes=300) == 3
    assert after.metrics.event_id_conflicts._value.get() == 0
    assert await after.append([0], PHONE) == 1
    assert after.metrics.event_id_conflicts._value.get() == 1
    await close(after)


async def test_new_events_are_pending_after_the_newest_rows_were_lost(make_box: MakeBox) -> None:
    """The cursor of a queue may be larger than the last readable seq. A new event must not count as settled."""
    box = make_box()
    await box.start()
    await box.append(range(1_000), body_bytes=300)
    await box.deliver(1_000)
    after = await box.kill()
    checkpoint(after.path)
    truncate(after.path)
    await after.start()
    await after.append(range(2_000, 2_050))
    again = await after.restart_after_kill()
    assert set(await again.deliver_all()) >= set(bodies(range(2_000, 2_050)))
    await close(again)
    await close(after)


async def test_outbox_starts_empty_if_salvage_has_a_defect(make_box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quarantined file still has the events. The relay does not write a file at each attempt to open the outbox."""

    def defective(broken: Path, new: sqlite3.Connection) -> Salvaged:
        result = salvage(broken, new)
        new.execute("UPDATE ledger SET outbox_ms = 'x'")
        return result

    box = make_box()
    await filled(box)
    after = await box.kill()
    checkpoint(after.path)
    garbage_in_the_middle(after.path)
    before = after.path.read_bytes()
    monkeypatch.setattr(recovery, "salvage", defective)
    await after.start()
    assert set_aside(after) == ["outbox.db.broken-1"]
    assert after.path.with_name("outbox.db.broken-1").read_bytes() == before
    assert await after.append([1]) == 0
    assert await after.deliver_all() == bodies([1])
    await close(after)

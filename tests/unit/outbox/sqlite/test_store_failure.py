"""A disk that fails while the relay runs: the errors for callers, and the recovery without a restart."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from relay.outbox import AppendResult, ClaimPart, Dead, Ledger, OutboxError, OutboxFull, OutboxUnavailable, Selection
from relay.outbox.engine.queue_index import Index
from relay.outbox.sqlite import connection, store

from tests.contract.boxes import PHONE, TV, SqliteBox, bodies, close, event, event_id, events
from tests.unit.outbox.sqlite.conftest import MakeBox

T = TypeVar("T")

PATIENCE_S = 20
"""For what never comes."""


@contextmanager
def no_file_may_grow_beyond(size: int) -> Iterator[None]:
    """Let the kernel reject writes beyond a file size (EFBIG), for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def again(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call until it succeeds, as apps and the forwarder do."""
    while True:
        try:
            return await call()
        except OutboxError:
            await asyncio.sleep(0.01)


def fail_commits(monkeypatch: pytest.MonkeyPatch, times: int, error: sqlite3.Error, *, but_write: bool) -> None:
    """Let the next commits fail, with their content on disk or not."""
    commit, left = connection.commit, times

    def failing(database: sqlite3.Connection, steps: Any) -> Any:
        nonlocal left
        if left and steps:
            left -= 1
            if but_write:
                commit(database, steps)
            raise error
        return commit(database, steps)

    monkeypatch.setattr(connection, "commit", failing)


async def test_failed_writes_are_reported_until_the_disk_works_again(box: SqliteBox) -> None:
    await box.append(range(10))
    with no_file_may_grow_beyond(1_000):
        with pytest.raises(OutboxFull, match="the disk is full"):
            await box.append(range(10, 200), body_bytes=400)
        assert not box.outbox.gauges().writable
        assert "disk" in box.outbox.gauges().problem
        with pytest.raises(OutboxFull):
            await box.append([500])
        assert not box.outbox.room()
    assert await again(lambda: box.append([600])) == 0
    assert box.outbox.gauges().writable
    assert await box.deliver_all() == bodies([*range(10), 600])
    box.check()


async def test_full_disk_is_reported_as_such(box: SqliteBox) -> None:
    await box.append(range(10))
    storage = box.outbox._owner.storage
    pages = await storage.run(lambda database: database.execute("PRAGMA page_count").fetchone()[0])
    await storage.run(lambda database: database.execute(f"PRAGMA max_page_count={pages}").fetchall())
    with pytest.raises(OutboxFull, match="disk is full"):
        await box.append(range(10, 200), body_bytes=400)
    assert await again(lambda: box.append([600])) == 0
    assert await box.deliver_all() == bodies([*range(10), 600])
    box.check()


async def test_events_of_a_failed_commit_that_are_on_disk_are_counted_once(
    box: SqliteBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fsync failed, but the frames are in the file. The state must follow the file."""
    await box.append(range(10), TV)
    fail_commits(monkeypatch, 1, sqlite3.OperationalError("disk I/O error"), but_write=True)
    with pytest.raises(OutboxUnavailable):
        await box.append(range(10, 20), PHONE)
    assert await again(lambda: box.append(range(10, 20), PHONE)) == 10
    while PHONE not in box.backlog:
        await asyncio.sleep(0.01)
    assert box.outbox.ledger() == Ledger(accepted=20, pending=20)
    assert box.backlog[PHONE][0] == 10
    assert await box.deliver(100, PHONE) == bodies(range(10, 20), PHONE)
    box.check()


async def test_rolled_back_events_are_not_counted(box: SqliteBox, monkeypatch: pytest.MonkeyPatch) -> None:
    await box.append(range(10), TV)
    fail_commits(monkeypatch, 1, sqlite3.OperationalError("disk I/O error"), but_write=False)
    with pytest.raises(OutboxUnavailable):
        await box.append(range(10, 20), PHONE)
    assert await again(lambda: box.append(range(10, 20), PHONE)) == 0
    assert box.outbox.ledger() == Ledger(accepted=20, pending=20)
    box.check()


@pytest.mark.parametrize("but_write", [False, True])
async def test_events_in_flight_can_be_settled_after_a_disk_failure(
    box: SqliteBox, monkeypatch: pytest.MonkeyPatch, but_write: bool
) -> None:
    await box.append(range(10))
    await box.claim(4)
    fail_commits(monkeypatch, 1, sqlite3.OperationalError("disk I/O error"), but_write=but_write)
    with pytest.raises(OutboxUnavailable):
        await box.settle()
    await again(box.settle)
    assert box.outbox.ledger() == Ledger(accepted=10, delivered=4, pending=6)
    assert (await box.claim(10)).bodies == bodies(range(4, 10))
    box.check()


@pytest.mark.parametrize("but_write", [False, True])
async def test_failed_claim_can_be_repeated(box: SqliteBox, monkeypatch: pytest.MonkeyPatch, but_write: bool) -> None:
    await box.append(range(10))
    fail_commits(monkeypatch, 1, sqlite3.OperationalError("disk I/O error"), but_write=but_write)
    with pytest.raises(OutboxUnavailable):
        await box.claim(4)
    claimed = await again(lambda: box.claim(6))
    assert claimed.bodies == bodies(range(6))
    after = await box.restart_after_kill()
    assert after.loaded.unsettled == [[ClaimPart(box.queues[TV], 6)]]
    await close(after)


async def test_claim_fails_if_an_earlier_settle_fails(box: SqliteBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a claim that waited during the settle's commit. Otherwise more could be sent than the disk has recorded."""
    await box.append(range(2))
    await box.append(range(2, 4), PHONE)
    await box.claim(2)
    fail_commits(monkeypatch, 1, sqlite3.OperationalError("disk I/O error"), but_write=False)
    settled = asyncio.ensure_future(box.settle())
    await asyncio.sleep(0)  # its commit has begun
    results = await asyncio.gather(settled, box.claim(2, PHONE), return_exceptions=True)
    assert [type(each) for each in results] == [OutboxUnavailable, OutboxUnavailable]


async def test_duplicate_of_a_failed_append_does_not_succeed(box: SqliteBox, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_commits(monkeypatch, 1, sqlite3.OperationalError("disk I/O error"), but_write=False)
    first, second = box.outbox.append([event(1)]), box.outbox.append([event(1)])
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(each) for each in results] == [OutboxUnavailable, OutboxUnavailable]
    assert await box.outbox.find(event_id(1)) is None
    assert await again(lambda: box.append([1])) == 0


async def test_outbox_starts_on_a_failing_disk_and_recovers(make_box: MakeBox) -> None:
    box = make_box()
    with no_file_may_grow_beyond(1_000):
        await box.outbox.open()
        assert not box.outbox.gauges().writable
        with pytest.raises(OutboxFull, match="the disk is full"):
            await box.append([1])
    await box.outbox.load(box)
    assert await box.append([1]) == 0


async def test_failing_disk_is_retried_at_growing_intervals(box: SqliteBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of calls of apps does not matter."""
    tried = 0

    def failing(database: sqlite3.Connection, steps: Any) -> Any:
        nonlocal tried
        tried += 1
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(connection, "commit", failing)
    for _ in range(50):
        with pytest.raises(OutboxUnavailable):
            await box.append([1])
        await asyncio.sleep(0.005)
    assert tried <= 8


async def test_broken_page_loses_its_own_events_only(make_box: MakeBox) -> None:
    box = make_box(max_size_bytes=64 << 20)
    await box.start()
    for base in range(0, 30_000, 500):
        await box.append(range(base, base + 500), body_bytes=400)
    with box.path.open("r+b") as file:
        file.seek(os.fstat(file.fileno()).st_size // 2 // 4096 * 4096)
        file.write(os.urandom(3 * 4096))
    delivered: list[bytes] = []
    while box.outbox.ledger().pending:
        delivered += await again(lambda: box.deliver(500))
    assert len(delivered) >= 29_900
    assert set(delivered) <= set(bodies(range(30_000), body_bytes=400))
    ledger = box.outbox.ledger()
    assert ledger == Ledger(accepted=30_000, delivered=len(delivered), dead_lettered=30_000 - len(delivered))
    assert box.metrics.outbox_set_aside._value.get() == 1
    assert await box.append([99_999]) == 0


async def test_queue_forgotten_by_a_failed_commit_on_disk_is_created_again(
    box: SqliteBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.append(range(3))
    await box.deliver(3)
    fail_commits(monkeypatch, 1, sqlite3.OperationalError("disk I/O error"), but_write=True)
    with pytest.raises(OutboxUnavailable):
        await box.outbox.forget([box.queues[TV]])
    await again(lambda: box.append([10, 11, 12]))
    while box.backlog[TV][0] != 3:
        await asyncio.sleep(0.01)
    assert await box.deliver(1) == bodies([10])
    after = await box.restart_after_kill()
    assert after.outbox.ledger() == Ledger(accepted=6, delivered=4, pending=2)
    assert await after.deliver_all() == bodies([11, 12])
    await close(after)


async def test_failed_discard_that_is_on_disk_is_counted_once(box: SqliteBox, monkeypatch: pytest.MonkeyPatch) -> None:
    await box.append(range(3))
    await box.claim(3)
    await box.settle(dead={0: Dead("refused", 422, "no"), 1: Dead("refused", 422, "no")})
    fail_commits(monkeypatch, 1, sqlite3.OperationalError("disk I/O error"), but_write=True)
    with pytest.raises(OutboxUnavailable):
        await box.outbox.discard(Selection(ids=[1]), 1)
    await again(lambda: box.append([10]))
    assert box.outbox.gauges().dead_letters == 1


async def test_check_of_the_files_survives_a_failing_disk(box: SqliteBox, monkeypatch: pytest.MonkeyPatch) -> None:
    await box.append(range(3))
    await box.deliver(1)
    fail_commits(monkeypatch, 1, sqlite3.OperationalError("disk I/O error"), but_write=False)
    await box.outbox.check()
    await again(lambda: box.append([10]))
    await box.outbox.check()
    assert box.outbox.gauges().writable


async def test_outbox_survives_a_memory_error_in_a_commit(box: SqliteBox, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, left = connection.commit, 1

    def failing(database: sqlite3.Connection, steps: Any) -> Any:
        nonlocal left
        if left:
            left = 0
            raise MemoryError
        return commit(database, steps)

    monkeypatch.setattr(connection, "commit", failing)
    with pytest.raises(OutboxUnavailable):
        await box.append([1])
    assert await again(lambda: box.append([1])) == 0


@pytest.mark.parametrize("where", ["planning", "remembering"])
async def test_memory_error_around_a_commit_fails_all_its_calls(
    where: str, box: SqliteBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error occurs before the commit, or after everything is on disk."""
    owner, name = (store, "insertion") if where == "planning" else (Index, "append")

    def fails(*_: Any, **__: Any) -> None:
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(OutboxUnavailable):
        async with asyncio.timeout(PATIENCE_S):
            await box.append(range(10))

    await again(lambda: box.append([99]))
    ledger = box.outbox.ledger()
    assert ledger.pending == ledger.accepted == (1 if where == "planning" else 11)
    assert box.outbox._owner._pending_calls.memory_bytes == 0, "room that nobody has any more"


async def test_file_opened_by_another_program_is_reported(make_box: MakeBox) -> None:
    box = make_box()
    await box.start()
    await box.outbox.close()
    other = box.database()
    other.execute("BEGIN IMMEDIATE")
    box.outbox = box.make()
    await box.outbox.open()
    assert "another program" in box.outbox.gauges().problem
    other.close()
    assert await again(lambda: box.append([1])) == 0


class TestFilesChangedWhileOpen:
    async def test_missing_path_is_reported(self, box: SqliteBox) -> None:
        await box.append(range(5))
        directory = box.path.parent
        moved = directory.rename(directory.with_name("moved"))
        directory.touch()
        await box.outbox.check()
        with pytest.raises(OutboxUnavailable):
            await box.append([6])
        directory.unlink()
        moved.rename(directory)
        await box.outbox.check()
        assert await again(lambda: box.append([6])) == 0
        assert await box.deliver(10) == bodies([0, 1, 2, 3, 4, 6])

    @pytest.mark.parametrize("names", [("outbox.db",), ("outbox.db-wal",), ("outbox.db", "outbox.db-wal")])
    async def test_deleted_files_are_written_again(self, box: SqliteBox, names: tuple[str, ...]) -> None:
        await box.append(range(500))
        await box.claim(3)
        for name in names:
            box.path.with_name(name).unlink()
        await box.outbox.check()
        assert await again(lambda: box.append([1_000])) == 0
        await box.settle()
        await box.outbox.check()
        assert box.outbox.gauges().writable
        after = await box.restart_after_kill()
        assert (await after.claim(1_000)).bodies == bodies([*range(3, 500), 1_000])
        await close(after)

    async def test_replaced_file_is_not_written(self, box: SqliteBox) -> None:
        await box.append(range(5))
        other = box.path.with_name("other")
        other.write_bytes(b"precious")
        other.rename(box.path)
        await box.outbox.check()
        with pytest.raises(OutboxUnavailable, match="replaced by another file"):
            await box.append([6])
        assert not box.outbox.gauges().writable
        assert await box.deliver(10) == bodies(range(5)), "its events can still be sent"
        await box.outbox.close()
        assert box.path.read_bytes() == b"precious"

    async def test_deleted_directory_is_reported(self, box: SqliteBox) -> None:
        await box.append(range(5))
        for each in box.path.parent.iterdir():
            each.unlink()
        box.path.parent.rmdir()
        await box.outbox.check()
        with pytest.raises(OutboxUnavailable, match="deleted"):
            await box.append([6])
        box.path.parent.mkdir()
        await box.outbox.check()
        assert await again(lambda: box.append([6])) == 0
        assert await box.deliver(10) == bodies([0, 1, 2, 3, 4, 6])


async def test_calls_complete_while_the_disk_fails_repeatedly(box: SqliteBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call completes, although the disk fails in between."""
    commit, calls = connection.commit, 0

    def every_third_fails(database: sqlite3.Connection, steps: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise sqlite3.OperationalError("disk I/O error")
        return commit(database, steps)

    monkeypatch.setattr(connection, "commit", every_third_fails)
    stored: list[int] = []
    for number in range(30):
        if number == 20:
            monkeypatch.setattr(connection, "commit", commit)
        results = await asyncio.gather(box.outbox.append(events([number])), return_exceptions=True)
        if results == [AppendResult(0, "full")]:
            stored.append(number)
        await asyncio.sleep(0.02)
    assert await again(lambda: box.append([100])) == 0
    assert await box.deliver_all() == bodies([*stored, 100])
    box.check()

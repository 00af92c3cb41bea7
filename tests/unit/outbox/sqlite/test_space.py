"""Settled rows are deleted, and the size of the file follows the pending events."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import count

import pytest
from relay.config import OutboxSettings
from relay.outbox import OutboxFull, Selection
from relay.outbox.engine import deletion
from relay.outbox.engine.pending_calls import cleanup

from tests.contract.boxes import PHONE, REFUSED, TV, SqliteBox, bodies, close, events
from tests.unit.outbox.sqlite.conftest import MakeBox

MIB = 1 << 20


def log_rows(box: SqliteBox) -> int:
    """Return the number of rows in the log of a closed outbox, including settled rows."""
    database = box.database()
    (rows,) = database.execute("SELECT count(*) FROM log").fetchone()
    database.close()
    return int(rows)


async def test_delivered_rows_are_deleted(box: SqliteBox) -> None:
    for base in range(0, 10_000, 500):
        await box.append(range(base, base + 500))
        await box.deliver(500)
    await box.outbox.close()
    assert log_rows(box) < 1_500


async def test_file_shrinks_after_a_backlog_is_drained(make_box: MakeBox) -> None:
    box = make_box(max_size_bytes=64 * MIB)
    await box.start()
    for base in range(0, 20_000, 500):
        await box.append(range(base, base + 500), body_bytes=1_000)
    full = box.path.stat().st_size
    await box.deliver_all()
    assert full > 20 * MIB
    while box.outbox.gauges().bytes > full // 4:
        await asyncio.sleep(0.01)
    await box.outbox.close()
    assert box.path.stat().st_size < full // 4
    assert log_rows(box) == 0


async def test_seqs_continue_after_the_newest_rows_are_deleted(
    make_box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest rows are deleted, older rows are not, and seqs continue after the gap, also after a kill."""
    monkeypatch.setattr(deletion, "_TRUNCATED_ROWS", 0)
    monkeypatch.setattr(deletion, "_IDLE_GARBAGE_ROWS", 512)
    box = make_box(max_size_bytes=2 * MIB)
    await box.start()
    await box.append(range(1_500), body_bytes=400)
    await box.deliver_all()
    while box.outbox._owner.known.log.last_row == 1_500:
        await asyncio.sleep(0.005)
    assert await box.append(range(1_400, 1_600)) == 100
    box = await box.kill()
    await box.start()
    box.check()
    assert await box.append(range(1_600)) == 1_600
    assert len(await box.deliver_all()) == 100
    await settled_down(box)
    assert box.outbox._owner.known.log.rows < 512
    box.check()
    await close(box)


async def test_file_that_cannot_shrink_is_not_vacuumed_repeatedly(make_box: MakeBox) -> None:
    """A dumped and restored file has no pointer map. Repeated vacuums would use a whole processor."""
    box = make_box()
    await box.start()
    await box.outbox.close()
    database = box.database()
    database.execute("PRAGMA journal_mode=DELETE")
    database.execute("PRAGMA auto_vacuum=NONE")
    database.execute("VACUUM")
    database.close()
    box.outbox = box.make()
    await box.start()
    for base in range(0, 5_000, 500):
        await box.append(range(base, base + 500), body_bytes=1_000)
    await box.deliver_all()
    await settled_down(box)
    assert await box.append([9_999]) == 0


async def settled_down(box: SqliteBox) -> None:
    """Wait until the outbox has no cleanup left and waits for calls."""
    owner = box.outbox._owner
    while not owner._bell.is_awaited or owner.known.totals.pending or cleanup(owner.known) is not None:
        await asyncio.sleep(0.005)


async def test_blocked_queue_does_not_prevent_deletes_of_other_queues(make_box: MakeBox) -> None:
    box = make_box(max_size_bytes=8 * MIB, when_full="reject")
    await box.start()
    await box.append(range(100_000, 100_100), PHONE, body_bytes=400)
    for base in range(0, 40_000, 200):
        await box.append(range(base, base + 200), TV, body_bytes=400)
        await box.append([200_000 + base], PHONE, body_bytes=400)
        assert len(await box.deliver(500, TV)) == 200
    box.check()
    assert box.outbox.ledger().dropped == 0
    after = await box.restart_after_kill()
    assert after.backlog[PHONE][0] == 300
    kept = [*range(100_000, 100_100), *range(200_000, 240_000, 200)]
    assert await after.deliver(1_000, PHONE) == bodies(kept, PHONE, 400)
    await close(after)


async def test_full_outbox_of_large_events_drains_and_fills_again(make_box: MakeBox) -> None:
    box = make_box(max_size_bytes=4 * MIB, when_full="drop_oldest")
    await box.start()
    for base in range(0, 600, 5):
        await box.append(range(base, base + 5), body_bytes=30_000)
        assert box.outbox.gauges().bytes <= 4 * MIB
    assert box.outbox.ledger().pending >= 50
    box.check()
    await box.deliver_all()
    before = box.outbox.ledger().dropped
    await box.append(range(1_000, 1_050), body_bytes=30_000)
    assert box.outbox.ledger().dropped == before


async def test_stored_ids_cannot_fill_the_file(make_box: MakeBox) -> None:
    """Ids of delivered events are stored; in a small file fewer than outbox.dedupe_window."""
    box = make_box(max_size_bytes=1 << 20, dedupe_window=100_000)
    await box.start()
    for first in range(0, 50_000, 500):
        await box.append(range(first, first + 500), TV, 100)
        await box.deliver_all()
    assert box.outbox.gauges().problem == ""
    assert await box.append([49_999], TV) == 1, "still known"


async def test_append_larger_than_the_write_ahead_log_stays_below_the_limit(make_box: MakeBox) -> None:
    box = make_box(max_size_bytes=64 * MIB)
    await box.start()
    largest = 0

    async def append(first: int, how_many: int) -> None:
        nonlocal largest
        answer = box.outbox.append(events(range(first, first + how_many), TV, 60_000))
        while not answer.done():
            await asyncio.sleep(0)
        largest = max(largest, sum(path.stat().st_size for path in box.path.parent.glob("outbox.db*")))
        await answer

    for first in range(0, 480, 16):
        await append(first, 16)
    with pytest.raises(OutboxFull):
        await append(1_000, 380)
    await append(2_000, 120)
    assert largest < 64 * MIB


async def test_claims_and_settles_complete_although_each_append_drops_events(make_box: MakeBox) -> None:
    box = make_box(max_size_bytes=8 << 20, when_full="drop_oldest", dedupe_window=1_000)
    await box.start()
    hundreds = (range(first, first + 100) for first in count(0, 100))
    while box.outbox.ledger().dropped == 0:
        await box.append(next(hundreds), TV, 400)
    await box.append([1 << 40], PHONE)
    flooding = True

    async def flood() -> None:
        while flooding:
            await box.append(next(hundreds), TV, 400)

    flooder = asyncio.create_task(flood())
    try:
        async with asyncio.timeout(20):
            for key in (TV, PHONE):
                await box.claim(1, key)
                await box.settle(key=key)
    finally:
        flooding = False
        await flooder
    assert box.outbox.ledger().delivered == 2


async def test_dead_letters_cannot_fill_the_file(make_box: MakeBox) -> None:
    box = make_box(max_size_bytes=4 * MIB)
    await box.start()
    for base in range(0, 200, 10):
        await box.append(range(base, base + 10), body_bytes=30_000)
        claimed = await box.claim(10)
        await box.settle(dead=dict.fromkeys(range(len(claimed.bodies)), REFUSED))
    assert box.outbox.ledger().dead_lettered == 200
    assert 20 <= box.outbox.gauges().dead_letters <= 40
    assert await box.append(range(1_000, 1_010), body_bytes=30_000) == 0
    box.check()


async def test_full_outbox_accepts_events_while_it_drains(make_box: MakeBox) -> None:
    """Delivered events make space at once, not when no event is pending."""
    box = make_box(max_size_bytes=8 * MIB)
    await box.start()
    number = 0
    while True:
        try:
            await box.append(range(number, number + 100), body_bytes=1_000)
        except OutboxFull:
            break
        number += 100
    accepted = 0
    while not accepted and box.outbox.ledger().pending > number // 4:
        draining = asyncio.ensure_future(box.deliver(100))
        while not draining.done():
            with suppress(OutboxFull):
                await box.append([number + accepted], body_bytes=1_000)
                accepted += 1
            await asyncio.sleep(0)
        await draining
    assert accepted
    assert box.outbox.ledger().pending > number // 2


async def test_database_and_log_together_stay_below_the_limit(make_box: MakeBox) -> None:
    """The sizes are those of the file system, including free pages."""
    box = make_box(max_size_bytes=4 * MIB, when_full="drop_oldest")
    await box.start()
    wal = box.path.with_name("outbox.db-wal")
    for base in range(0, 6_000, 50):
        await box.append(range(base, base + 50), body_bytes=100 if base % 1_000 < 500 else 4_000)
        claimed = await box.claim(20)
        await box.settle(delivered=base % 300 == 0, dead={0: REFUSED} if claimed.bodies else {})
        assert box.path.stat().st_size + wal.stat().st_size <= 4 * MIB


@pytest.mark.parametrize("before", [64 * MIB, 512 * MIB])
async def test_a_lowered_limit_is_reached_by_both_files(make_box: MakeBox, before: int) -> None:
    box = make_box(max_size_bytes=before)
    await box.start()
    for base in range(0, 10_000, 500):
        await box.append(range(base, base + 500), body_bytes=1_000)
    box.outbox.configure(OutboxSettings(max_size_bytes=2 * MIB))
    await box.deliver_all()
    await settled_down(box)
    for number in range(10_000, 10_400):
        await box.append([number], body_bytes=1_000)
        await box.deliver(1)
    await settled_down(box)
    wal = box.path.with_name("outbox.db-wal")
    assert box.path.stat().st_size + wal.stat().st_size <= 2 * MIB
    assert box.outbox.gauges().bytes <= 2 * MIB


async def test_requeue_works_in_a_full_outbox(make_box: MakeBox) -> None:
    box = make_box(max_size_bytes=4 * MIB)
    await box.start()
    for base in range(0, 200, 10):
        await box.append(range(base, base + 10), body_bytes=5_000)
        claimed = await box.claim(10)
        await box.settle(dead=dict.fromkeys(range(len(claimed.bodies)), REFUSED))
    with suppress(OutboxFull):
        for number in range(1_000, 20_000):
            await box.append([number], body_bytes=500)
    letters = box.outbox.gauges().dead_letters
    assert letters > 100
    assert not box.outbox.room() or box.outbox.ledger().accepted < 19_000
    assert await box.outbox.requeue(Selection(all=True), 1_000) == letters
    box.check()

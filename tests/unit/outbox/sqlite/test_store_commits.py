"""The number of commits, and the amount of data that they write."""

from __future__ import annotations

import asyncio

import pytest
from relay.outbox import ClaimPart, Settled

from tests.contract.boxes import PHONE, TV, SqliteBox, bodies, event, events
from tests.unit.outbox.sqlite.conftest import MakeBox

FRAME = 4096 + 24
LOG_BYTES = 4 << 20
"""Maximum size of the write-ahead log of a large outbox."""


def commits(box: SqliteBox) -> float:
    return box.metrics.outbox_commits._value.get()


def written(box: SqliteBox) -> float:
    return box.metrics.outbox_written_bytes._value.get()


def reserve_the_log(box: SqliteBox) -> None:
    """Extend the log's file to its maximum, so that later commits write no zeros."""
    store = box.outbox._owner.storage
    assert store._wal.reserve(LOG_BYTES, LOG_BYTES)
    store._wal.grown()


async def test_concurrent_appends_share_a_commit(box: SqliteBox) -> None:
    before = commits(box)
    await asyncio.gather(*(box.outbox.append([event(number)]) for number in range(500)))
    assert commits(box) == before + 1


async def test_appends_of_consecutive_iterations_share_a_commit(box: SqliteBox) -> None:
    before = commits(box)
    appends = []
    for number in range(4):
        appends.append(box.outbox.append([event(number)]))
        await asyncio.sleep(0)
    await asyncio.gather(*appends)
    assert commits(box) == before + 1


async def test_appends_during_a_commit_share_the_next_commit(box: SqliteBox) -> None:
    before = commits(box)
    database, begun = box.outbox._owner.storage._thread.database, []
    database.set_trace_callback(begun.append)
    first = box.outbox.append([event(0)])
    while not begun:
        await asyncio.sleep(0)
    later = [box.outbox.append([event(number)]) for number in range(1, 100)]
    await asyncio.gather(first, *later)
    assert commits(box) == before + 2


async def test_single_append_is_one_commit_of_one_page(box: SqliteBox) -> None:
    await box.append([0])
    commits_before, written_before = commits(box), written(box)
    await box.append([1])
    await box.outbox.check()
    assert commits(box) == commits_before + 1
    assert written(box) == written_before + FRAME


async def test_single_event_writes_three_pages_until_its_settlement(box: SqliteBox) -> None:
    """The pages are for its append, journal entry and settlement. Deletes are delayed and shared."""
    reserve_the_log(box)
    await box.append([0])
    await box.deliver(1)
    before = written(box)
    for number in range(1, 101):
        await box.append([number], body_bytes=400)
        await box.deliver(1)
    assert (written(box) - before) / 100 <= 3.5 * FRAME


async def test_saturated_outbox_writes_less_than_four_times_the_event(box: SqliteBox) -> None:
    """1000 devices, 500 events per commit, each delivered soon after."""
    queues = [(1, "tv", f"device-{number:04}") for number in range(1000)]
    before, count = written(box), 0
    for base in range(0, 60_000, 1_000):
        for start in (base, base + 500):
            await box.outbox.append(
                [event(n, queues[n * 7919 % 50 + base // 1_000 * 50 % 1000], 400) for n in range(start, start + 500)]
            )
        for key in [key for key, (waiting, _) in box.backlog.items() if waiting]:
            count += len(await box.deliver(500, key))
    assert count == 60_000
    assert (written(box) - before) / count <= 1_700


@pytest.mark.parametrize(("size", "bound"), [(4 << 20, 1 << 20), (16 << 20, 4 << 20), (512 << 20, 4 << 20)])
async def test_write_ahead_log_stays_bounded(make_box: MakeBox, size: int, bound: int) -> None:
    box = make_box(max_size_bytes=size, when_full="drop_oldest")
    await box.start()
    wal = box.path.with_name("outbox.db-wal")
    largest = 0
    for base in range(0, 20_000, 500):
        await box.append(range(base, base + 500), body_bytes=400)
        if base % 2_000 == 0:
            await box.deliver(1_500)
        largest = max(largest, wal.stat().st_size)
    assert largest <= bound
    assert box.outbox.gauges().bytes >= box.path.stat().st_size + largest


@pytest.mark.parametrize(("size", "bound"), [(64 << 20, 4 << 20), (512 << 20, 4 << 20)])
@pytest.mark.parametrize("body_bytes", [100, 400, 20_000])
async def test_write_ahead_log_stays_bounded_with_commits_of_maximum_size(
    make_box: MakeBox, size: int, bound: int, body_bytes: int
) -> None:
    """The waiting appends need several commits, which also delete settled rows."""
    box = make_box(max_size_bytes=size)
    await box.start()
    wal = box.path.with_name("outbox.db-wal")
    per_append, largest, base = max(200_000 // body_bytes, 1), 0, 0
    for _ in range(3):
        appends = []
        for _ in range(40):
            appends.append(box.append(range(base, base + per_append), body_bytes=body_bytes))
            base += per_append
        for each in asyncio.as_completed(appends):
            await each
            largest = max(largest, wal.stat().st_size)
        await box.deliver(base * 3 // 4)
        largest = max(largest, wal.stat().st_size)
    assert bound // 2 < largest <= bound


@pytest.mark.parametrize(("size", "bound"), [(64 << 20, 4 << 20), (512 << 20, 4 << 20)])
async def test_deleting_a_drained_backlog_keeps_the_wal_bounded(make_box: MakeBox, size: int, bound: int) -> None:
    """Commits that only delete write the most: one page for every few deleted rows."""
    box = make_box(max_size_bytes=size)
    await box.start()
    wal = box.path.with_name("outbox.db-wal")
    for base in range(0, 20_000, 500):
        await box.append(range(base, base + 500), body_bytes=1_000)
    await box.deliver_all()
    largest = 0
    while box.outbox.gauges().bytes > bound + (4 << 20):
        largest = max(largest, wal.stat().st_size)
        await asyncio.sleep(0.001)
    assert 0 < largest <= bound


async def test_deleting_a_drained_backlog_writes_few_pages(make_box: MakeBox) -> None:
    """The newest rows are at the end of the file, and are cut off with it."""
    box = make_box(max_size_bytes=64 << 20)
    await box.start()
    for base in range(0, 40_000, 500):
        await box.append(range(base, base + 500), body_bytes=400)
    full = box.outbox.gauges().bytes
    await box.deliver_all()
    written_before, commits_before = written(box), commits(box)
    while box.outbox.gauges().bytes > full // 3:
        await asyncio.sleep(0.001)
    await box.append([40_000])
    assert (written(box) - written_before) / 40_000 <= 150
    assert commits(box) - commits_before <= 60
    await box.deliver_all()
    assert await box.append(range(39_000, 40_002)) == 1_001


async def test_stored_ids_of_deleted_events_are_not_moved_repeatedly(make_box: MakeBox) -> None:
    """The ids use pages freed by the first rows, not pages behind the log, whose end is cut off step by step."""
    box = make_box(max_size_bytes=256 << 20)
    await box.start()
    for base in range(0, 80_000, 1_000):
        await box.append(range(base, base + 1_000), body_bytes=400)
    await box.deliver_all()
    before = written(box)
    while box.outbox._owner.known.log.rows:
        await asyncio.sleep(0.001)
    await box.append([80_000])
    assert (written(box) - before) / 80_000 <= 130
    assert await box.append(range(79_000, 80_001)) == 1_001


async def test_rows_before_pending_events_are_deleted_after_a_delay(make_box: MakeBox) -> None:
    """If the pending events are settled in time, the freed pages are not written."""
    box = make_box(max_size_bytes=64 << 20)
    await box.start()
    for base in range(0, 10_000, 500):
        await box.append(range(base, base + 500), body_bytes=400)
    for _ in range(19):
        await box.deliver(500)
    state = box.outbox._owner.known
    for _ in range(9):
        await box.outbox.forget([9_999])
        box.clock.advance(1_000)
    assert (state.log.rows, state.totals.pending) == (10_000, 500)
    box.clock.advance(2_000)
    while state.log.rows == 10_000:
        await box.outbox.forget([9_999])
    assert state.totals.pending == 500


async def test_file_shrinks_after_a_backlog_despite_steady_traffic(make_box: MakeBox) -> None:
    box = make_box(max_size_bytes=64 << 20)
    await box.start()
    for base in range(0, 10_000, 500):
        await box.append(range(base, base + 500), body_bytes=1_000)
    full = box.outbox.gauges().bytes
    await box.deliver_all()
    for number in range(10_000, 10_400):
        await box.append([number])
        await box.deliver(1)
        box.clock.advance(1_000)
    assert box.outbox.gauges().bytes < full // 2


async def test_checkpointed_frames_are_neither_copied_nor_counted_again(make_box: MakeBox) -> None:
    box = make_box(max_size_bytes=64 << 20)
    await box.start()
    await box.append(range(2_400), body_bytes=1_000)  # more than half of the maximum log size, and less than all of it
    storage = box.outbox._owner.storage
    await storage.run(storage._copy_back)
    before = written(box)
    await box.outbox.forget([9_999])
    await box.append([2_400])
    await box.outbox.check()
    assert written(box) - before <= 10 * FRAME


async def test_commit_of_many_queues_causes_no_extra_checkpoint(make_box: MakeBox) -> None:
    """The maximum that their rows may write exceeds the log, but they write little."""
    box = make_box(max_size_bytes=512 << 20)
    await box.start()
    keys = [(1, "tv", f"tv-{number}") for number in range(500)]
    for base in range(0, 10_000, 500):
        await box.outbox.append([event(base + at, key, 400) for at, key in enumerate(keys)])
    checkpoints = []
    database = box.outbox._owner.storage._thread.database
    database.set_trace_callback(lambda sql: checkpoints.append(sql) if "wal_checkpoint" in sql else None)
    for _ in range(10):
        queues = [box.queues[key] for key in keys]
        await box.outbox.claim([ClaimPart(queue_id, 1, b"") for queue_id in queues])
        await box.outbox.settle([Settled(queue_id, True, {}, b"") for queue_id in queues])
    assert len(checkpoints) <= 4


async def test_many_waiting_appends_are_split_into_several_commits(box: SqliteBox) -> None:
    before = commits(box)
    await asyncio.gather(
        *(box.outbox.append(events(range(base, base + 10), body_bytes=20_000)) for base in range(0, 450, 10))
    )
    assert commits(box) - before >= 5
    box.check()


async def test_memory_of_waiting_appends_is_limited(box: SqliteBox) -> None:
    """With 32 MiB of waiting bodies an append is rejected, and `room` returns False before."""
    answers = []
    for base in range(0, 10_000, 100):
        if not box.outbox.room():
            break
        answers.append(box.outbox.append(events(range(base, base + 100), body_bytes=10_000)))
    assert 30 <= len(answers) <= 36
    results = await asyncio.gather(*answers, return_exceptions=True)
    assert sum(isinstance(each, Exception) for each in results) <= 1
    assert box.outbox.room()


@pytest.mark.parametrize("count", [1, 137])
async def test_commits_of_any_number_of_rows(box: SqliteBox, count: int) -> None:
    await box.append(range(count))
    await box.append(range(count, 2 * count), PHONE)
    assert (await box.claim(1_000, TV)).bodies == bodies(range(count))
    assert (await box.claim(1_000, PHONE)).bodies == bodies(range(count, 2 * count), PHONE)

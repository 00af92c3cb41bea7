"""What is done is deleted, and the file follows what is pending."""

from __future__ import annotations

import asyncio

from tests.contract.boxes import PHONE, REFUSED, TV, SqliteBox, bodies, close
from tests.unit.outbox.conftest import MakeBox

MIB = 1 << 20


def log_rows(box: SqliteBox) -> int:
    """Rows of the log, done ones included; the outbox is closed."""
    database = box.database()
    (rows,) = database.execute("SELECT count(*) FROM log").fetchone()
    database.close()
    return int(rows)


async def test_delivered_rows_leave_the_log(box: SqliteBox) -> None:
    for base in range(0, 10_000, 500):
        await box.append(range(base, base + 500))
        await box.deliver(500)
    await box.outbox.close()
    assert log_rows(box) < 1_500


async def test_the_file_shrinks_after_a_backlog_is_drained(make_box: MakeBox) -> None:
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


async def test_a_stuck_lane_does_not_pin_what_others_have_delivered(make_box: MakeBox) -> None:
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


async def test_a_full_outbox_of_large_events_drains_and_fills_again(make_box: MakeBox) -> None:
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


async def test_dead_letters_cannot_fill_the_file(make_box: MakeBox) -> None:
    box = make_box(max_size_bytes=4 * MIB)
    await box.start()
    for base in range(0, 200, 10):
        await box.append(range(base, base + 10), body_bytes=30_000)
        taken = await box.take(10)
        await box.settle(dead=dict.fromkeys(range(len(taken.bodies)), REFUSED))
    assert box.outbox.ledger().dead_lettered == 200
    assert 20 <= box.outbox.gauges().dead_letters <= 40
    assert await box.append(range(1_000, 1_010), body_bytes=30_000) == 0
    box.check()

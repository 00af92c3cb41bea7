"""The ring of tables on PostgreSQL: delivered events leave with whole tables, and nothing else does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from relay.config import OutboxSettings
from relay.outbox import Ledger
from relay.outbox.postgres.schema import RING, RINGS

from tests.contract.boxes import PHONE, REFUSED, TV, bodies, close, events
from tests.contract.test_two_relays import everything_is_reported, fence, groups, until

if TYPE_CHECKING:
    from tests.contract.postgres_box import PostgresBox
    from tests.support.postgres_server import PostgresCluster

pytestmark = pytest.mark.slow

SETTINGS = OutboxSettings(max_size_bytes=8 << 20, dedupe_window=1_000)
"""A segment has 1 MiB."""
BODY_BYTES = 8_000
PER_SEGMENT = 140
"""Number of such events that fill a segment."""


@pytest.fixture
async def box(postgres_cluster: PostgresCluster) -> AsyncIterator[PostgresBox]:
    from tests.contract.postgres_box import PostgresBox

    box = PostgresBox(SETTINGS, url=postgres_cluster.create_database())
    await box.start()
    yield box
    await close(box)


async def clean(box: Any) -> None:
    """Clean as the holder of the first queue group does, and learn the present segment."""
    outbox = box.outbox
    await outbox._database.clean(box.settings.dedupe_window)
    beats = outbox._parts.watching._beats
    outbox._parts.watching._is_beat_due = True
    outbox._parts.watching.ring()
    await until(lambda: outbox._parts.watching._beats > beats)


def query(box: PostgresBox, statement: str) -> list[tuple[Any, ...]]:
    with box.connect() as connection:
        found: list[tuple[Any, ...]] = connection.execute(statement.encode()).fetchall()
        return found


def ring_bytes(box: PostgresBox) -> int:
    tables = [f"relay.{parent}{end}" for parent in RINGS for end in ("", *(f"_{k}" for k in range(RING)))]
    ((size,),) = query(box, f"SELECT sum(pg_total_relation_size(t::regclass))::bigint FROM unnest(ARRAY{tables}) t")
    return int(size)


async def turn(box: PostgresBox, first: int, key: Any = PHONE) -> None:
    """Store and deliver the events of one segment, and clean."""
    numbers = range(first, first + PER_SEGMENT)
    await box.outbox.append(events(numbers, key, BODY_BYTES))
    await box.seen()
    assert await box.deliver(PER_SEGMENT, key) == bodies(numbers, key, BODY_BYTES)
    await clean(box)


async def test_delivered_events_leave_with_whole_tables(box: PostgresBox) -> None:
    """Three turns of the ring, while a transaction holds an old snapshot. No row is deleted."""
    with box.connect() as holding:
        holding.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        holding.execute("SELECT 1 FROM relay.meta")
        for number in range(3 * RING):
            await turn(box, 1_000_000 + number * PER_SEGMENT)
            assert ring_bytes(box) < 6 << 20
    deleted = "SELECT sum(n_tup_del) FROM pg_stat_user_tables WHERE relname ~ '^(log|commits|moves)_'"
    assert query(box, deleted) == [(0,)]
    assert box.on_disk() == box.outbox.ledger() == Ledger(accepted=3 * RING * PER_SEGMENT, delivered=24 * PER_SEGMENT)


async def test_a_waiting_device_keeps_its_events_and_no_others(box: PostgresBox) -> None:
    await box.append(range(20))
    await box.claim(3)
    await box.settle(delivered=False, dead={0: REFUSED})
    for number in range(2 * RING):
        await turn(box, 1_000_000 + number * PER_SEGMENT)
        assert ring_bytes(box) < 6 << 20
    assert box.on_disk().pending == 19
    box = await box.restart_after_kill()  # type: ignore[assignment]
    try:
        assert await box.deliver(100) == bodies(range(1, 20))
        assert box.on_disk().pending == 0
        assert box.on_disk().balanced
    finally:
        await close(box)


async def test_a_claimed_event_is_found_after_it_was_moved(box: PostgresBox) -> None:
    await box.append(range(5))
    claimed = await box.claim(5)
    for number in range(RING):
        await turn(box, 1_000_000 + number * PER_SEGMENT)
    box.outbox.release([box.queues[TV]])
    assert (await box.claim(5)).bodies == claimed.bodies == bodies(range(5))
    await box.settle()
    assert box.on_disk().pending == 0


async def test_events_that_wait_in_every_segment_are_moved_when_most_of_the_files_is_waste(box: PostgresBox) -> None:
    """A seventh of each segment waits: too much to move early."""
    waiting = 0
    for number in range(3 * RING):
        await box.append(range(waiting, waiting + 20), TV, BODY_BYTES)
        waiting += 20
        await turn(box, 1_000_000 + number * PER_SEGMENT)
        await clean(box)
    pending_bytes = waiting * (BODY_BYTES + 250)
    assert ring_bytes(box) < 2 * pending_bytes + (6 << 20)
    delivered: list[bytes] = []
    while len(delivered) < waiting:
        delivered += await box.deliver(100)
    assert delivered == bodies(range(waiting), TV, BODY_BYTES)


async def test_a_long_reader_delays_the_cleanup_only(box: PostgresBox) -> None:
    with box.connect() as reading:
        reading.execute("BEGIN")
        reading.execute("LOCK TABLE relay.log_0 IN ACCESS SHARE MODE")
        for number in range(4):
            await turn(box, 1_000_000 + number * PER_SEGMENT)
        assert query(box, "SELECT pg_relation_size('relay.log_0') > 0") == [(True,)]
    await clean(box)
    assert query(box, "SELECT pg_relation_size('relay.log_0')") == [(0,)]


async def test_duplicates_are_known_and_totals_stay_after_the_ring_has_turned(box: PostgresBox) -> None:
    for number in range(2 * RING):
        await turn(box, 1_000_000 + number * PER_SEGMENT)
    last = 1_000_000 + 2 * RING * PER_SEGMENT
    box = await box.restart_after_kill()  # type: ignore[assignment]
    try:
        known = events(range(last - SETTINGS.dedupe_window, last), PHONE, BODY_BYTES)
        assert (await box.outbox.append(known)).duplicates == 1_000
        assert box.on_disk() == box.outbox.ledger()
        assert box.on_disk().delivered == 2 * RING * PER_SEGMENT
    finally:
        await close(box)


async def test_rows_of_ended_replicas_are_removed_and_their_totals_stay(box: PostgresBox) -> None:
    delivered = 0
    for number in range(40):
        await box.append([number])
        delivered += len(await box.deliver(1))
        await box.restart()
    for number in range(RING + 1):
        await turn(box, 1_000_000 + number * PER_SEGMENT)
        delivered += PER_SEGMENT
    ((replicas, fences),) = query(
        box, "SELECT (SELECT count(*) FROM relay.replicas), (SELECT count(*) FROM relay.fences)"
    )
    assert replicas <= 4
    assert fences == 2 * replicas
    assert box.on_disk() == box.outbox.ledger() == Ledger(accepted=delivered, delivered=delivered)
    await box.restart()
    assert box.outbox.ledger() == Ledger(accepted=delivered, delivered=delivered)


async def test_cursors_of_removed_replicas_are_removed(box: PostgresBox) -> None:
    for number in range(20):
        await box.append([number])
        await box.deliver(1)
        await box.restart()
    for number in range(RING + 1):
        await turn(box, 1_000_000 + number * PER_SEGMENT)
    await box.append([100])
    assert await box.deliver(1) == bodies([100])
    cursors = "SELECT count(*) FROM relay.device_queues, jsonb_object_keys(cursors) WHERE device_id = 'tv-1'"
    assert query(box, cursors) == [(1,)]


async def test_a_replica_that_may_still_send_is_not_removed(box: PostgresBox) -> None:
    other = box.beside()
    await other.start()
    await until(lambda: groups(box) and groups(other))
    await box.outbox.append(events(range(3)))
    await everything_is_reported((box, other))
    holder, rest = (box, other) if box.backlog.get(TV, (0, 0))[0] else (other, box)
    await holder.claim(3)
    fenced = holder.outbox._parts.state.replica  # type: ignore[attr-defined]
    await fence(rest, fenced)
    await until(lambda: len(groups(rest)) == 256)
    assert await rest.deliver(3) == bodies(range(3))
    for number in range(RING + 1):
        await turn(rest, 1_000_000 + number * PER_SEGMENT)
    owner = f"SELECT count(*) FROM relay.replicas WHERE replica = {fenced}"
    assert query(box, owner) == [(1,)]
    await holder.outbox.close()
    await until(lambda: query(box, "SELECT count(*) FROM relay.owed") == [(0,)])
    await clean(rest)
    assert query(box, owner) == [(0,)]
    await close(other)

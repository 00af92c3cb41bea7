"""One outbox in a process of its own, through its protocol: `python -m bench.outbox_life MODE STORE ...`.

STORE is a PostgreSQL URL, or the path of a SQLite file. Each mode prints one line of JSON with its figures.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from uuid import uuid4

import psycopg
from relay.app.run_service import event_loop_factory
from relay.config import OutboxSettings
from relay.event.reader import Event
from relay.outbox import Backlog, ClaimPart, Outbox, RestoredState, Settled
from relay.outbox.factory import create_outbox
from relay.outbox.postgres.outbox import SharedOutbox
from relay.outbox.postgres.server import PostgresServer
from relay.runtime.clock import SystemClock
from relay.runtime.metrics import Metrics
from relay.runtime.secret import Secret
from relay.runtime.tasks import Tasks

DEVICES = 1_000
BODY_BYTES = 400
_CLAIMED = 64
_MAX_BYTES = 64 << 30
_SIZE = b"""
SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'relay'::regnamespace"""


class Pending:
    """The holder of the device queues: what is pending in each."""

    def __init__(self) -> None:
        self.events: dict[int, int] = {}
        self.changed = asyncio.Event()

    def pending(self, backlogs: Sequence[Backlog]) -> None:
        for queue_id, _, events, _ in backlogs:
            self.events[queue_id] = events
        self.changed.set()

    def granted(self, restored: RestoredState) -> None: ...

    def owed(self, queue_id: int, requests: int) -> bytes:
        return b""

    async def until(self, events: int) -> None:
        while sum(self.events.values()) < events:
            self.changed.clear()
            await self.changed.wait()


def new_events() -> Iterator[Event]:
    run = uuid4().bytes[:8]
    for number in count():
        body = b'{"n":%d,"pad":"' % number
        key = (1, "tv", f"bench-{number % DEVICES}")
        yield Event(run + number.to_bytes(8), key, body.ljust(BODY_BYTES - 2, b"x") + b'"}', False)


def make(store: str, max_bytes: int = _MAX_BYTES) -> Outbox:
    arguments = (SystemClock(), Metrics(), Tasks())
    if "://" in store:
        settings = OutboxSettings(url=Secret(store), max_size_bytes=max_bytes, max_devices=100_000)
        return SharedOutbox(settings, *arguments, PostgresServer(settings))
    return create_outbox(OutboxSettings(path=Path(store), max_size_bytes=max_bytes), *arguments)


async def opened(store: str, max_bytes: int = _MAX_BYTES) -> tuple[Outbox, Pending]:
    outbox, pending = make(store, max_bytes), Pending()
    await outbox.open()
    await outbox.load(pending)
    return outbox, pending


async def append(store: str, events: int, per_commit: int) -> dict[str, float]:
    """Append one commit after the other."""
    outbox, _ = await opened(store)
    made = new_events()
    commits = [[next(made) for _ in range(per_commit)] for _ in range(events // per_commit)]
    began = time.perf_counter()
    for each in commits:
        await outbox.append(each)
    seconds = time.perf_counter() - began
    await outbox.close()
    return {"per_s": events / seconds}


async def lonely(store: str, events: int) -> dict[str, float]:
    return {"p50_ms": statistics.median(await append_times(store, events)) * 1000}


async def append_times(store: str, events: int) -> list[float]:
    """Append events one after the other. Return the duration of each append in seconds."""
    outbox, _ = await opened(store)
    made, times = new_events(), []
    for _ in range(events):
        one = [next(made)]
        began = time.perf_counter()
        await outbox.append(one)
        times.append(time.perf_counter() - began)
    await outbox.close()
    return times


async def drain(outbox: Outbox, pending: Pending) -> None:
    while left := {queue_id: events for queue_id, events in pending.events.items() if events}:
        queue_ids = [*left][:_CLAIMED]
        parts = [ClaimPart(queue_id, min(8, left[queue_id]), b"") for queue_id in queue_ids]
        claimed = await outbox.claim(parts)
        await outbox.settle([Settled(each.queue_id, True, {}, b"") for each in claimed])


async def life(store: str, events: int, cycles: int, max_bytes: int) -> dict[str, float]:
    """Store and deliver all events, in so many cycles."""
    outbox, pending = await opened(store, max_bytes)
    made, seconds = new_events(), 0.0
    for _ in range(cycles):
        batches = [[next(made) for _ in range(500)] for _ in range(events // cycles // 500)]
        began = time.perf_counter()
        for each in batches:
            await outbox.append(each)
        await pending.until(len(batches) * 500)
        await drain(outbox, pending)
        seconds += time.perf_counter() - began
    await outbox.close()
    return {"per_s": events / seconds}


async def fills(store: str, events: int, cycles: int) -> dict[str, float]:
    """Fill and drain again and again. Return the bytes of all tables after the first and after the last drain."""
    outbox, pending = await opened(store, 128 << 20)
    made, sizes = new_events(), []
    with psycopg.connect(store, autocommit=True) as database:
        for _ in range(cycles):
            for _ in range(events // 500):
                await outbox.append([next(made) for _ in range(500)])
            await pending.until(events)
            await drain(outbox, pending)
            await asyncio.sleep(12)  # One cleanup.
            [(size,)] = database.execute(_SIZE).fetchall()
            sizes.append(float(size))
    await outbox.close()
    return {"first": sizes[0], "last": sizes[-1], "most": max(sizes)}


async def many_commits(store: str, commits: int) -> dict[str, float]:
    """Return the time of an append at the beginning, and after so many commits."""
    times = await append_times(store, commits)
    return {"before_ms": statistics.median(times[:500]) * 1000, "after_ms": statistics.median(times[-500:]) * 1000}


async def load(store: str) -> dict[str, float]:
    """Open an outbox with pending events, and claim the first request."""
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began = time.perf_counter()
    outbox, pending = await opened(store)
    queue_id = next(iter(pending.events))
    await outbox.claim([ClaimPart(queue_id, 1, b"")])
    seconds = time.perf_counter() - began
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    events = sum(pending.events.values())
    await outbox.close()
    return {"seconds": seconds, "rss": rss, "rss_before": base, "events": events}


def floor(store: str, events: int, per_commit: int) -> dict[str, float]:
    """A bare loop: one statement per commit, with the bodies joined, into one table."""
    made = new_events()
    statement = """
        INSERT INTO floor SELECT u.n, u.queue_id, substring(%(ids)b::bytea FROM (16 * u.at - 15)::int FOR 16), 0,
               substring(%(bodies)b::bytea FROM (400 * u.at - 399)::int FOR 400)
        FROM unnest(%(numbers)s::bigint[], %(queue_ids)s::bigint[]) WITH ORDINALITY u(n, queue_id, at)"""
    with psycopg.connect(store, autocommit=True) as database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS floor(seq bigint, queue_id bigint, event_id bytea, crc bigint, body bytea,"
            " PRIMARY KEY (event_id, seq))"
        )
        prepared = []
        for first in range(0, events, per_commit):
            batch = [next(made) for _ in range(per_commit)]
            ids, bodies = b"".join(one.event_id for one in batch), b"".join(one.body for one in batch)
            numbers = list(range(first, first + per_commit))
            values = {"ids": ids, "bodies": bodies, "numbers": numbers, "queue_ids": [n % DEVICES for n in numbers]}
            prepared.append(values)
        times = []
        began = time.perf_counter()
        for values in prepared:
            at = time.perf_counter()
            database.execute(statement.encode(), values, binary=True)
            times.append(time.perf_counter() - at)
        seconds = time.perf_counter() - began
    return {"per_s": events / seconds, "p50_ms": statistics.median(times) * 1000}


MODES = {"append": append, "lonely": lonely, "life": life, "fills": fills, "commits": many_commits, "load": load}


def main(mode: str, store: str, *numbers: str) -> None:
    given = [int(each) for each in numbers]
    if mode == "floor":
        found = floor(store, given[0], given[1])
    else:
        with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
            found = runner.run(MODES[mode](store, *given))  # type: ignore[operator]
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Transactions of several relays that run at the same time on PostgreSQL. Locks of the test decide their order."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from relay.config import OutboxSettings
from relay.outbox import OutboxLost, OutboxUnavailable
from relay.outbox.postgres.database import (
    AppendTransaction,
    ForwardTotals,
    Journal,
    Move,
    NewPart,
    queue_id_of,
)
from relay.runtime.secret import Secret
from relay.runtime.tasks import Tasks

from tests.contract.boxes import TV, event

if TYPE_CHECKING:
    import psycopg
    from relay.outbox.postgres.server import PostgresServer

    from tests.support.postgres_server import PostgresCluster

pytestmark = pytest.mark.slow

QUEUE = queue_id_of(TV)
WAITS = "SELECT 1 FROM pg_stat_activity WHERE application_name ~ '{}$' AND wait_event_type = 'Lock'"


def append_of(number: int) -> AppendTransaction:
    """Return the first append transaction of a replica, with the event of this number."""
    body = event(number).body
    part = NewPart(array("q", [QUEUE]), [event(number).event_id], [0], array("I", [0]), [body])
    return AppendTransaction(1, 1, 0, 0, [(QUEUE, TV)], [part])


def claim() -> Move:
    """Return the first forward transaction of a replica, with a request."""
    journal = Journal(QUEUE, b"", 0, 1, 0, {1: 1}, 0, b"")
    return Move(1, ForwardTotals(), 0, 1, 1, [journal], (), (), (), {}, (), ())


class Site:
    """Two registered replicas, and connections of an administrator."""

    def __init__(self, url: str, servers: list[PostgresServer], replicas: list[int]) -> None:
        self.url = url
        self.servers = servers
        self.replicas = replicas
        self.tasks = Tasks()

    @asynccontextmanager
    async def transaction(self, *statements: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Execute statements, and roll back at the end if the test does not commit."""
        import psycopg

        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            for statement in statements:
                await connection.execute(statement.encode())
            yield connection
            await connection.rollback()

    async def waits(self, name: str) -> None:
        """Wait until a connection waits for a lock."""
        await self.until(WAITS.format(name))

    async def until(self, query: str, or_else: Callable[[], bool] = lambda: False) -> None:
        """Wait until a query returns a row."""
        async with self.transaction() as connection, asyncio.timeout(30):
            while not or_else() and await (await connection.execute(query.encode())).fetchone() is None:
                await connection.rollback()
                await asyncio.sleep(0.01)


@pytest.fixture
async def site(postgres_cluster: PostgresCluster) -> AsyncIterator[Site]:
    from relay.outbox.postgres.server import PostgresServer

    url = postgres_cluster.create_database()
    servers = [PostgresServer(OutboxSettings(url=Secret(url), replica_name=name)) for name in ("one", "two")]
    yield Site(url, servers, [(await server.register("test")).replica for server in servers])
    for server in servers:
        await server.close()


LOCK = "LOCK TABLE relay.commits_7 IN ACCESS EXCLUSIVE MODE"
"""Every poll reads this table. Appends use another one."""


async def polled(site: Site, polling: asyncio.Task[Any]) -> list[int]:
    """Return the replicas whose first events a poll found."""
    return sorted(replica for replica, rows in (await polling).items() if rows)


async def test_a_poll_has_one_snapshot_of_all_streams(site: Site) -> None:
    """Without the event of the first replica, it must not find the later one of the second."""
    one, two = site.servers
    async with site.transaction(LOCK) as before, site.transaction("SET application_name = 'gate'") as after:
        polling = site.tasks.start("poll", one.poll({}, 50))
        await site.waits("one watch")
        locking = site.tasks.start("lock", after.execute(LOCK.encode()))
        await site.waits("gate")
        await before.rollback()
        await locking  # The first statement of the poll is over. Another one would wait.
        await one.append(site.replicas[0], append_of(1))
        await two.append(site.replicas[1], append_of(2))
    assert await polled(site, polling) in ([], site.replicas)


async def test_a_poll_finds_new_replicas_in_its_snapshot(site: Site) -> None:
    one, two = site.servers
    async with site.transaction(LOCK) as gate, site.transaction("SELECT 1") as registering:
        register = b"INSERT INTO relay.replicas(name) VALUES ('new') RETURNING replica"
        ((new,),) = await (await registering.execute(register)).fetchall()
        fences = f"INSERT INTO relay.fences(replica, role) VALUES ({new}, 'append'), ({new}, 'forward')"
        await registering.execute(fences.encode())
        polling = site.tasks.start("poll", one.poll(dict.fromkeys(site.replicas, 0), 50))
        await site.waits("one watch")
        await registering.commit()
        await one.append(new, append_of(1))
        await two.append(site.replicas[1], append_of(2))
        await gate.rollback()
        assert await polled(site, polling) == [site.replicas[1], new]


@pytest.mark.parametrize("kind", ["append", "move"])
async def test_a_fence_waits_for_the_running_transactions_of_the_replica(site: Site, kind: str) -> None:
    """They are committed before the fence, or not at all. The fence reserves a rate slot for their requests."""
    (one, two), fenced = site.servers, site.replicas[0]
    await two.append(site.replicas[1], append_of(1))
    async with site.transaction(f"SELECT 1 FROM relay.device_queues WHERE queue_id = {QUEUE} FOR UPDATE") as gate:
        work = one.append(fenced, append_of(2)) if kind == "append" else one.move(fenced, claim())
        working = site.tasks.start("work", work)
        await site.waits("one append" if kind == "append" else "one forward")
        fencing = site.tasks.start("fence", two.fence(fenced, 0))
        await site.until(WAITS.format("two watch"), fencing.done)
        assert not fencing.done()
        await gate.rollback()
        await working
    assert await fencing
    async with site.transaction() as connection:
        found = await (await connection.execute(b"SELECT queue_id, replica FROM relay.owed")).fetchall()
    assert found == ([(QUEUE, fenced)] if kind == "move" else [])
    with pytest.raises(OutboxLost):
        await (one.append(fenced, append_of(3)) if kind == "append" else one.move(fenced, claim()))


async def test_a_statement_that_takes_too_long_is_not_cancelled(site: Site) -> None:
    """A cancelled commit would not wait for its standby. The relay leaves the connection, and the server commits."""
    from relay.outbox.postgres.server import PostgresServer

    slow = PostgresServer(OutboxSettings(url=Secret(site.url), replica_name="slow", timeout_ms=300))
    server, replica = site.servers[0], site.replicas[0]
    await site.servers[1].append(site.replicas[1], append_of(1))
    async with site.transaction(f"SELECT 1 FROM relay.device_queues WHERE queue_id = {QUEUE} FOR UPDATE") as gate:
        is_waiting = False
        while not is_waiting:  # On a busy machine, the time may be over before the server has the statement.
            appending = site.tasks.start("append", slow.append(replica, append_of(2)))
            await site.until(WAITS.format("slow append"), appending.done)
            is_waiting = not appending.done()
            with pytest.raises(OutboxUnavailable, match="unknown"):
                await appending
        await gate.rollback()
    await site.until("SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name ~ 'slow append')")
    number, _, rows = await server.last_append(replica)
    assert (number, len(rows)) == (1, 1)
    await slow.close()

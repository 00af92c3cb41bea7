"""A PostgreSQL server that ends connections, or is killed: nothing is lost, and nothing is stored or counted twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from relay.config import OutboxSettings
from relay.outbox import Ledger, OutboxFull

from tests.contract.boxes import TV, bodies, close, event

if TYPE_CHECKING:
    from tests.contract.postgres_box import PostgresBox
    from tests.support.postgres_server import PostgresCluster

pytestmark = pytest.mark.slow

_TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'relay test %'"
_FULL = """
CREATE FUNCTION public.disk_is_full() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END $$"""


@pytest.fixture
async def box(postgres_cluster: PostgresCluster) -> AsyncIterator[PostgresBox]:
    from tests.contract.postgres_box import PostgresBox

    box = PostgresBox(OutboxSettings(), url=postgres_cluster.create_database())
    await box.start()
    yield box
    await close(box)


async def send_all(box: PostgresBox, events: int) -> None:
    """Append events one after the other, as an app does, and deliver them in requests of at most seven."""

    async def forward() -> None:
        delivered: list[bytes] = []
        while len(delivered) < events:
            if box.reported():
                delivered += await box.deliver(7)
            else:
                await asyncio.sleep(0.001)
        assert delivered == bodies(range(events))

    forwarding = asyncio.get_running_loop().create_task(forward())
    for number in range(events):
        await box.outbox.append([event(number, TV)])
    await forwarding


async def accepted(box: PostgresBox, events: int) -> None:
    while box.outbox.ledger().accepted < events:
        await asyncio.sleep(0.001)


async def test_ended_connections(box: PostgresBox) -> None:
    async def end_connections() -> None:
        with box.connect() as connection:
            for number in range(40, 400, 40):
                await accepted(box, number)
                connection.execute(_TERMINATE)

    await asyncio.gather(send_all(box, 400), end_connections())
    assert box.on_disk() == box.outbox.ledger() == Ledger(accepted=400, delivered=400)


async def test_a_full_disk_of_the_server(box: PostgresBox) -> None:
    """It rejects appends. Claims and beats continue as soon as there is room."""
    await box.append([0])
    watching = box.outbox._parts.watching
    with box.connect() as connection:
        connection.execute(_FULL)
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'relay'").fetchall()
        for (table,) in tables:
            on = f"BEFORE INSERT OR UPDATE ON relay.{table} EXECUTE FUNCTION public.disk_is_full()"
            connection.execute(f"CREATE TRIGGER full_disk {on}".encode())
        with pytest.raises(OutboxFull, match="disk of the database server is full"):
            await box.outbox.append([event(1)])
        claiming = asyncio.get_running_loop().create_task(box.claim(1))
        while box.outbox._parts.reconnect.failure is None:
            await asyncio.sleep(0.01)
        for (table,) in tables:
            connection.execute(f"DROP TRIGGER full_disk ON relay.{table}".encode())
    assert (await claiming).bodies == bodies([0])
    await box.settle()
    beats = watching._beats
    while watching._beats == beats:
        await asyncio.sleep(0.01)
    assert box.on_disk() == Ledger(accepted=1, delivered=1)


async def test_a_killed_server(box: PostgresBox, postgres_cluster: PostgresCluster) -> None:
    async def kill() -> None:
        await accepted(box, 60)
        await asyncio.to_thread(postgres_cluster.kill_and_restart)

    await asyncio.gather(send_all(box, 300), kill())
    assert box.on_disk() == box.outbox.ledger() == Ledger(accepted=300, delivered=300)

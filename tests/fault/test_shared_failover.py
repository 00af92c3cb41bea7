"""Relays whose database fails over to its synchronous standby: no acknowledged event is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from relay.sandbox.server import Sandbox

from tests.fault.apps import until_ready
from tests.fault.sizes import LONG_S, size
from tests.fault.test_shared_outbox import RELAYS, site

if TYPE_CHECKING:
    from tests.support.postgres_server import PostgresCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LONG_S)]


@pytest.fixture
def primary(postgres_cluster: PostgresCluster) -> PostgresCluster:
    """Return a server that flushes to its disk, as commits are only then replicated ones."""
    primary = postgres_cluster.beside("fsync=on")
    primary.start()
    return primary


async def test_failover_to_a_synchronous_standby(sandbox: Sandbox, tmp_path: Path, primary: PostgresCluster) -> None:
    """The standby stalls before the primary dies: what only the primary has was not acknowledged.

    Until the new primary has a standby, the relays reject events, as `outbox.require_replicated` demands.
    """
    standby = await asyncio.to_thread(primary.start_standby)
    hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    primary.create_database()
    url = f"postgresql://postgres@{hosts}/test1?target_session_attrs=read-write"
    try:
        async with site(sandbox, tmp_path, *[url] * RELAYS, require_replicated="true") as here:
            for _ in range(size(1, 20)):
                relay = here.relays[0]
                await until_ready(relay)
                async with here.fleet.sending():
                    await here.fleet.until(stored=100)
                    [(receiver,)] = standby.execute("SELECT pid FROM pg_stat_wal_receiver")
                    os.kill(receiver, signal.SIGSTOP)
                    await relay.logged("outbox unavailable")
                    await asyncio.to_thread(primary.kill)
                    os.kill(receiver, signal.SIGCONT)
                    await asyncio.to_thread(standby.promote)
                    await until_ready(relay, wanted=False)
                    dead, primary = primary, standby
                    dead.remove()
                    standby = await asyncio.to_thread(primary.start_standby, dead.port)
                    await until_ready(relay)
                    await here.fleet.until(stored=100)
            await here.settled(ends=len(here.ends) + RELAYS)
            assert here.fleet.durabilities == {"replicated"}
    finally:
        standby.stop()
        primary.stop()

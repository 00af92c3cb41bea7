"""Two versions of the relay on one PostgreSQL database, while devices send to both: an upgrade, and the way back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from relay.sandbox.server import Sandbox

from tests.e2e.harness import PATIENCE_S, RelayProcess, running
from tests.fault.apps import all_settled, settings
from tests.fault.sizes import LONG_S, size
from tests.fault.test_shared_outbox import LEASE_S, ScatteredFleet

if TYPE_CHECKING:
    from tests.support.postgres_server import PostgresCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LONG_S)]

FIRST_SCHEMA = "da3374c13215a2c17ac7716bbbc931f0e91a602c"
"""The last commit that deleted delivered events row by row."""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def old_version(tmp_path: Path) -> Mapping[str, str]:
    """Return the environment that runs the package of the first schema."""
    archive = subprocess.run(["git", "archive", FIRST_SCHEMA, "relay"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip("the history is not here: no old version to run")
    directory = tmp_path / "old"
    directory.mkdir()
    subprocess.run(["tar", "-x"], cwd=directory, input=archive.stdout, check=True)
    return {"PYTHONPATH": str(directory), "PYTHONSAFEPATH": "1"}


class Rolling:
    """Two relays on one database, replaced one by one."""

    def __init__(self, sandbox: Sandbox, directory: Path, url: str) -> None:
        self.fleet = ScatteredFleet(12)
        self.relays: dict[int, RelayProcess] = {}
        self._stops: dict[int, asyncio.Event] = {}
        self._sandbox = sandbox
        self._directory = directory
        self._url = url

    async def replace(self, group: asyncio.TaskGroup, number: int, version: Mapping[str, str]) -> None:
        """Stop the relay with this number, and start one of a version."""
        if number in self.relays:
            relay = self.relays.pop(number)
            del self.fleet.addresses[number]
            relay.signal(signal.SIGTERM)
            assert await relay.ended() == 0
        started = asyncio.Event()
        group.create_task(self._run(number, version, started))
        await started.wait()

    async def _run(self, number: int, version: Mapping[str, str], started: asyncio.Event) -> None:
        directory = self._directory / f"{number}"
        directory.mkdir(exist_ok=True)
        shared = {"kind": "postgres", "url": self._url, "lease": f"{LEASE_S}s", "timeout": "2s"}
        given = settings(self._sandbox.url, directory, **{f"outbox__{name}": value for name, value in shared.items()})
        async with running(given | version) as relay:
            self.relays[number], self.fleet.addresses[number] = relay, relay.http
            started.set()
            await relay.process.wait()


@asynccontextmanager
async def rolling(sandbox: Sandbox, directory: Path, url: str) -> AsyncIterator[tuple[Rolling, asyncio.TaskGroup]]:
    made = Rolling(sandbox, directory, url)
    async with asyncio.TaskGroup() as group:
        yield made, group
        for relay in made.relays.values():
            relay.signal(signal.SIGTERM)


async def test_an_upgrade_and_the_way_back_under_load(
    sandbox: Sandbox, tmp_path: Path, postgres_cluster: PostgresCluster, old_version: Mapping[str, str]
) -> None:
    url = postgres_cluster.create_database()
    new: Mapping[str, str] = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    async with rolling(sandbox, tmp_path, url) as (here, group):
        for number in range(2):
            await here.replace(group, number, old_version)
        with psycopg.connect(url, autocommit=True) as database:
            database.execute("DROP INDEX relay.dead_letters_event")
        async with here.fleet.sending():
            for _ in range(size(1, 10)):
                for version in (new, old_version):
                    for number in range(size(1, 2)):
                        await here.fleet.until(stored=60)
                        await here.replace(group, number, version)
            await here.fleet.until(stored=60)
            await here.replace(group, 0, new)
            await here.fleet.until(stored=60)
        async with asyncio.timeout(PATIENCE_S):
            for relay in here.relays.values():
                # It learns of the latest commits of the others with its next poll.
                await relay.until(lambda status: status["ledger"]["accepted"] >= len(here.fleet.stored))
                status = await all_settled(relay, sandbox, here.fleet, repeats=0)
                assert status["ledger"]["accepted"] == len(sandbox.record.delivered())
    with psycopg.connect(url) as database:
        assert database.execute("SELECT to_regclass('relay.dead_letters_event')").fetchone() != (None,)
        in_ring = "SELECT count(*) FROM relay.commits WHERE tableoid <> 'relay.commits'::regclass"
        assert database.execute(in_ring).fetchone() != (0,)

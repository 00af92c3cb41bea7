"""Several relays on one PostgreSQL database: devices send to any of them while relays and database fail."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from relay.sandbox.server import Sandbox

from tests.e2e.harness import PATIENCE_S, RelayProcess, running
from tests.fault.apps import MAX_IN_FLIGHT, Fleet, all_settled, ready, settings
from tests.fault.sizes import LONG_S, size
from tests.support.tcp_proxy import proxy_to

if TYPE_CHECKING:
    from tests.support.postgres_server import PostgresCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LONG_S)]

RELAYS = 3
LEASE_S = 3
TOOK_OVER = "took over from a silent replica"


class ScatteredFleet(Fleet):
    """Apps that send each request to a random relay, as behind a load balancer."""

    def __init__(self, devices: int) -> None:
        self.addresses: dict[int, str] = {}
        super().__init__(devices)

    @property
    def address(self) -> str:
        return random.choice([*self.addresses.values()])

    @address.setter
    def address(self, _: str) -> None: ...


class Site:
    """Relays that share a database. Each is started again when it ends, as by a supervisor."""

    def __init__(self, sandbox: Sandbox, directory: Path, urls: Sequence[str], **outbox: str) -> None:
        self.fleet = ScatteredFleet(12)
        self.relays: dict[int, RelayProcess] = {}
        """The running relays."""
        self.ends: list[tuple[int, int]] = []
        """Number and exit code of each relay that ended."""
        self._sandbox = sandbox
        self._directory = directory
        self._urls = urls
        self._outbox = {"kind": "postgres", "lease": f"{LEASE_S}s", "timeout": "2s"} | outbox

    async def supervise(self, number: int) -> None:
        """Start a relay again and again."""
        directory = self._directory / f"{number}"
        directory.mkdir()
        given = {f"outbox__{name}": value for name, value in (self._outbox | {"url": self._urls[number]}).items()}
        while True:
            async with running(settings(self._sandbox.url, directory, upstream__timeout="20s", **given)) as relay:
                self.relays[number] = relay
                self.fleet.addresses[number] = relay.http
                code = await relay.process.wait()
                self.ends.append((number, code))
                del self.fleet.addresses[number], self.relays[number]

    async def watch_states(self) -> None:
        """Check that no relay reports the upstream, which never fails here, as failing."""
        while True:
            for relay in list(self.relays.values()):
                with suppress(OSError, IndexError, ValueError):  # The relay is stopped, or ends.
                    async with asyncio.timeout(1):
                        code, _, body = await relay.request("GET", "/status.json")
                    if code != 503:  # It still accepts connections while it stops.
                        upstreams = json.loads(body)["upstreams"]
                        assert {each["state"] for each in upstreams} <= {"ok", "untested"}, upstreams
            await asyncio.sleep(0.1)

    async def all_ready(self) -> bool:
        """Return whether every relay runs and is ready. One that stops, or did not yet see its lost lease, is not."""
        relays = list(self.relays.values())
        with suppress(OSError, IndexError):
            return len(relays) == len(self._urls) and all([await ready(relay) for relay in relays])
        return False

    def signal(self, number: int, sent: signal.Signals) -> None:
        """Send a signal to a relay, unless it ended by an earlier one and its successor does not run yet."""
        relay = self.relays.get(number)
        if relay is not None and relay.process.returncode is None:
            relay.signal(sent)

    def takeovers(self) -> int:
        """Return how often a running relay took over from another one."""
        return sum(line["message"] == TOOK_OVER for relay in self.relays.values() for line in relay.log)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.01)

    async def settled(self, ends: int) -> None:
        """Check every promise over all relays, after so many unclean ends of relays."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self.all_ready():
                await asyncio.sleep(0.05)
        for relay in self.relays.values():
            # It learns of the latest commits of the others with its next poll.
            await relay.until(lambda status: status["ledger"]["accepted"] >= len(self.fleet.stored))
            status = await all_settled(relay, self._sandbox, self.fleet, repeats=ends * MAX_IN_FLIGHT)
            assert status["ledger"]["accepted"] == len(self._sandbox.record.delivered())


@asynccontextmanager
async def site(sandbox: Sandbox, directory: Path, *urls: str, **outbox: str) -> AsyncIterator[Site]:
    made = Site(sandbox, directory, urls, **outbox)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(made.supervise(number)) for number in range(len(urls))]
        await made.until(lambda: len(made.relays) == len(urls))
        tasks.append(group.create_task(made.watch_states()))
        yield made
        for task in tasks:
            task.cancel()


async def test_relays_that_stop_and_are_killed(
    sandbox: Sandbox, tmp_path: Path, postgres_cluster: PostgresCluster
) -> None:
    """The others take over the devices of a relay that ends, at once after a stop and after its lease after a kill."""
    rounds = size(1, 20)
    async with site(sandbox, tmp_path, *[postgres_cluster.create_database()] * RELAYS) as here:
        async with here.fleet.sending():
            for number in range(rounds):
                await here.fleet.until(stored=100)
                here.relays[number % RELAYS].signal(signal.SIGTERM)
                await here.until(lambda number=number: (number % RELAYS, 0) in here.ends)
                await here.fleet.until(stored=50)
                here.relays[(number + 1) % RELAYS].signal(signal.SIGKILL)
                await here.fleet.until(stored=100)
                here.ends.remove((number % RELAYS, 0))
        await here.settled(ends=len(here.ends))


async def test_a_relay_that_is_stopped_for_longer_than_its_lease(
    sandbox: Sandbox, tmp_path: Path, postgres_cluster: PostgresCluster
) -> None:
    """Another relay takes over. The stopped one sends and stores nothing more, and starts as a new one."""
    stops = size(1, 10)
    async with site(sandbox, tmp_path, *[postgres_cluster.create_database()] * RELAYS) as here:
        async with here.fleet.sending():
            for number in range(stops):
                await here.fleet.until(stored=100)
                relay, ends, takeovers = here.relays[number % RELAYS], len(here.ends), here.takeovers()
                relay.signal(signal.SIGSTOP)
                await here.until(lambda takeovers=takeovers: here.takeovers() > takeovers)
                relay.signal(signal.SIGCONT)
                await here.until(lambda number=number, ends=ends: (number % RELAYS, 1) in here.ends[ends:])
        await here.settled(ends=len(here.ends))


async def test_a_database_that_is_killed(sandbox: Sandbox, tmp_path: Path, postgres_cluster: PostgresCluster) -> None:
    """Every relay finds out what was committed, and continues."""
    kills = size(2, 20)
    async with site(sandbox, tmp_path, *[postgres_cluster.create_database()] * RELAYS) as here:
        async with here.fleet.sending():
            for _ in range(kills):
                await here.fleet.until(stored=100)
                await asyncio.to_thread(postgres_cluster.kill_and_restart)
            await here.fleet.until(stored=100)
        await here.settled(ends=kills * RELAYS + len(here.ends))


async def test_a_relay_that_is_cut_off_from_the_database(
    sandbox: Sandbox, tmp_path: Path, postgres_cluster: PostgresCluster
) -> None:
    """It stops sending at the end of its lease, and responds 503. The others continue with its devices."""
    url = postgres_cluster.create_database()
    async with proxy_to(postgres_cluster.port) as proxy:
        cut_off = url.replace(f":{postgres_cluster.port}/", f":{proxy.port}/")
        async with site(sandbox, tmp_path, url, url, cut_off) as here:
            async with here.fleet.sending():
                await here.fleet.until(stored=100)
                relay = here.relays[2]
                proxy.passing.clear()
                await relay.logged("outbox unavailable")
                await here.until(here.takeovers)
                await here.fleet.until(stored=50)
                proxy.passing.set()
                await here.until(lambda: (2, 1) in here.ends)
                await here.fleet.until(stored=50)
            await here.settled(ends=len(here.ends))

"""Relays whose database server has a full disk, an administrator who ends statements, and a reader that never ends."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from relay.sandbox.server import Sandbox

from tests.fault import mounts
from tests.fault.apps import until_ready
from tests.fault.sizes import LONG_S, NIGHTLY, chance, size
from tests.fault.test_shared_outbox import LEASE_S, RELAYS, Site, site
from tests.support.tcp_proxy import TcpProxy, proxy_to

if TYPE_CHECKING:
    from tests.support.postgres_server import PostgresCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LONG_S)]

_BACKENDS = "FROM pg_stat_activity WHERE application_name LIKE 'relay %'"


async def test_an_administrator_ends_statements_while_a_reader_holds_its_snapshot(
    sandbox: Sandbox, tmp_path: Path, postgres_cluster: PostgresCluster
) -> None:
    """The reader locks every table against TRUNCATE and keeps deleted rows, as a dump or a forgotten session does."""
    import psycopg

    url = postgres_cluster.create_database()
    async with site(sandbox, tmp_path, *[url] * RELAYS, lease="30s") as here:
        with psycopg.connect(url) as reader:
            reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            for (table,) in reader.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'relay'").fetchall():
                reader.execute(f"SELECT 1 FROM relay.{table} LIMIT 1".encode())
            async with here.fleet.sending():
                for number in range(size(20, 400)):
                    await here.fleet.until(stored=10)
                    end = "pg_cancel_backend" if number % 2 else "pg_terminate_backend"
                    await asyncio.to_thread(postgres_cluster.execute, f"SELECT {end}(pid) {_BACKENDS}")
            await here.settled(ends=len(here.ends))


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """Return a directory of the server on a disk of 64 MiB."""
    mounts.needs("tmpfs")
    directory = Path(tempfile.mkdtemp(prefix="relay-tablespace-"))
    directory.chmod(0o755)
    with mounts.tmpfs(directory, 64) as disk:
        shutil.chown(disk, "postgres", "postgres")
        yield disk
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def small_server(small_disk: Path, postgres_cluster: PostgresCluster) -> Iterator[PostgresCluster]:
    """Return a server with the tablespace `small`. It ends before its disk: without the disk it cannot start again."""
    server = postgres_cluster.beside()
    server.start()
    server.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
    yield server
    server.stop()


async def test_a_full_disk_of_the_server(
    sandbox: Sandbox, tmp_path: Path, small_server: PostgresCluster, small_disk: Path
) -> None:
    """The relays respond 503, and continue as soon as there is room."""
    url = small_server.create_database("TABLESPACE small")
    filler = small_disk / "filler"
    async with site(sandbox, tmp_path, *[url] * RELAYS, lease="30s") as here:
        for _ in range(size(1, 10)):
            async with here.fleet.sending():
                await here.fleet.until(stored=50)
                with suppress(OSError), filler.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))
                rejected = here.fleet.statuses.get(503, 0)
                await here.until(lambda rejected=rejected: here.fleet.statuses.get(503, 0) > rejected + 50)
                filler.unlink()
                await until_ready(here.relays[0])
                await here.fleet.until(stored=50)
        await here.settled(ends=0)
        assert here.ends == []


async def act(here: Site, proxies: list[TcpProxy], cluster: PostgresCluster, number: int, kind: str) -> None:
    """Let one relay or the database suffer for a while."""
    long_s = LEASE_S * 2 if NIGHTLY else LEASE_S / 2
    if kind == "database":
        await asyncio.to_thread(cluster.kill_and_restart)
    elif kind == "partition":
        proxies[number].passing.clear()
        await asyncio.sleep(long_s)
        proxies[number].passing.set()
    elif kind == "stop":
        here.signal(number, signal.SIGSTOP)
        await asyncio.sleep(long_s)
        here.signal(number, signal.SIGCONT)
    else:
        here.signal(number, signal.SIGKILL if kind == "kill" else signal.SIGTERM)


async def test_chaos(sandbox: Sandbox, tmp_path: Path, postgres_cluster: PostgresCluster) -> None:
    """Four relays and random faults, for 8 s or 100 s."""
    random, loop = chance("chaos of a shared outbox"), asyncio.get_running_loop()
    url, faults = postgres_cluster.create_database(), list[str]()
    port = f":{postgres_cluster.port}/"
    async with (
        proxy_to(postgres_cluster.port) as a,
        proxy_to(postgres_cluster.port) as b,
        proxy_to(postgres_cluster.port) as c,
        proxy_to(postgres_cluster.port) as d,
    ):
        proxies = [a, b, c, d]
        async with site(sandbox, tmp_path, *(url.replace(port, f":{each.port}/") for each in proxies)) as here:
            async with here.fleet.sending():
                end = loop.time() + size(8, 100)
                while loop.time() < end:
                    await here.fleet.until(stored=20)
                    faults.append(random.choice(["kill", "terminate", "stop", "partition", "database"]))
                    await act(here, proxies, postgres_cluster, random.randrange(4), faults[-1])
                await here.fleet.until(stored=50)
            await here.settled(ends=len(here.ends) + 4 * len(faults))  # A relay that loses its lease resets requests.
    report = sandbox.report()
    print(
        f"faults {len(faults)}, ends of relays {len(here.ends)}, acknowledged {len(here.fleet.stored)}, "
        f"sent twice {report.duplicates}, most of a device in a window {report.most_of_device}"
    )

"""The shared outbox on a private PostgreSQL server with fsync, beside bare loops and the SQLite outbox.

Server and relays share the machine. Every comparison is in pairs.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
from tests.support.postgres_server import PostgresCluster, find_tools

from bench.process import Child, python
from bench.report import Row, at_least, at_most, number
from bench.setup import Bench

_SETTINGS = ("shared_buffers=256MB", "max_wal_size=2GB", "wal_compression=lz4", "autovacuum_naptime=5s", "fsync=on")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class _Server:
    """One server for the scenario, with a new database for each measurement."""

    def __init__(self, bench: Bench, cluster: PostgresCluster) -> None:
        self._bench = bench
        self._cluster = cluster

    def new(self) -> str:
        return self._cluster.create_database()

    def file(self) -> str:
        return str(self._bench.new_directory() / "outbox.db")

    def run(self, mode: str, store: str, *numbers: float) -> dict[str, float]:
        """Run one process, see bench.outbox_life."""
        log = self._bench.new_directory() / "life.log"
        with Child(python("bench.outbox_life", mode, store, *(str(int(each)) for each in numbers)), log) as child:
            child.wait()
            [found] = child.lines()
        return found

    def rate(self, mode: str, store: str, *numbers: float) -> float:
        return self.run(mode, store, *numbers)["per_s"]

    def cost(self, store: str, measured: Callable[[], object]) -> tuple[float, float]:
        """Return the server's CPU seconds and bytes of WAL during a call."""
        with psycopg.connect(store, autocommit=True) as database:
            query = b"SELECT pg_current_wal_insert_lsn() - '0/0'"
            [(wal,)] = database.execute(query).fetchall()
            cpu = self._cpu_s()
            measured()
            [(after,)] = database.execute(query).fetchall()
            return self._cpu_s() - cpu, float(after - wal)

    def _cpu_s(self) -> float:
        """Return the CPU time of all processes of the server, ended ones included."""
        ticks = 0
        for process in Path("/proc").glob("[0-9]*"):
            try:
                fields = (process / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            if int(process.name) == self._cluster.pid:
                ticks += sum(int(each) for each in fields[11:15])
            elif int(fields[1]) == self._cluster.pid:
                ticks += sum(int(each) for each in fields[11:13])
        return ticks / _TICKS_PER_S


@contextmanager
def _server(bench: Bench) -> Iterator[_Server]:
    tools = find_tools()
    if tools is None:
        raise RuntimeError("PostgreSQL is not installed")
    cluster = PostgresCluster(tools, *_SETTINGS)
    cluster.start()
    try:
        yield _Server(bench, cluster)
    finally:
        cluster.stop()


def appends(bench: Bench) -> Iterator[Row]:
    with _server(bench) as server:
        yield from _appends(bench, server)


def life(bench: Bench) -> Iterator[Row]:
    """Whole life of events, and its cost on the server."""
    with _server(bench) as server:
        yield _life(bench, server)
        yield from _costs(bench, server)


def single(bench: Bench) -> Iterator[Row]:
    """Events one by one."""
    with _server(bench) as server:
        yield from _lonely(bench, server)
        yield _http(bench, server)


def files(bench: Bench) -> Iterator[Row]:
    """Files of the server after many fills, commits under an old snapshot, and a relay that takes over a backlog."""
    with _server(bench) as server:
        for what, holds in (("", False), (", with a held snapshot", True)):
            store = server.new()
            with _snapshot(server, store, holds=holds):
                found = server.run("fills", store, bench.size(50_000, 200_000), bench.size(5, 11))
            note = f"{found['first'] / 1e6:.0f} MB after the first, at most {found['most'] / 1e6:.0f} MB"
            what_grows = f"files after fills and drains / after one{what}"
            yield Row(what_grows, found["last"] / found["first"], "x", at_most(1.2), note=note)
        store = server.new()
        with _snapshot(server, store, holds=True):
            found = server.run("commits", store, bench.size(5_000, 20_000))
        note = f"{found['before_ms']:.2f} ms, then {found['after_ms']:.2f} ms"
        ratio = found["after_ms"] / found["before_ms"]
        yield Row("append after many commits under a held snapshot / before", ratio, "x", at_most(1.3), note=note)
        store, events = server.new(), bench.size(200_000, 1_000_000)
        server.rate("append", store, events, 500)
        found = server.run("load", store)
        pending = f"{int(found['events']):,} pending"
        yield Row(f"{pending}: lease to first request", found["seconds"], "s", at_most(1.0))
        yield Row(f"{pending}: memory", found["rss"] / 1e6, "MB", at_most(130))


@contextmanager
def _snapshot(server: _Server, store: str, *, holds: bool) -> Iterator[None]:
    """Hold a snapshot of the database, if `holds`, from after the tables exist."""
    server.run("append", store, 1, 1)
    with psycopg.connect(store) as database:
        if holds:
            database.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            database.execute("SELECT 1 FROM relay.meta")
        yield


def _appends(bench: Bench, server: _Server) -> Iterator[Row]:
    events = bench.size(100_000, 400_000)
    for per_commit, processes, target in ((500, 1, 0.40), (500, 4, 0.90), (64, 1, 0.60)):
        compared = bench.compare(
            lambda per_commit=per_commit, processes=processes: _together(server, processes, events, per_commit),
            lambda per_commit=per_commit: server.rate("floor", server.new(), events, per_commit),
            bench.few_pairs * 3,
        )
        what = (
            f"shared appends, {per_commit} per commit, {processes} process{'es' * (processes > 1)} / bare psycopg loop"
        )
        note = f"{number(compared.rate)} and {number(compared.floor)} events/s"
        yield Row(what, compared.ratio, "x", at_least(target), compared.spread, note)


def _together(server: _Server, processes: int, events: float, per_commit: int) -> float:
    """Return the sum of the rates of processes that append to one database."""
    store = server.new()
    server.run("append", store, 1, 1)
    with ThreadPoolExecutor(processes) as pool:
        each = events // processes // per_commit * per_commit
        return sum(pool.map(lambda _: server.rate("append", store, each, per_commit), range(processes)))


def _life(bench: Bench, server: _Server) -> Row:
    events = bench.size(50_000, 200_000)
    compared = bench.compare(
        lambda: server.rate("life", server.new(), events, 1, 1 << 30),
        lambda: server.rate("life", server.file(), events, 1, 1 << 30),
        bench.few_pairs * 3,
    )
    note = f"{number(compared.rate)} and {number(compared.floor)} events/s"
    return Row("whole life of an event, shared / SQLite", compared.ratio, "x", at_least(0.40), compared.spread, note)


def _costs(bench: Bench, server: _Server) -> Iterator[Row]:
    events = bench.size(100_000, 400_000)
    lives, floors, wal = [], [], []
    for _ in range(bench.few_pairs):
        store = server.new()
        cpu_s, wal_bytes = server.cost(store, lambda store=store: server.run("life", store, events, 1, 1 << 30))
        lives.append(cpu_s / events * 1e6)
        wal.append(wal_bytes / events)
        store = server.new()
        cpu_s, _ = server.cost(store, lambda store=store: server.run("floor", store, events, 500))
        floors.append(cpu_s / events * 1e6)
    ratio, note = statistics.median(lives) / statistics.median(floors), f"{statistics.median(lives):.1f} µs an event"
    yield Row("CPU of the server, whole life / bare loop's appends", ratio, "x", at_most(3.5), note=note)
    yield Row("WAL per 400-byte event, whole life", statistics.median(wal), "B", at_most(680))


def _lonely(bench: Bench, server: _Server) -> Iterator[Row]:
    commits = bench.size(1_000, 5_000)
    ratios, times = [], []
    for _ in range(bench.few_pairs * 3):
        ours, bare = server.run("lonely", server.new(), commits), server.run("floor", server.new(), commits, 1)
        ratios.append(ours["p50_ms"] / bare["p50_ms"])
        times.append(ours["p50_ms"])
    note = f"{statistics.median(times):.2f} ms"
    spread = (min(ratios), max(ratios))
    what = "lonely append, shared / bare INSERT, p50"
    yield Row(what, statistics.median(ratios), "x", at_most(3), spread, note)
    store = server.new()
    _, wal = server.cost(store, lambda: server.run("lonely", store, commits))
    yield Row("WAL per 400-byte event, lonely append", wal / commits, "B", at_most(1_228))


def _http(bench: Bench, server: _Server) -> Row:
    def accepts(**settings: str) -> float:
        with bench.relay(**settings) as relay:
            return relay.post(seconds=bench.seconds, devices=1_000).per_s

    compared = bench.compare(
        lambda: accepts(outbox__kind="postgres", outbox__url=server.new()), accepts, bench.few_pairs * 3
    )
    note = f"{number(compared.rate)} and {number(compared.floor)} events/s"
    return Row("single events over HTTP, shared / SQLite", compared.ratio, "x", at_least(0.75), compared.spread, note)

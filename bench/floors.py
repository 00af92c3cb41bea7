"""The floors: minimal Python programs that do the relay's work. Each floor runs in its own process.

http: an aiohttp Application whose handler reads the body and returns a constant response.
udp: one socket that is drained on each wake-up. The datagrams are counted and discarded.
sqlite: a loop that appends rows like the outbox's, with a given number per transaction and the outbox's fsync.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sqlite3
import sys
import time
from pathlib import Path
from zlib import crc32

from aiohttp import web
from relay.app.run_service import event_loop_factory

from bench.events import event, new_run, templates

_ROWS_AT_ONCE = 100_000


async def _http() -> None:
    async def accept(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=202, body=b'{"success": true}', content_type="application/json")

    application = web.Application()
    application.router.add_post("/v1/events", accept)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    print(json.dumps({"address": f"{host}:{port}"}), flush=True)
    await _sigterm()
    await runner.cleanup()


async def _udp() -> None:
    receiving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiving.setblocking(False)
    receiving.bind(("127.0.0.1", 0))
    receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    buffer, count = bytearray(65_536), 0

    def drain() -> None:
        nonlocal count
        try:
            for _ in range(64):
                receiving.recvfrom_into(buffer)
                count += 1
        except BlockingIOError:
            pass

    asyncio.get_running_loop().add_reader(receiving, drain)
    host, port = receiving.getsockname()
    print(json.dumps({"address": f"{host}:{port}"}), flush=True)
    await _sigterm()
    print(json.dumps({"received": count, "cpu_s": time.process_time()}), flush=True)


async def _sigterm() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


def sqlite_appends(path: Path, rows: int, per_commit: int, event_bytes: int = 400, devices: int = 1000) -> float:
    """Return the committed rows per second, without the time to create the rows."""
    database = sqlite3.connect(path, isolation_level=None)
    for pragma in ("page_size=4096", "journal_mode=WAL", "synchronous=FULL", "cache_size=-2048"):
        database.execute(f"PRAGMA {pragma}").fetchall()
    database.execute(
        "CREATE TABLE log(seq INTEGER PRIMARY KEY, queue_id INTEGER NOT NULL, event_id BLOB NOT NULL,"
        " at_ms INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL)"
    )
    made = templates(new_run(), devices, event_bytes)
    elapsed = 0.0
    for first in range(0, rows, _ROWS_AT_ONCE):
        bodies = [event(made[n % devices], n) for n in range(first, min(first + _ROWS_AT_ONCE, rows))]
        values = [
            (first + n, n % devices, n.to_bytes(16, "big"), 1_795_420_800_000 + n, crc32(body), body)
            for n, body in enumerate(bodies)
        ]
        began = time.perf_counter()
        for at in range(0, len(values), per_commit):
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", values[at : at + per_commit])
            database.execute("COMMIT")
        elapsed += time.perf_counter() - began
    database.close()
    return rows / elapsed


def main(which: str, *arguments: str) -> None:
    if which == "sqlite":
        path, rows, per_commit, event_bytes = arguments
        rate = sqlite_appends(Path(path), int(rows), int(per_commit), int(event_bytes))
        print(json.dumps({"rows_per_s": rate}))
        return
    with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
        runner.run({"http": _http, "udp": _udp}[which]())


if __name__ == "__main__":
    main(*sys.argv[1:])

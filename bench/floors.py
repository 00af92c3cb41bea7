"""The floors: the least that a Python program could do in the relay's place. Each is a program of its own.

http: aiohttp's Application, a handler that reads the body and answers a constant.
udp: one socket, drained per wake, every datagram counted and forgotten.
sqlite: a loop that appends rows as the outbox has them, so many per transaction, synced as the outbox's.
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
    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=202, body=b'{"success": true}', content_type="application/json")

    application = web.Application()
    application.router.add_post("/v1/events", take)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    print(json.dumps({"address": f"{host}:{port}"}), flush=True)
    await _told_to_stop()
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
    await _told_to_stop()
    print(json.dumps({"received": count, "cpu_s": time.process_time()}), flush=True)


async def _told_to_stop() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


def sqlite_appends(path: Path, rows: int, per_commit: int, event_bytes: int = 400, devices: int = 1000) -> float:
    """Rows appended per second, all committed; making them is not timed."""
    database = sqlite3.connect(path, isolation_level=None)
    for pragma in ("page_size=4096", "journal_mode=WAL", "synchronous=FULL", "cache_size=-2048"):
        database.execute(f"PRAGMA {pragma}").fetchall()
    database.execute(
        "CREATE TABLE log(seq INTEGER PRIMARY KEY, lane INTEGER NOT NULL, event_id BLOB NOT NULL,"
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

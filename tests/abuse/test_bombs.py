"""Small requests that expand to large ones: memory is bounded, the status is right, and other apps are served."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from relay.sandbox.server import Sandbox

from tests.abuse.box import Healthy, ask, connect, datagram_socket, metrics, peak_memory_bytes, udp_address
from tests.e2e.harness import PATIENCE_S, RelayProcess, environment, running
from tests.fault.sizes import size
from tests.support.ingest_harness import post
from tests.support.steps import LONGEST_STEP_S

ROOM_BYTES = 96 << 20
"""Maximum growth of the peak memory. One inflated bomb would need more."""
MANY_ROOM_BYTES, EVENT_BYTES = 128 << 20, 16
"""The same for many bombs at once: uncommitted events, one commit and received bodies have a bound each
(docs/run/sizing.md). EVENT_BYTES is the memory of each pending event."""
HEAD = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
TINY = b'{"event_type":"a"}'


def inflated(body: bytes) -> bytes:
    return post(gzip.compress(body, 9), "Content-Encoding: gzip")


def tiny(events: int) -> bytes:
    return b"[" + b",".join([TINY] * events) + b"]"


BOMBS = {
    "gzip of 200 MiB": (inflated(bytes(200 << 20)), 413),
    "deflate of 200 MiB": (post(zlib.compress(bytes(200 << 20), 9), "Content-Encoding: deflate"), 413),
    "gzip in gzip": (inflated(gzip.compress(bytes(200 << 20), 9)), 413),
    "20,000 empty gzip members": (post(gzip.compress(b"") * 20_000, "Content-Encoding: gzip"), 400),
    "gzip of brackets": (inflated(b"[" * 1_000_000), 400),
    "gzip of empty arrays": (
        post(gzip.compress(tiny(0)[:1] + b"[]," * 340_000 + b"[]]", 9), "Content-Encoding: gzip"),
        422,
    ),
    "gzip of 55,000 events": (inflated(tiny(55_000)), 202),
    "300,000 chunks of a byte": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n[\r\n" * 300_000 + b"0\r\n\r\n",
        400,
    ),
    "a million empty lines": (post(b"\n" * 1_000_000, "Content-Type: application/x-ndjson"), 400),
    "a promise of 4 GiB": (HEAD + b"Content-Length: 4294967296\r\n\r\n", 413),
    "more than was promised to be too much": (post(b"a" * (5 << 20)), 413),
}


@pytest.fixture
async def filling(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    """Run a relay with defaults for the fields that a tiny event omits."""
    defaults = {"defaults__tenant_id": "1", "defaults__platform": "tv", "defaults__device_id": "box"}
    async with running(environment(sandbox.url, tmp_path, rate__device_per_window="100000", **defaults)) as process:
        yield process


async def test_bombs_are_rejected_and_others_are_served(filling: RelayProcess) -> None:
    async with Healthy(filling) as healthy:
        for name, (raw, status) in BOMBS.items():
            client = await connect(filling)
            client.send(raw)
            assert (await client.response()).status == status, name
            client.writer.transport.abort()
            await healthy.served(1)
    assert peak_memory_bytes(filling.pid) < (64 << 20) + ROOM_BYTES


async def test_many_bombs_at_once_are_rejected_and_others_are_served(filling: RelayProcess) -> None:
    """The relay processes bombs in short steps and serves the well-behaved app between them."""

    async def throw(raw: bytes) -> None:
        client = await connect(filling)
        client.send(raw)
        await client.response()
        client.writer.transport.abort()

    chosen = [raw for raw, status in BOMBS.values() if status in (202, 413, 422) and len(raw) < 2 << 20]
    async with Healthy(filling) as healthy:
        thrown = [asyncio.create_task(throw(raw)) for _ in range(size(1, 20)) for raw in chosen]
        while not all(task.done() for task in thrown):
            await healthy.served(1)
        for task in thrown:
            await task
    waiting_bytes = EVENT_BYTES * (await filling.status())["ledger"]["accepted"]
    assert peak_memory_bytes(filling.pid) < (64 << 20) + MANY_ROOM_BYTES + waiting_bytes


async def test_bombs_by_datagram_are_counted_and_others_are_served(filling: RelayProcess) -> None:
    bomb = gzip.compress(bytes(40 << 20), 9)
    crowd = gzip.compress(tiny(13_000), 9)
    sending = datagram_socket()
    rounds = size(10, 1_000)
    async with Healthy(filling) as healthy:
        for _ in range(rounds):
            sending.sendto(bomb, udp_address(filling))
            await healthy.served(1)
        sending.sendto(crowd, udp_address(filling))
        async with asyncio.timeout(PATIENCE_S):
            while (now := await metrics(filling))['events_accepted_total{transport="udp"}'] < 13_000:
                await healthy.served(1)
    sending.close()
    assert now['events_rejected_total{reason="too_large",transport="udp"}'] == rounds
    assert peak_memory_bytes(filling.pid) < (64 << 20) + ROOM_BYTES
    assert (await ask(filling, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))[0] == 200


async def test_expensive_datagrams_delay_neither_small_ones_nor_requests(filling: RelayProcess) -> None:
    """A thousand expensive datagrams must not delay other events by seconds, for minutes."""
    hostile = [
        gzip.compress(opening + unit * (250_000 // len(unit)) + closing, 9)
        for opening, unit, closing in (
            (b'{"events":[],', b'"a":1,', b'"a":1}'),
            (b"[", b"1,", b"1]"),
            (b'{"events":[', b"1,", b"1]}"),
            (b"[", b"{},", b"{}]"),
        )
    ]
    sending = datagram_socket()
    rounds = size(100, 1_000)
    async with Healthy(filling) as healthy:
        for number in range(rounds):
            for datagram in hostile:
                sending.sendto(datagram, udp_address(filling))
            if number % 20 == 0:
                await healthy.served(1)
        for number in range(10):
            sending.sendto(TINY, udp_address(filling))
            await healthy.served(1)
            async with asyncio.timeout(PATIENCE_S):
                while (now := await metrics(filling))['events_accepted_total{transport="udp"}'] <= number:
                    await healthy.served(1)
    sending.close()
    assert 0 < now["event_loop_longest_step_seconds"] < LONGEST_STEP_S

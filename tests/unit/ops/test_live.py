"""A stream sends the history, then the status, and ends when the relay stops."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import ClientResponse
from relay.ops.live import MAX_STREAMS

from tests.support.ops_harness import Served

STREAM = "/status/stream"


async def event(stream: ClientResponse) -> tuple[str, Any]:
    """Return the name and the data of the next event."""
    name = data = ""
    while line := (await stream.content.readline()).decode():
        if line == "\n" and name:
            return name, json.loads(data)
        field, _, value = line.rstrip("\n").partition(": ")
        name, data = (value, data) if field == "event" else (name, value if field == "data" else data)
    raise EOFError


async def test_a_stream_begins_with_the_history_and_the_status(served: Served) -> None:
    served.history.sample()
    served.clock.monotonic += 5_000
    served.history.sample()

    async with served.session.get(served.base + STREAM) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.headers["Content-Security-Policy"].startswith("default-src 'none';")
        assert await event(stream) == ("history", json.loads(json.dumps(served.history.samples())))
        assert await event(stream) == ("status", json.loads(json.dumps(served.status.data())))


async def test_a_stream_continues_with_new_samples_and_the_current_status(served: Served) -> None:
    served.history.sample()
    async with served.session.get(served.base + STREAM) as stream:
        assert await event(stream) == ("history", [[], [], []])
        await event(stream)
        served.clock.monotonic += 5_000
        served.outbox.totals = served.outbox.totals._replace(accepted=3, pending=3)
        served.history.sample()

        assert await event(stream) == ("sample", json.loads(json.dumps(served.history.samples())))
        name, status = await event(stream)
        assert (name, status["ledger"]["pending"]) == ("status", 3)


async def test_the_number_of_streams_is_limited_and_a_closed_stream_frees_its_place(served: Served) -> None:
    streams = [await served.session.get(served.base + STREAM) for _ in range(MAX_STREAMS)]
    for stream in streams:
        await event(stream)

    rejected = await served.call(STREAM)
    assert rejected.status == 503
    assert "Retry-After" in rejected.headers
    scraped = (await served.call("/metrics")).body.decode()
    assert f"\nrelay_status_streams {MAX_STREAMS}.0\n" in scraped
    assert f"\nrelay_status_max_streams {MAX_STREAMS}.0\n" in scraped

    for stream in streams:
        stream.close()
    async with asyncio.timeout(30):
        while (await served.call(STREAM, "HEAD")).status != 200:
            await asyncio.sleep(0.05)
        while b"\nrelay_status_streams 0.0\n" not in (await served.call("/metrics")).body:
            await asyncio.sleep(0.05)


async def test_streams_end_when_the_relay_stops_and_new_ones_are_rejected(served: Served) -> None:
    async with served.session.get(served.base + STREAM) as stream:
        await event(stream)
        served.live.stop()
        assert (await asyncio.wait_for(stream.read(), 30)).endswith(b"\n\n")

    assert (await served.call(STREAM)).status == 503

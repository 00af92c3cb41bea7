"""The event log counts and stores changes from the start, within fixed bounds of time and memory."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator

import pytest
from relay.ops.event_log import MAX_LINES, MAX_TYPES, READ_AT_ONCE, EventLog
from relay.runtime import log
from relay.runtime.event_feed import EventChange
from relay.runtime.secret import Secret

from tests.support.ops_harness import Served, dead_letter

STORED = EventChange("stored", "id-1", "post.view", 1, "tv", "box")


@pytest.fixture
async def kept(served: Served) -> AsyncIterator[EventLog]:
    """An event log that has begun its first period."""
    keeping = asyncio.create_task(served.event_log.keep())
    await asyncio.sleep(0)
    yield served.event_log
    keeping.cancel()


async def test_types_are_counted_without_a_page(served: Served, kept: EventLog) -> None:
    feed = served.metrics.feed
    for change in (STORED, STORED._replace(event_type="a"), STORED, STORED._replace(change="delivered")):
        feed.publish(change)
    feed.publish(STORED._replace(change="rejected", event_type="a", device_id="bad", message="wrong field"))
    served.outbox.letters[12] = dead_letter(12, body=b'{"event_type":"post.view"}')
    served.outbox.totals = served.outbox.totals._replace(dead_lettered=1)

    data = (await served.call("/event-types")).json()

    zeros = {"stored": 0, "rejected": 0, "delivered": 0, "dead_lettered": 0, "dropped": 0}
    assert data == {
        "success": True,
        "types": [
            {
                "event_type": "post.view",
                **zeros,
                "stored": 2,
                "delivered": 1,
                "dead_lettered": 1,
                "problem_device_id": "tv-1",
                "problem": "wrong",
            },
            {
                "event_type": "a",
                **zeros,
                "stored": 1,
                "rejected": 1,
                "problem_device_id": "bad",
                "problem": "wrong field",
            },
        ],
        "further_types": 0,
        "complete": True,
    }
    assert [json.loads(line)["change"] for line in kept.lines][-2:] == ["rejected", "dead_lettered"]


async def test_beyond_the_bound_of_a_period_no_change_is_prepared(served: Served, kept: EventLog) -> None:
    feed = served.metrics.feed
    for _ in range(READ_AT_ONCE):
        assert feed.is_followed
        feed.publish(STORED)
    assert not feed.is_followed
    data = kept.types()
    assert (data["types"][0]["stored"], data["complete"]) == (READ_AT_ONCE, False)
    kept._next_period()
    assert feed.is_followed
    feed.publish(STORED)
    assert kept.types()["types"][0]["stored"] == READ_AT_ONCE + 1


async def test_types_and_lines_take_bounded_memory(served: Served, kept: EventLog) -> None:
    tracemalloc.start()
    try:
        for n in range(READ_AT_ONCE - 1):
            text = f"{n:04}" + "😀" * 60_000
            change = STORED._replace(change="rejected", event_id=text, event_type=text, platform=text, device_id=text)
            served.metrics.feed.publish(change._replace(reason=text, message=text))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 3_000_000
    data = kept.types()
    assert (len(kept.lines), len(data["types"]), data["further_types"]) == (
        MAX_LINES,
        MAX_TYPES,
        READ_AT_ONCE - 1 - MAX_TYPES,
    )


async def test_a_secret_in_a_type_is_masked(served: Served, kept: EventLog) -> None:
    log.set_secrets([Secret("canary-key-1")])
    try:
        served.metrics.feed.publish(STORED._replace(event_type="canary-key-1"))
        assert b"canary" not in (await served.call("/event-types")).body + b"".join(kept.lines)
    finally:
        log.set_secrets([])

"""A follower gets one line for each change, within a bounded buffer, until it leaves or the relay stops."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import ClientResponse
from relay.ops.event_log import newest_id
from relay.ops.live import MAX_STREAMS
from relay.ops.tail import MAX_LINES, PATH, Lines
from relay.runtime import log
from relay.runtime.event_feed import EventChange
from relay.runtime.secret import Secret

from tests.support.ops_harness import DeadLetterOutbox, Served, StillClock, dead_letter

STORED = EventChange("stored", "id-1", "post.view", 1, "tv", "box")


async def followed(served: Served, path: str = PATH) -> ClientResponse:
    """Return a stream after its first, empty line, from which on it receives changes."""
    stream = await served.session.get(served.base + path)
    assert await stream.content.readline() == b"\n"
    return stream


async def line(stream: ClientResponse) -> Any:
    while (text := await stream.content.readline()) == b"\n":
        pass
    return json.loads(text)


async def test_a_follower_receives_a_line_for_each_change(served: Served) -> None:
    stream = await followed(served)
    assert stream.headers["Content-Type"] == "application/x-ndjson"
    served.metrics.feed.publish(STORED)
    served.metrics.feed.publish(EventChange("rejected", reason="malformed", message="x" * 1_000))
    first, second = await line(stream), await line(stream)
    assert first == {"at": "1970-01-01T00:00:00.000Z", **STORED._asdict()}
    assert (second["change"], second["tenant"], len(second["message"])) == ("rejected", None, 500)
    stream.close()
    async with asyncio.timeout(30):
        while served.metrics.feed.is_followed:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("query", ["device=box", "type=post.view", "device=box&type=post.view"])
async def test_a_device_and_a_type_select_events(served: Served, query: str) -> None:
    stream = await followed(served, f"{PATH}?{query}")
    served.metrics.feed.publish(STORED._replace(device_id="other", event_type="other"))
    served.metrics.feed.publish(STORED._replace(event_id="id-2"))
    assert (await line(stream))["event_id"] == "id-2"
    stream.close()


async def test_new_dead_letters_are_shown_with_type_and_message(served: Served) -> None:
    served.outbox.letters = {4: dead_letter(4), 9: dead_letter(9)}
    stream = await followed(served)
    served.outbox.letters[12] = dead_letter(12, body=b'{"event_type":"post.view"}')
    served.outbox.totals = served.outbox.totals._replace(dead_lettered=3)
    shown = await line(stream)
    assert (shown["change"], shown["event_id"], shown["event_type"]) == ("dead_lettered", "id-12", "post.view")
    assert (shown["tenant"], shown["device_id"], shown["reason"], shown["message"]) == (1, "tv-1", "refused", "wrong")
    stream.close()


async def test_a_stop_ends_the_stream_with_the_lines_so_far(served: Served) -> None:
    stream = await followed(served)
    served.metrics.feed.publish(STORED)
    served.live.stop()
    assert (await line(stream))["event_id"] == "id-1"
    assert await line(stream) == {"end": "the relay is stopping"}
    assert await stream.content.readline() == b""


async def test_followers_and_status_pages_share_a_limit(served: Served) -> None:
    streams = [await followed(served) for _ in range(MAX_STREAMS)]
    rejected = await served.call(PATH)
    assert rejected.status == 503
    assert "`relay tail` commands are open" in rejected.json()["error"]
    for stream in streams:
        stream.close()


async def test_an_unknown_parameter_is_rejected(served: Served) -> None:
    rejected = await served.call(f"{PATH}?devcie=1")
    assert rejected.status == 400
    assert rejected.json()["error"] == "unknown parameter 'devcie': the parameters are device, type and recent"


@pytest.mark.parametrize("query", ["recent=1", "recent=true&type=a", "recent=true&device=a"])
async def test_recent_changes_are_those_of_all_events(served: Served, query: str) -> None:
    rejected = await served.call(f"{PATH}?{query}")
    assert (rejected.status, "recent is true, without" in rejected.json()["error"]) == (400, True)


async def test_a_follower_may_receive_the_latest_changes_first(served: Served) -> None:
    keeping = asyncio.create_task(served.event_log.keep())
    await asyncio.sleep(0)
    served.metrics.feed.publish(STORED)
    stream = await followed(served, f"{PATH}?recent=true")
    served.metrics.feed.publish(STORED._replace(event_id="id-2"))
    assert [(await line(stream))["event_id"] for _ in range(2)] == ["id-1", "id-2"]
    stream.close()
    keeping.cancel()


def test_beyond_the_buffer_lines_are_skipped_and_counted() -> None:
    lines = Lines(None, None, StillClock())
    for n in range(MAX_LINES + 3):
        lines.add(STORED._replace(event_id=str(n)))
    *shown, skipped = [json.loads(text) for text in lines.take().splitlines()]
    assert [each["event_id"] for each in shown] == [str(n) for n in range(MAX_LINES)]
    assert skipped == {"skipped": 3}
    lines.add(STORED)
    assert len(lines.take().splitlines()) == 1
    assert lines.take() == b""


def test_a_secret_in_a_rejected_event_is_masked() -> None:
    log.set_secrets([Secret("canary-key-1")])
    try:
        lines = Lines(None, None, StillClock())
        lines.add(STORED._replace(device_id="canary-key-1", message='"canary-key-1" is wrong'))
        assert b"canary" not in lines.take()
    finally:
        log.set_secrets([])


@pytest.mark.parametrize("ids", [[], [1], [2], [3, 4], [7, 900_000], [1 << 40]])
async def test_the_newest_dead_letter_is_found(ids: list[int]) -> None:
    outbox = DeadLetterOutbox(letters={each: dead_letter(each) for each in ids})
    assert await newest_id(outbox) == max(ids, default=0)  # type: ignore[arg-type]

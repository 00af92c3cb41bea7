"""The events API with a real outbox: the responses agree with the stored events."""

from __future__ import annotations

import json

from relay.config import OutboxSettings

from tests.support.ingest_harness import BODY, EVENT, EVENT_ID, HandClock, Served, post, request
from tests.support.memory_outbox import MemoryOutbox


async def served_by(outbox: MemoryOutbox) -> Served:
    await outbox.open()
    await outbox.load(lambda *_: None)
    return Served(outbox=outbox)


async def test_an_event_with_202_is_pending_and_a_repeat_is_a_duplicate() -> None:
    outbox = MemoryOutbox(OutboxSettings(), HandClock())
    async with await served_by(outbox) as served:
        assert [(await served.post()).status for _ in range(3)] == [202, 202, 202]
        assert outbox.ledger().accepted == outbox.ledger().pending == 1
        assert served.count("events_accepted_total", transport="http") == 1
        assert served.count("events_duplicate_total", transport="http") == 2
        response = await served.ask(request(f"GET /v1/events/{EVENT_ID} HTTP/1.1"))
        assert response.json == {"event_id": EVENT_ID, "state": "pending"}


async def test_a_full_outbox_is_503_until_there_is_room() -> None:
    outbox = MemoryOutbox(OutboxSettings(max_size_bytes=len(BODY) * 3), HandClock())
    async with await served_by(outbox) as served:
        client = await served.connect()
        statuses = []
        for number in range(9):
            client.send(post(json.dumps({**EVENT, "event_id": EVENT_ID[:-1] + str(number)}).encode()))
            statuses.append((await client.response()).status)
        accepted = statuses.count(202)
        assert statuses == [202] * accepted + [503] * (9 - accepted)
        assert 0 < accepted < 9
        assert outbox.ledger().accepted == accepted
        assert served.rejected("full") == 9 - accepted


async def test_a_closed_outbox_is_503() -> None:
    outbox = MemoryOutbox(OutboxSettings(), HandClock())
    async with await served_by(outbox) as served:
        await outbox.close()
        response = await served.post()
        assert (response.status, "retry-after" in response.headers) == (503, True)
        assert served.rejected("unavailable") == 1

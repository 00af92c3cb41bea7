"""The events API with a real outbox: the responses agree with the stored events."""

from __future__ import annotations

import json
from typing import Any

from relay.cli.outbox_on_disk import NoHolder
from relay.config import OutboxSettings

from tests.support.ingest_harness import BODY, EVENT, EVENT_ID, HandClock, Served, post, request
from tests.support.memory_outbox import MemoryOutbox


async def served_by(outbox: MemoryOutbox) -> Served:
    await outbox.open()
    await outbox.load(NoHolder())
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


def of_device(number: int, device_id: str) -> dict[str, Any]:
    event: dict[str, Any] = {**EVENT, "event_id": EVENT_ID[:-2] + f"{number:02x}"}
    return event | {"source": event["source"] | {"device_id": device_id}}


async def test_a_further_device_beyond_the_limit_is_503_and_known_devices_are_served() -> None:
    outbox = MemoryOutbox(OutboxSettings(max_devices=1), HandClock())
    async with await served_by(outbox) as served:
        client = await served.connect()
        assert (await served.post(json.dumps(of_device(1, "tv-1")).encode())).status == 202
        known, further = of_device(2, "tv-1"), of_device(3, "tv-2")
        for body, content_type in (
            (json.dumps(further), "application/json"),
            (json.dumps({"events": [known, further]}), "application/json"),
            (f"{json.dumps(known)}\n{json.dumps(further)}", "application/x-ndjson"),
        ):
            client.send(post(body.encode(), f"Content-Type: {content_type}"))
            response = await client.response()
            assert (response.status, response.headers["retry-after"]) == (503, "5")
            assert '"tv-2" is new' in response.json["error"]
        for number in range(4, 8):  # Requests of one turn, which are appended together.
            client.send(post(json.dumps(of_device(number, f"tv-{1 + number % 2}")).encode()))
        assert [(await client.response()).status for _ in range(4)] == [202, 503, 202, 503]
        assert served.rejected("max_devices") == 1 + 2 + 2 + 2
        assert outbox.ledger().accepted == 3


async def test_a_closed_outbox_is_503() -> None:
    outbox = MemoryOutbox(OutboxSettings(), HandClock())
    async with await served_by(outbox) as served:
        await outbox.close()
        response = await served.post()
        assert (response.status, "retry-after" in response.headers) == (503, True)
        assert served.rejected("unavailable") == 1

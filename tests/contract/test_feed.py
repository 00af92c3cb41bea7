"""Every durable outbox reports the events that a commit stores or drops, each once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from relay.config import OutboxSettings
from relay.event.reader import DeviceKey, Event
from relay.outbox.engine.operations import REPORTED_AT_ONCE
from relay.runtime.event_feed import EventChange

from tests.contract.boxes import DAY_MS, PHONE, TV, Box, DictionaryBox, SharedBox, SqliteBox, close, event_id


@pytest.fixture(params=[DictionaryBox, SqliteBox, SharedBox, pytest.param("postgres", marks=pytest.mark.slow)])
async def box(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Box]:
    make: Callable[..., Box] = request.param
    more: dict[str, Any] = {}
    if request.param == "postgres":
        more = {"url": request.getfixturevalue("postgres_cluster").create_database()}
        from tests.contract.postgres_box import PostgresBox as make
    box = await make(OutboxSettings(path=tmp_path / "outbox.db", max_age_ms=DAY_MS), **more).start()
    yield box
    await close(box)


def text_id(number: int) -> str:
    text = event_id(number).hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


async def test_stored_events_are_reported_after_the_commit_and_duplicates_are_not(box: Box) -> None:
    changes: list[EventChange] = []
    await box.append(range(2))
    box.metrics.feed.follow(changes.append)
    await box.append([1, 2, 2, 3], PHONE)
    assert changes == [EventChange("stored", tenant=1, platform="ios", device_id="phone-1")] * 2


async def test_dropped_events_are_reported_with_id_type_and_device(box: Box) -> None:
    changes: list[EventChange] = []
    await box.outbox.append([typed(0, TV), typed(1, TV), typed(2, PHONE)])
    await box.seen()
    box.clock.advance(DAY_MS + 1)
    box.metrics.feed.follow(changes.append)
    assert await box.outbox.expire() == 3
    assert sorted(changes) == [
        EventChange("dropped", text_id(0), "type-0", *TV, reason="age"),
        EventChange("dropped", text_id(1), "type-1", *TV, reason="age"),
        EventChange("dropped", text_id(2), "type-2", *PHONE, reason="age"),
    ]


async def test_of_many_dropped_events_each_is_reported_and_the_first_ones_with_their_type(box: Box) -> None:
    changes: list[EventChange] = []
    await box.outbox.append([typed(number, TV) for number in range(REPORTED_AT_ONCE + 9)])
    await box.seen()
    box.clock.advance(DAY_MS + 1)
    box.metrics.feed.follow(changes.append)
    await box.outbox.expire()
    assert [change.event_id for change in changes] == [text_id(number) for number in range(REPORTED_AT_ONCE + 9)]
    types = [change.event_type for change in changes]
    assert types == [f"type-{number}" for number in range(REPORTED_AT_ONCE)] + [""] * 9


def typed(number: int, key: DeviceKey) -> Event:
    return Event(event_id(number), key, b'{"event_type":"type-%d"}' % number)

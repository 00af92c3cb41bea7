"""Every durable outbox reports the events that a commit stores or drops, each once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from relay.config import OutboxSettings
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


async def test_dropped_events_are_reported_with_id_and_device(box: Box) -> None:
    changes: list[EventChange] = []
    await box.append(range(2), TV)
    await box.append([2], PHONE)
    box.clock.advance(DAY_MS + 1)
    box.metrics.feed.follow(changes.append)
    assert await box.outbox.expire() == 3
    assert sorted(changes) == [
        EventChange("dropped", text_id(0), "", *TV, reason="age"),
        EventChange("dropped", text_id(1), "", *TV, reason="age"),
        EventChange("dropped", text_id(2), "", *PHONE, reason="age"),
    ]

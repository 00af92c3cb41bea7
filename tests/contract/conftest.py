"""`make_box`: an outbox of each kind, closed at the end of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from relay.config import OutboxSettings

from tests.contract.boxes import Box, DictionaryBox, MemoryBox, SharedBox, SqliteBox, close

MakeBox = Callable[..., Box]
KINDS: dict[str, Callable[..., Box]] = {
    "memory": MemoryBox,
    "dictionary": DictionaryBox,
    "sqlite": SqliteBox,
    "shared": SharedBox,
}


@pytest.fixture(params=[*KINDS, pytest.param("postgres", marks=pytest.mark.slow)])
async def make_box(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeBox]:
    """Return a function that takes outbox settings and returns a closed outbox."""
    boxes: list[Box] = []

    def make(**settings: Any) -> Box:
        chosen = OutboxSettings(path=tmp_path / f"{len(boxes)}" / "outbox.db", **settings)
        if request.param == "postgres":
            cluster = request.getfixturevalue("postgres_cluster")
            from tests.contract.postgres_box import PostgresBox

            box: Box = PostgresBox(chosen, url=cluster.create_database())
        else:
            box = KINDS[request.param](chosen)
        boxes.append(box)
        return box

    if request.param == "postgres":
        request.getfixturevalue("postgres_cluster")
    yield make
    for box in boxes:
        await close(box)


@pytest.fixture
async def box(make_box: MakeBox) -> Box:
    """Return an open outbox with the default settings."""
    return await make_box().start()

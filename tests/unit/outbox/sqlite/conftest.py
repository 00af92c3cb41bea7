"""`box`: an open SQLite outbox. `make_box`: a function that takes settings and returns a closed SQLite outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from relay.config import OutboxSettings

from tests.contract.boxes import SqliteBox, close


class MakeBox(Protocol):
    def __call__(self, **settings: Any) -> SqliteBox: ...


@pytest.fixture
async def make_box(tmp_path: Path) -> AsyncIterator[MakeBox]:
    boxes: list[SqliteBox] = []

    def make(**settings: Any) -> SqliteBox:
        settings.setdefault("path", tmp_path / f"{len(boxes)}" / "outbox.db")
        boxes.append(SqliteBox(OutboxSettings(**settings)))
        return boxes[-1]

    yield make
    for each in boxes:
        await close(each)


@pytest.fixture
async def box(make_box: MakeBox) -> SqliteBox:
    box = make_box()
    await box.start()
    return box

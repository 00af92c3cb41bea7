"""A start does not read a long log to forget idle device queues. The contract suite tests which ones it forgets."""

from __future__ import annotations

from pathlib import Path

import pytest
from relay.config import OutboxSettings

from tests.contract.boxes import PHONE, TV, SqliteBox, close


@pytest.mark.parametrize(("pending", "forgotten"), [(4, 1), (8, 0)])
async def test_idle_queues_are_forgotten_if_the_log_is_not_longer_than_the_dedupe_window(
    tmp_path: Path, pending: int, forgotten: int
) -> None:
    box = await SqliteBox(OutboxSettings(path=tmp_path / "outbox.db", dedupe_window=5)).start()
    await box.append([0], TV)
    await box.deliver(1, TV)
    await box.append(range(1, 1 + pending), PHONE)
    box.may_forget = lambda window: True
    await box.restart()
    assert len(box.loaded.queues) == 2 - forgotten
    await close(box)

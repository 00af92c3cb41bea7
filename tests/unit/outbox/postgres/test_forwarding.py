"""Forward transactions whose outcome is unknown: each is executed once, and its bodies are read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from relay.config import OutboxSettings
from relay.outbox import Ledger, OutboxUnavailable
from relay.outbox.postgres.database import Move, Moved, group_of
from relay.outbox.postgres.outbox import SharedOutbox
from relay.runtime.tasks import Tasks

from tests.contract.boxes import TV, SharedBox, bodies, close
from tests.support.memory_database import MemoryDatabase


class LossyMoves(MemoryDatabase):
    """A connection that is lost during the next forward transaction, before or after the commit."""

    loses = ""
    during: Callable[[], object] = staticmethod(lambda: None)

    async def move(self, replica: int, move: Move) -> Moved:
        self.during()
        loses, self.loses = self.loses, ""
        if loses == "before":
            raise OutboxUnavailable("lost")
        moved = await super().move(replica, move)
        if loses == "after":
            raise OutboxUnavailable("lost")
        return moved


class LossyMovesBox(SharedBox):
    def make(self) -> SharedOutbox:
        self.database = LossyMoves(self.store)
        return SharedOutbox(self.settings, self.clock, self.metrics, Tasks(), self.database)


@pytest.fixture
async def box() -> AsyncIterator[LossyMovesBox]:
    box = LossyMovesBox(OutboxSettings())
    await box.start()
    await box.append(range(5))
    yield box
    await close(box)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_claim_and_a_settlement_are_executed_once(box: LossyMovesBox, when: str) -> None:
    box.database.loses = when
    assert (await box.claim(3)).bodies == bodies(range(3))
    box.database.loses = when
    await box.settle()
    assert await box.deliver(10) == bodies([3, 4])
    assert box.on_disk() == box.outbox.ledger() == Ledger(accepted=5, delivered=5)


async def test_a_queue_group_is_not_released_while_a_statement_has_its_events(box: LossyMovesBox) -> None:
    state, group, released = box.outbox._parts.state, group_of(box.queues[TV]), list[bool]()

    def during() -> None:
        state.leaving.add(group)
        released.append(group in state.releasable())
        state.leaving.discard(group)

    box.database.during = during
    await box.claim(3)
    assert released == [False]

"""The order in which a relay discovers the events of a device."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from relay.config import OutboxSettings
from relay.outbox.postgres.database import CommitRow
from relay.outbox.postgres.outbox import SharedOutbox
from relay.runtime.tasks import Tasks

from tests.contract.boxes import SharedBox, bodies, close, event
from tests.support.memory_database import MemoryDatabase


class HeldPolls(MemoryDatabase):
    """A connection whose polls wait while `may_poll` is not set."""

    may_poll: asyncio.Event

    async def poll(self, positions: Mapping[int, int], limit: int) -> Mapping[int, Sequence[CommitRow]]:
        await self.may_poll.wait()
        return await super().poll(positions, limit)


class HeldPollsBox(SharedBox):
    def make(self) -> SharedOutbox:
        self.database = HeldPolls(self.store)
        self.database.may_poll = asyncio.Event()
        self.database.may_poll.set()
        return SharedOutbox(self.settings, self.clock, self.metrics, Tasks(), self.database)


async def test_own_events_do_not_overtake_those_that_another_relay_acknowledged_before() -> None:
    box = HeldPollsBox(OutboxSettings())
    await box.start()
    await box.append([0])
    other = box.beside()
    await other.outbox.open()
    box.database.may_poll.clear()
    await other.outbox.append([event(1)])
    await box.outbox.append([event(2)])
    assert await box.deliver(3) == bodies([0])
    box.database.may_poll.set()
    while box.reported() < 2:
        await asyncio.sleep(0)
    assert await box.deliver(3) == bodies([1, 2])
    await close(other)
    await close(box)

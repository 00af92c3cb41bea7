"""Appends and requeues whose outcome is unknown: each is executed once, and counted once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from relay.config import OutboxSettings
from relay.outbox import Ledger, OutboxUnavailable, Selection
from relay.outbox.postgres.database import Appended, AppendTransaction, CommitRow, RequeueTransaction
from relay.outbox.postgres.outbox import SharedOutbox
from relay.runtime.tasks import Tasks

from tests.contract.boxes import REFUSED, SharedBox, close, event
from tests.support.memory_database import MemoryDatabase


class LossyDatabase(MemoryDatabase):
    """A connection that is lost during the next append or requeue, before or after the commit."""

    loses = ""
    hanging: asyncio.Event | None = None

    async def append(self, replica: int, append: AppendTransaction) -> Appended:
        if self.hanging is not None:
            await self.hanging.wait()
        if self._is_lost("before"):
            raise OutboxUnavailable("lost")
        ids = await super().append(replica, append)
        if self._is_lost("after"):
            raise OutboxUnavailable("lost")
        return ids

    async def requeue(self, replica: int, requeue: RequeueTransaction) -> CommitRow | None:
        if self._is_lost("before"):
            raise OutboxUnavailable("lost")
        row = await super().requeue(replica, requeue)
        if self._is_lost("after"):
            raise OutboxUnavailable("lost")
        return row

    def _is_lost(self, when: str) -> bool:
        is_lost, self.loses = self.loses == when, "" if self.loses == when else self.loses
        return is_lost


class LossyBox(SharedBox):
    def make(self) -> SharedOutbox:
        self.database = LossyDatabase(self.store)
        return SharedOutbox(self.settings, self.clock, self.metrics, Tasks(), self.database)


@pytest.fixture
async def box() -> AsyncIterator[LossyBox]:
    box = LossyBox(OutboxSettings())
    await box.start()
    yield box
    await close(box)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_append_is_stored_once(box: LossyBox, when: str) -> None:
    box.database.loses = when
    assert (await box.outbox.append([event(1), event(2)])).duplicates == 0
    await box.outbox.append([event(3)])
    await box.seen()
    assert len(await box.deliver_all()) == 3
    assert box.on_disk() == box.outbox.ledger() == Ledger(accepted=3, delivered=3)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_append_is_not_acknowledged_if_its_commit_is_not_replicated(box: LossyBox, when: str) -> None:
    """After a failover, the transaction is executed or found on a server without a standby."""
    box.outbox._parts.state.settings = replace(box.settings, require_replicated=True)
    box.outbox._parts.state.durability = "replicated"
    box.database.loses = when
    with pytest.raises(OutboxUnavailable, match="require_replicated"):
        await box.outbox.append([event(1)])
    box.database.durability = "replicated"
    while not box.outbox.gauges().writable:
        await asyncio.sleep(0.01)
    assert (await box.outbox.append([event(1)])).duplicates == 1
    assert box.on_disk().accepted == 1


async def test_callers_wait_8_s_for_a_statement_that_hangs(box: LossyBox) -> None:
    box.database.hanging = asyncio.Event()
    appends = [box.outbox.append([event(1)])]
    while box.outbox._parts.appending._waiting:
        await asyncio.sleep(0)
    appends.append(box.outbox.append([event(2)]))
    box.clock.advance(8_000)
    answered, _ = await asyncio.wait(appends, timeout=20)
    box.database.hanging.set()
    reasons = [str(append.exception()) for append in answered]
    assert reasons == ["the database does not respond: whether the events were stored is unknown"] * 2
    while box.outbox.ledger().accepted < 2:
        await asyncio.sleep(0)
    box.check()


async def test_a_repeated_event_is_not_acknowledged_if_its_commit_is_not_replicated(box: LossyBox) -> None:
    """The repeat arrives during the commit of the first copy, while the last commit was replicated."""
    parts = box.outbox._parts
    parts.state.settings = replace(box.settings, require_replicated=True)
    parts.state.durability = "replicated"
    first = box.outbox.append([event(1)])
    while parts.appending._waiting:
        await asyncio.sleep(0)
    repeat = box.outbox.append([event(1)])
    for append in (first, repeat):
        with pytest.raises(OutboxUnavailable, match="require_replicated"):
            await append


async def test_the_result_has_the_durability_of_its_commit(box: LossyBox) -> None:
    """The answer to a poll that was sent before the commit arrives before the caller sees the result."""
    box.database.durability = "replicated"
    append = box.outbox.append([event(1)])
    while not append.done():
        await asyncio.sleep(0)
    state = box.outbox._parts.state
    state.see(state.view._replace(durability="full"), state.letter_changes)
    assert box.outbox.durability == "full"
    assert (await append).durability == "replicated"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_requeue_is_counted_once(box: LossyBox, when: str) -> None:
    await box.append([1, 2])
    await box.claim(2)
    await box.settle(dead={0: REFUSED, 1: REFUSED})
    box.database.loses = when
    if when == "before":
        with pytest.raises(OutboxUnavailable):
            await box.outbox.requeue(Selection(all=True), 10)
    assert await box.outbox.requeue(Selection(all=True), 10) == 2
    await box.append([3])
    await box.seen()
    assert box.outbox.ledger() == Ledger(accepted=3, requeued=2, dead_lettered=2, pending=3)
    box.check()


async def test_announcements_are_bounded(box: LossyBox) -> None:
    appending = box.outbox._parts.appending
    box.outbox._parts.state.settings = replace(box.settings, max_devices=2)
    for number in range(6):
        key = (1, "tv", f"tv-{number}")
        await box.append([number], key)
        await box.deliver(1, key)
        await box.outbox.forget([box.queues[key]])
    assert len(appending._announced) <= 3

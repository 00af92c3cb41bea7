"""The SQLite outbox and the outbox in memory execute the same random steps and must never differ.

The events that a full SQLite outbox rejects or drops depend on its pages. There the outbox in
memory follows it: it skips rejected events, and drops the same number of its oldest events.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from relay.config import OutboxSettings
from relay.event.reader import DeviceKey
from relay.outbox import ClaimPart, Dead, OutboxError, OutboxFull, OutboxUnavailable, Selection, Settled
from relay.outbox.sqlite import connection

from tests.contract.boxes import Box, DictionaryBox, MemoryBox, SqliteBox, close, event, event_id

T = TypeVar("T")

KEYS: list[DeviceKey] = [(1, "tv", "a"), (1, "tv", "b"), (2, "ios", "c")]
NUMBERS = 61
MAX_AGE_MS = 1_000
TIMES = (None, 2_000_000_000_000, 3_000_000_000_000)
"""That a relay may know the time to be."""
SMALL_BYTES, LARGE_BYTES = 0, 20_000
FULL_BYTES = 512 << 10
"""A dozen large events fill the outbox."""
NIGHTLY = os.environ.get("RELAY_NIGHTLY") == "1"

key = st.integers(0, len(KEYS) - 1)
number = st.integers(0, NUMBERS - 1)
few = st.integers(0, 3)


class Life:
    """One outbox, with methods for the steps of a test run, which return the results."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.in_flight: dict[int, int] = {}
        """By index in KEYS: number of events in flight."""

    async def append(self, chosen: list[tuple[int, int]], body_bytes: int) -> int | None:
        """Append events. Return the number of duplicates; None if the outbox is full."""
        try:
            result = await self.box.outbox.append(
                [event(number, KEYS[at], body_bytes, has_inserted_time=number % 3 == 0) for at, number in chosen]
            )
            return result.duplicates
        except OutboxFull:
            return None

    async def claim(
        self, chosen: list[tuple[int, int]], true_ms: int | None, omitted: frozenset[int] = frozenset(), dead: int = 0
    ) -> object:
        """Claim events. Then omit some of them by index, of which those below `dead` are bad."""
        counts = {at: count for at, count in chosen if KEYS[at] in self.box.queues and at not in self.in_flight}
        parts = [ClaimPart(self.box.queues[KEYS[at]], count, b"%d" % count) for at, count in counts.items()]
        claimed = await self.box.outbox.claim(parts, true_ms)
        if omitted:
            self.box.outbox.release([part.queue_id for part in parts])
            reasons = {at: Dead("refused", 422, f"omitted {at}") if at < dead else None for at in omitted}
            named = [{each.seqs[at]: why for at, why in reasons.items() if at < len(each.seqs)} for each in claimed]
            parts = [part._replace(omitted=some) for part, some in zip(parts, named, strict=True)]
            claimed = await self.box.outbox.claim(parts, true_ms)
        for at, part, each in zip(counts, parts, claimed, strict=True):
            if each.bodies or part.omitted:
                self.in_flight[at] = len(each.bodies)
        return [(list(each.bodies), dict(each.timestamps)) for each in claimed]

    async def answer(self, at: int, delivered: bool, dead: set[int], window: bytes) -> object:
        if at in self.in_flight:
            events = self.in_flight.pop(at)
            dead_events = {index: Dead("refused", 422, "no") for index in dead if index < events}
            await self.box.outbox.settle([Settled(self.box.queues[KEYS[at]], delivered, dead_events, window)])
        return None

    async def release(self, at: int, perhaps_delivered: bool) -> object:
        if self.in_flight.pop(at, None) is not None:
            self.box.outbox.release([self.box.queues[KEYS[at]]], perhaps_delivered=perhaps_delivered)
        return None

    async def corrupt(self, number: int) -> object:
        if await self.box.outbox.find(event_id(number)) != "pending":
            return None
        await self.box.outbox.close()
        self.box.corrupt(number)
        self.box.outbox = self.box.make()
        return await self.opened()

    async def expire(self) -> object:
        return await self.box.outbox.expire()

    async def requeue(self, limit: int) -> object:
        return await self.box.outbox.requeue(Selection(all=True), limit)

    async def discard(self, limit: int) -> object:
        return await self.box.outbox.discard(Selection(all=True), limit)

    async def forget(self, at: int) -> object:
        if KEYS[at] in self.box.queues:
            await self.box.outbox.forget([self.box.queues[KEYS[at]]])
        return None

    async def restart(self) -> object:
        await self.box.outbox.close()
        self.box.outbox = self.box.make()
        return await self.opened()

    async def kill(self) -> object:
        self.box = await self.box.kill()
        return await self.opened()

    async def reboot(self, off_ms: int) -> object:
        self.box = await self.box.kill()
        self.box.clock.reboot(off_ms)
        return await self.opened()

    async def opened(self) -> object:
        """Open the outbox, and claim the unsettled requests first, as the forwarder does."""
        self.in_flight.clear()
        self.box.queues.clear()
        await self.box.start()
        names = {queue.queue_id: queue.key for queue in self.box.loaded.queues}
        self.box.queues |= {key: queue for queue, key in names.items()}
        again: list[object] = []
        for request in self.box.loaded.unsettled:
            claimed = await self.box.outbox.claim(request, TIMES[-1])
            for part, each in zip(request, claimed, strict=True):
                if each.bodies or part.omitted:
                    self.in_flight[KEYS.index(names[each.queue_id])] = len(each.bodies)
            again.append([(names[each.queue_id], list(each.bodies), dict(each.timestamps)) for each in claimed])
        windows = sorted((queue.key, queue.window, queue.shift_ms) for queue in self.box.loaded.queues)
        return again, windows

    async def state(self) -> object:
        self.box.check()
        outbox = self.box.outbox
        await outbox.check()
        letters = await outbox.dead_letters(Selection(all=True), 1_000)
        gauges = outbox.gauges()
        return (
            outbox.ledger(),
            [await outbox.find(event_id(number)) for number in range(61)],
            [(letter.event_id, letter.reason, letter.message, letter.body, letter.dead_at) for letter in letters],
            {key: list(outbox.sizes(queue_id, 100)) for key, queue_id in self.box.queues.items()},
            (gauges.oldest_age_ms, gauges.dead_letters),
        )


class BothLives(RuleBasedStateMachine):
    """Each rule runs with both outboxes, which must be in the same state afterwards."""

    @initialize(
        durability=st.sampled_from(["full", "normal"]),
        when_full=st.sampled_from(["reject", "drop_oldest"]),
        window=st.integers(1, 20),
        max_dead=st.integers(1, 4),
    )
    def begin(self, durability: Any, when_full: Any, window: int, max_dead: int) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        chosen = {"max_age_ms": MAX_AGE_MS, "dedupe_window": window, "max_dead_letters": max_dead}
        real = OutboxSettings(
            path=self.directory / "outbox.db",
            max_size_bytes=FULL_BYTES,
            durability=durability,
            when_full=when_full,
            **chosen,
        )
        self.real, self.plain = self.run(begun(real, OutboxSettings(**chosen)))
        plain = self.plain.box
        assert isinstance(plain, MemoryBox)
        plain.limit_dead(FULL_BYTES // 4)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def both(self, what: Callable[[Life], Coroutine[Any, Any, object]]) -> None:
        assert self.run(what(self.real)) == self.run(what(self.plain))
        self.same()

    def same(self) -> None:
        assert self.run(self.real.state()) == self.run(self.plain.state())

    @rule(chosen=st.lists(st.tuples(key, number), min_size=1, max_size=8))
    def append(self, chosen: list[tuple[int, int]]) -> None:
        """There are few numbers, so that many events are duplicates."""
        self._append(chosen, SMALL_BYTES)

    @rule(chosen=st.lists(st.tuples(key, number), min_size=2, max_size=5))
    def fill(self, chosen: list[tuple[int, int]]) -> None:
        self._append(chosen, LARGE_BYTES)

    def _append(self, chosen: list[tuple[int, int]], body_bytes: int) -> None:
        dropped = self.real.box.outbox.ledger().dropped
        known = self.run(self.real.append(chosen, body_bytes))
        plain = self.plain.box
        assert isinstance(plain, MemoryBox)
        plain.drop_oldest(self.real.box.outbox.ledger().dropped - dropped)
        if known is not None:
            assert known == self.run(self.plain.append(chosen, body_bytes))
        self.same()

    @rule(chosen=st.lists(st.tuples(key, st.integers(1, 6)), min_size=1, max_size=3), true_ms=st.sampled_from(TIMES))
    def claim(self, chosen: list[tuple[int, int]], true_ms: int | None) -> None:
        self.both(lambda life: life.claim(chosen, true_ms))

    @rule(
        chosen=st.lists(st.tuples(key, st.integers(1, 6)), min_size=1, max_size=3),
        omitted=st.frozensets(st.integers(0, 5), min_size=1, max_size=3),
        dead=st.integers(0, 6),
    )
    def claim_remainder(self, chosen: list[tuple[int, int]], omitted: frozenset[int], dead: int) -> None:
        self.both(lambda life: life.claim(chosen, TIMES[1], omitted, dead))

    @rule(at=key, delivered=st.booleans(), dead=st.sets(st.integers(0, 5), max_size=2), window=st.binary(max_size=3))
    def answer(self, at: int, delivered: bool, dead: set[int], window: bytes) -> None:
        self.both(lambda life: life.answer(at, delivered, dead, window))

    @rule(at=key, perhaps_delivered=st.booleans())
    def release(self, at: int, perhaps_delivered: bool) -> None:
        self.both(lambda life: life.release(at, perhaps_delivered))

    @rule(chosen=number)
    def corrupt(self, chosen: int) -> None:
        self.both(lambda life: life.corrupt(chosen))

    @rule(ms=st.integers(0, MAX_AGE_MS))
    def wait(self, ms: int) -> None:
        for life in (self.real, self.plain):
            life.box.clock.advance(ms)
        self.same()

    @rule()
    def expire(self) -> None:
        self.both(Life.expire)

    @rule(limit=few)
    def requeue(self, limit: int) -> None:
        self.both(lambda life: life.requeue(limit))

    @rule(limit=few)
    def discard(self, limit: int) -> None:
        self.both(lambda life: life.discard(limit))

    @rule(at=key)
    def forget(self, at: int) -> None:
        self.both(lambda life: life.forget(at))

    @rule()
    def restart(self) -> None:
        self.both(Life.restart)

    @rule()
    def kill(self) -> None:
        self.both(Life.kill)

    @rule(off_ms=st.integers(0, MAX_AGE_MS))
    def reboot(self, off_ms: int) -> None:
        self.both(lambda life: life.reboot(off_ms))

    @rule(at=key, chosen=number, but_written=st.booleans())
    def append_that_seems_to_fail(self, at: int, chosen: int, but_written: bool) -> None:
        plain = self.plain.box
        assert isinstance(plain, MemoryBox)
        # A dropped event is not found, and may be appended again.
        if not plain.knows(chosen) and self.real.box.outbox.room():
            self.fail(lambda life: life.append([(at, chosen)], SMALL_BYTES), but_written)

    @rule(at=key, but_written=st.booleans())
    def forget_that_seems_to_fail(self, at: int, but_written: bool) -> None:
        if KEYS[at] in self.real.box.queues:
            self.fail(lambda life: life.forget(at), but_written)

    @rule(but_written=st.booleans())
    def discard_that_seems_to_fail(self, but_written: bool) -> None:
        self.fail(lambda life: life.discard(1), but_written)

    def fail(self, what: Callable[[Life], Coroutine[Any, Any, object]], but_written: bool) -> None:
        """Let a commit fail, with its content on disk or not. The state must follow the file."""
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(connection, "commit", failing_once(but_written))
            with pytest.raises(OutboxUnavailable):
                self.run(what(self.real))
            self.run(healed(self.real.box))
        if but_written:
            self.run(what(self.plain))
        self.same()

    def teardown(self) -> None:
        if not hasattr(self, "real"):
            return
        try:
            for queue_id in KEYS:
                assert self.real.box.backlog.get(queue_id, (0, 0)) == self.plain.box.backlog.get(queue_id, (0, 0))
        finally:
            self.run(close(self.plain.box))
            self.run(close(self.real.box))
            self.runner.close()
            shutil.rmtree(self.directory)


async def begun(real: OutboxSettings, plain: OutboxSettings) -> tuple[Life, Life]:
    lives = Life(SqliteBox(real)), Life(MemoryBox(plain))
    for life in lives:
        await life.box.start()
    return lives


def failing_once(but_written: bool) -> Callable[[sqlite3.Connection, Sequence[Any]], Any]:
    commit, left = connection.commit, 1

    def failing(database: sqlite3.Connection, steps: Sequence[Any]) -> Any:
        nonlocal left
        if not left:
            return commit(database, steps)
        left = 0
        if but_written:
            commit(database, steps)
        raise sqlite3.OperationalError("disk I/O error")

    return failing


async def healed(box: Box) -> None:
    """Wait until the file was opened and loaded again."""
    while True:
        try:
            await box.outbox.discard(Selection(ids=[-1]), 1)
            return
        except OutboxError:
            await asyncio.sleep(0.005)


TestBothLives = pytest.mark.timeout(3_600 if NIGHTLY else 120)(BothLives.TestCase)
TestBothLives.settings = settings(
    max_examples=1_000 if NIGHTLY else 40,
    stateful_step_count=60 if NIGHTLY else 30,
    suppress_health_check=[HealthCheck.too_slow],
)


async def test_all_outboxes_agree_over_a_thousand_events(tmp_path: Path) -> None:
    """The events require several commits of deletes. Some requests fail. The first outbox is the model."""
    chosen = OutboxSettings(path=tmp_path / "outbox.db", dedupe_window=500, max_dead_letters=50)
    lives = [Life(MemoryBox(chosen)), Life(DictionaryBox(chosen)), Life(SqliteBox(chosen))]
    for life in lives:
        await life.box.start()
    try:
        for round_ in range(40):
            for life in lives:
                await life.append([(n % 3, n) for n in range(round_ * 100, round_ * 100 + 100)], SMALL_BYTES)
                for at in range(3):
                    await life.claim([(at, 60)], None)
                    await life.answer(at, round_ % 5 != at, {round_ % 7}, b"w")
                if round_ % 13 == 12:
                    await life.kill()
            model, *states = [await life.state() for life in lives]
            assert states == [model, model], round_
    finally:
        for life in lives:
            await close(life.box)

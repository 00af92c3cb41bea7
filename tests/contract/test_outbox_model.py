"""The SQLite outbox and the plain one in memory live the same random lives and never differ."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relay.config import OutboxSettings
from relay.event import LaneKey
from relay.outbox import Dead, Part, Selection, Settled

from tests.contract.boxes import Box, MemoryBox, SqliteBox, close, event, event_id

KEYS: list[LaneKey] = [(1, "tv", "a"), (1, "tv", "b"), (2, "ios", "c")]
MAX_AGE_MS = 1_000

key = st.sampled_from(range(len(KEYS)))
STEP = st.one_of(
    st.tuples(st.just("append"), st.lists(st.tuples(key, st.integers(0, 60)), min_size=1, max_size=8)),
    st.tuples(st.just("take"), st.lists(st.tuples(key, st.integers(1, 6)), min_size=1, max_size=3)),
    st.tuples(st.just("answer"), key, st.booleans(), st.sets(st.integers(0, 5), max_size=2), st.binary(max_size=3)),
    st.tuples(st.just("release"), key),
    st.tuples(st.just("corrupt"), st.integers(0, 60)),
    st.tuples(st.just("wait"), st.integers(0, MAX_AGE_MS)),
    st.tuples(st.just("expire")),
    st.tuples(st.just("requeue"), st.integers(0, 3)),
    st.tuples(st.just("discard"), st.integers(0, 3)),
    st.tuples(st.just("forget"), key),
    st.tuples(st.just("restart")),
    st.tuples(st.just("kill")),
    st.tuples(st.just("reboot"), st.integers(0, MAX_AGE_MS)),
)


class Life:
    """One outbox, driven by steps; what it said and what it is."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.in_flight: dict[int, int] = {}
        """By number of the key: how many bodies a request holds."""

    async def step(self, what: str, *values: Any) -> object:
        return await getattr(self, what)(*values)

    async def append(self, chosen: list[tuple[int, int]]) -> object:
        return await self.box.outbox.append([event(number, KEYS[at]) for at, number in chosen])

    async def take(self, chosen: list[tuple[int, int]]) -> object:
        parts = {at: count for at, count in chosen if KEYS[at] in self.box.lanes and at not in self.in_flight}
        taken = await self.box.outbox.take(
            [Part(self.box.lanes[KEYS[at]], count, b"%d" % count) for at, count in parts.items()]
        )
        for at, (_, bodies) in zip(parts, taken, strict=True):
            if bodies:
                self.in_flight[at] = len(bodies)
        return [list(bodies) for _, bodies in taken]

    async def answer(self, at: int, delivered: bool, dead: set[int], window: bytes) -> object:
        if at in self.in_flight:
            held = self.in_flight.pop(at)
            fates = {index: Dead("refused", 422, "no") for index in dead if index < held}
            await self.box.outbox.settle([Settled(self.box.lanes[KEYS[at]], delivered, fates, window)])
        return None

    async def release(self, at: int) -> object:
        if self.in_flight.pop(at, 0):
            self.box.outbox.release([self.box.lanes[KEYS[at]]])
        return None

    async def corrupt(self, number: int) -> object:
        if self.box.outbox.find(event_id(number)) == "pending":
            await self.box.outbox.close()
            self.box.corrupt(number)
            self.box.outbox = self.box.make()
            return await self.opened()
        return None

    async def wait(self, ms: int) -> object:
        self.box.clock.advance(ms)
        return None

    async def expire(self) -> object:
        return await self.box.outbox.expire()

    async def requeue(self, limit: int) -> object:
        return await self.box.outbox.requeue(Selection(all=True), limit)

    async def discard(self, limit: int) -> object:
        return await self.box.outbox.discard(Selection(all=True), limit)

    async def forget(self, at: int) -> object:
        if KEYS[at] in self.box.lanes:
            await self.box.outbox.forget([self.box.lanes[KEYS[at]]])
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
        """Start, and take what was in flight again, first, as the forwarder does."""
        self.in_flight.clear()
        self.box.lanes.clear()
        await self.box.start()
        names = {lane.lane: lane.key for lane in self.box.loaded.lanes}
        self.box.lanes |= {key: lane for lane, key in names.items()}
        again: list[object] = []
        for request in self.box.loaded.unsettled:
            taken = await self.box.outbox.take(request)
            for lane, bodies in taken:
                if bodies:
                    self.in_flight[KEYS.index(names[lane])] = len(bodies)
            again.append([(names[lane], list(bodies)) for lane, bodies in taken])
        windows = sorted((lane.key, lane.window, lane.same_boot) for lane in self.box.loaded.lanes)
        return again, windows

    async def state(self) -> object:
        self.box.check()
        outbox = self.box.outbox
        await outbox.check()
        letters = await outbox.dead_letters(Selection(all=True), 1_000)
        gauges = outbox.gauges()
        return (
            outbox.ledger(),
            [outbox.find(event_id(number)) for number in range(61)],
            [(letter.event_id, letter.reason, letter.words, letter.body, letter.dead_at) for letter in letters],
            {key: list(outbox.sizes(lane, 100)) for key, lane in self.box.lanes.items()},
            (gauges.oldest_age_ms, gauges.dead_letters, gauges.writable),
        )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEP, max_size=30), st.integers(1, 20), st.integers(1, 4))
def test_no_random_life_tells_them_apart(steps: list[tuple[Any, ...]], window: int, max_dead: int) -> None:
    asyncio.run(live(steps, window, max_dead))


async def live(steps: list[tuple[Any, ...]], window: int, max_dead: int) -> None:
    directory = Path(tempfile.mkdtemp())
    chosen = OutboxSettings(
        path=directory / "outbox.db", dedupe_window=window, max_dead_letters=max_dead, max_age_ms=MAX_AGE_MS
    )
    plain, real = Life(MemoryBox(chosen)), Life(SqliteBox(chosen))
    try:
        await plain.box.start()
        await real.box.start()
        for step in steps:
            assert await real.step(*step) == await plain.step(*step), step
            assert await real.state() == await plain.state(), step
        assert [real.box.backlog.get(key, (0, 0)) for key in KEYS] == [
            plain.box.backlog.get(key, (0, 0)) for key in KEYS
        ]
    finally:
        await close(plain.box)
        await close(real.box)
        shutil.rmtree(directory)


async def test_a_thousand_events_live_alike() -> None:
    """Enough for several commits' worth of deletes, with requests that fail now and then."""
    steps: list[tuple[Any, ...]] = []
    for round_ in range(40):
        steps.append(("append", [(n % 3, n) for n in range(round_ * 100, round_ * 100 + 100)]))
        for at in range(3):
            steps += [("take", [(at, 60)]), ("answer", at, round_ % 5 != at, {round_ % 7}, b"w")]
        if round_ % 13 == 12:
            steps.append(("kill",))
    await live(steps, 500, 50)

"""The forwarder forgets idle devices in proportion to their number."""

from __future__ import annotations

import asyncio
from itertools import chain
from random import Random
from typing import Any

from relay.config import OutboxSettings
from relay.forward.forwarder import Forwarder
from relay.outbox import OutboxUnavailable
from relay.policy.schedule import Schedule
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks

from tests.simulation.virtual import SimClock, run
from tests.simulation.world import LIMITS
from tests.support.memory_outbox import MemoryOutbox

DEVICES = 20_000


class Forgetful(MemoryOutbox):
    """An outbox that records which device queues are forgotten at once. Its first call fails."""

    def __init__(self, clock: SimClock) -> None:
        super().__init__(OutboxSettings(), clock)
        self.forgotten: list[list[int]] = []
        self.failures = 0

    async def forget(self, queue_ids: Any) -> None:
        if not self.failures:
            self.failures += 1
            raise OutboxUnavailable("the disk fails")
        self.forgotten.append(list(queue_ids))


class NoUpstream:
    def origins(self) -> list[str]:
        return []


async def forgotten_after(seconds: float) -> list[list[int]]:
    clock = SimClock(Random(1))
    schedule, outbox = Schedule(LIMITS), Forgetful(clock)
    for number in range(DEVICES):
        schedule.restore(number, (1, "tv", f"device-{number}"), b"", clock.monotonic_ms(), 0)
    tasks = Tasks()
    forwarder = Forwarder(outbox, schedule, NoUpstream(), clock, Metrics(), tasks)  # type: ignore[arg-type]
    tasks.start("housekeeping", forwarder.maintain())
    await asyncio.sleep(LIMITS.window_ms / 1000 + seconds)
    await tasks.cancel_all()
    return outbox.forgotten


def test_each_second_a_share_of_the_idle_devices_is_forgotten_in_small_steps() -> None:
    forgotten = run(forgotten_after(20))
    assert sum(map(len, forgotten)) > DEVICES * 0.8
    assert max(map(len, forgotten)) <= 1_000


def test_devices_that_could_not_be_forgotten_are_forgotten_later() -> None:
    forgotten = run(forgotten_after(90))
    assert sorted(chain.from_iterable(forgotten)) == list(range(DEVICES))

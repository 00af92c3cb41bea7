"""The outbox in memory on a disk with random failures, for simulations.

A failed call may have been written, as with a real disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

from relay.config import OutboxSettings
from relay.event.reader import Event
from relay.outbox import AppendResult, Claimed, ClaimPart, OutboxUnavailable, Settled
from relay.runtime.clock import Clock

from tests.support.memory_disk import Disk
from tests.support.memory_outbox import MemoryOutbox


class SimOutbox(MemoryOutbox):
    """An outbox in which each call fails with the probability `failing`, half of the time after the write."""

    def __init__(self, settings: OutboxSettings, clock: Clock, rng: Random, disk: Disk | None = None) -> None:
        super().__init__(settings, clock, disk=disk)
        self.failing = 0.0
        self.fail_next_claim = False
        self.failed_claims = 0
        self._rng = rng
        self._written: list[Sequence[Settled]] = []
        """Settlements that were written and then failed."""

    def crashed(self) -> SimOutbox:
        super().crashed()
        after = SimOutbox(self._settings, self._clock, self._rng, self.disk.copy())
        after.failing = self.failing
        return after

    def append(self, events: Sequence[Event], *, callers: int = 1) -> asyncio.Future[AppendResult]:
        if not self._fails():
            return super().append(events, callers=callers)
        if self._rng.random() < 0.5:
            super().append(events, callers=callers).add_done_callback(
                asyncio.Future.exception
            )  # The caller receives the other future.
        failed: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()
        failed.set_exception(OutboxUnavailable("the disk fails"))
        return failed

    def _commit_pending_calls(self) -> None:
        super()._commit_pending_calls()
        assert len(self.disk.queues) <= self._settings.max_devices, "more devices than outbox.max_devices"

    async def claim(self, parts: Sequence[ClaimPart], true_ms: int | None = None) -> Sequence[Claimed]:
        fails = self._fails() or self.fail_next_claim
        self.fail_next_claim = False
        if not fails or self._rng.random() < 0.5:
            claimed = await super().claim(parts, true_ms)
        if fails:
            self.failed_claims += 1
            raise OutboxUnavailable("the disk fails")
        return claimed

    async def settle(self, settled: Sequence[Settled]) -> None:
        fails = self._fails()
        written = any(settled is one for one in self._written)
        if not written and (not fails or self._rng.random() < 0.5):
            await super().settle(settled)
            if fails:
                self._written.append(settled)
        if fails:
            raise OutboxUnavailable("the disk fails")

    def _fails(self) -> bool:
        return self.failing > 0 and self._rng.random() < self.failing

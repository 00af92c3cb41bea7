"""The implementation of relay.outbox.Outbox with a SQLite file.

Each call becomes an Op or an Append, and waits for its commit. `group_commit` decides when to commit
and handles disk failures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from relay.config import OutboxSettings
from relay.event.reader import Event
from relay.outbox import (
    Backlog,
    Claimed,
    ClaimPart,
    DeadLetter,
    EventState,
    Gauges,
    Ledger,
    OutboxError,
    OutboxFull,
    RestoredState,
    Selection,
    Settled,
)
from relay.outbox.engine.limits import limited
from relay.outbox.sqlite import dead_letters as dead
from relay.outbox.sqlite import operations, quarantine
from relay.outbox.sqlite.commit_plan import Append
from relay.outbox.sqlite.group_commit import Owner
from relay.outbox.sqlite.outbox_state import SpaceLimits
from relay.outbox.sqlite.store import Store
from relay.runtime.clock import Clock
from relay.runtime.machine import MachineIds
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks

_WALL_JUMP_MS = 60_000
_DISCARD_ROWS = 4096
"""Seqs whose events one commit discards."""


class SqliteOutbox:
    """See relay.outbox.Outbox."""

    def __init__(
        self,
        settings: OutboxSettings,
        clock: Clock,
        metrics: Metrics,
        tasks: Tasks,
        *,
        mends: bool = True,
        ids: MachineIds | None = None,
    ) -> None:
        """Create a closed outbox.

        `mends`: whether a broken file is quarantined and salvaged; otherwise `open` raises
        OutboxUnusable. `ids`: of this machine. If the outbox belongs to another machine, `open`
        quarantines its pending events. None: no check.
        """
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._tasks = tasks
        self._own_tasks = Tasks()
        """The task of the owner. `tasks.cancel_all` does not cancel it, so that a commit at shutdown completes."""
        store = Store(settings, SpaceLimits.of(settings).wal_bytes, clock, metrics, mends=mends, ids=ids)
        self._owner = Owner(settings, clock, metrics, store)
        self._task: asyncio.Task[None] | None = None
        self._dead_letter_lock = asyncio.Lock()
        self._wall_ahead_ms = clock.wall_ms() - clock.monotonic_ms()

    # -- life ----------------------------------------------------------------------------------------

    async def open(self) -> None:
        await self._owner.open()
        self._task = self._own_tasks.start("outbox", self._owner.run())
        self._tasks.start("outbox watch", self._watch())

    async def load(self, backlog: Backlog) -> RestoredState:
        state = await self._owner.load(backlog)
        return RestoredState(state.restored_queues, state.unsettled)

    def configure(self, settings: OutboxSettings) -> None:
        self._settings = limited(self._settings, settings)
        self._owner.configure(self._settings)

    async def close(self) -> None:
        self._owner.closing = True
        self._owner.poke()
        if self._task is not None:
            await asyncio.wait((self._task,))
        await self._owner.store.disconnect()
        self._owner.store.unlock()

    async def _watch(self) -> None:
        """Raise the owner's exception if its task fails, so that the service stops."""
        raise await asyncio.shield(self._own_tasks.died)

    # -- ingest --------------------------------------------------------------------------------------

    def append(self, events: Sequence[Event], *, callers: int = 1) -> asyncio.Future[int]:
        result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        append = Append(events, result, callers)
        rejection = self._owner.rejection(
            append.memory_bytes, append.cost_bytes, (event.device_key for event in events)
        )
        if (rejection is None or isinstance(rejection, OutboxFull)) and self._knows(events):
            conflicts = [conflict for event in events if (conflict := self._owner.known.conflict_of(event)) is not None]
            self._owner.conflicts.report(conflicts)
            result.set_result(len(events))
        elif rejection is not None:
            result.set_exception(rejection)
        else:
            self._owner.enqueue(append)
        return result

    def _knows(self, events: Sequence[Event]) -> bool:
        """Return whether all events are stored already."""
        state = self._owner.state
        return state is not None and all(event.event_id in state.dedupe_window.known for event in events)

    def room(self) -> bool:
        return self._owner.room()

    # -- forwarding ----------------------------------------------------------------------------------

    def sizes(self, queue_id: int, limit: int) -> Sequence[int]:
        known = self._owner.known.index.queues.get(queue_id)
        return () if known is None else known.sizes(limit)

    async def claim(self, parts: Sequence[ClaimPart], true_ms: int | None = None) -> Sequence[Claimed]:
        return await self._owner.submit(operations.Claim(parts, true_ms, self._owner.promised, self._metrics))

    async def settle(self, settled: Sequence[Settled]) -> None:
        await self._owner.submit(operations.Settle(settled, self._owner.promised, self._metrics))

    def release(self, queue_ids: Sequence[int], *, perhaps_delivered: bool = False) -> None:
        for number in queue_ids:
            queue = self._owner.known.index.queues.get(number)
            if queue is not None:
                queue.in_flight = None
                queue.shift_ms = queue.shift_ms if perhaps_delivered else None
            self._owner.promised.discard(number)

    async def forget(self, queue_ids: Sequence[int]) -> None:
        await self._owner.submit(operations.Forget(queue_ids))

    async def expire(self) -> int:
        dropped = 0
        while (first := self._owner.known.index.first_seq()) is not None:
            before_ms = self._owner.known.time.now_ms() - self._settings.max_age_ms
            last = await self._owner.submit(operations.FindOlder(first, before_ms))
            if last is None:
                break
            events = await self._owner.submit(operations.Drop("age", first, last, self._metrics))
            if not events:
                break
            dropped += events
        return dropped

    # -- watching ------------------------------------------------------------------------------------

    def ledger(self) -> Ledger:
        return Ledger() if self._owner.state is None else self._owner.state.ledger()

    def gauges(self) -> Gauges:
        return self._owner.gauges()

    def find(self, event_id: bytes) -> EventState | None:
        return None if self._owner.state is None else self._owner.state.state_of(event_id)

    async def check(self) -> None:
        if not self._owner.store.connected or self._owner.closing:
            return
        self._owner.look_at_files()
        state = self._owner.known
        if not state.loaded:
            return
        ahead_ms = self._clock.wall_ms() - self._clock.monotonic_ms()
        first = state.index.first_seq()
        with suppress(OutboxError):  # appends report the failure, and the next check is in a second
            if abs(ahead_ms - self._wall_ahead_ms) > _WALL_JUMP_MS:
                await self._owner.submit(operations.SaveOutboxTime())
                self._wall_ahead_ms = ahead_ms
            if first is not None and first != state.oldest_seq:
                await self._owner.submit(operations.FindOldest(first))

    # -- dead letters --------------------------------------------------------------------------------

    async def dead_letters(self, selection: Selection, limit: int, after: int = 0) -> Sequence[DeadLetter]:
        return await self._owner.submit(dead.ReadDead(selection, limit, after))

    async def requeue(self, selection: Selection, limit: int) -> int:
        moved = 0
        async with self._dead_letter_lock:
            while moved < limit:
                chosen = await self._owner.submit(dead.Choose(selection, limit - moved))
                if not chosen:
                    break
                moved += await self._owner.submit(dead.Requeue(chosen, self._metrics))
        return moved

    async def discard(self, selection: Selection, limit: int) -> int:
        discarded = 0
        async with self._dead_letter_lock:
            while discarded < limit:
                letters = await self._owner.submit(dead.Discard(selection, limit - discarded))
                if not letters:
                    break
                discarded += letters
        return discarded

    # -- cloned installations ------------------------------------------------------------------------

    @property
    def was_moved(self) -> bool:
        """Whether the outbox belonged to another machine when it was opened."""
        return self._owner.store.was_moved

    async def adopt(self, limit: int) -> int:
        adopted = 0
        async with self._dead_letter_lock:
            while adopted < limit and (events := await self._owner.submit(quarantine.Adopt(limit - adopted))):
                adopted += events
        return adopted

    async def discard_quarantined(self, limit: int) -> int:
        discarded = 0
        async with self._dead_letter_lock:
            while discarded < limit and (
                events := await self._owner.submit(quarantine.DiscardQuarantined(limit - discarded, self._metrics))
            ):
                discarded += events
        return discarded

    async def discard_pending(self) -> int:
        """Drop all pending and quarantined events, and return their number. The forwarder must not run."""
        state = self._owner.known
        self.release(list(state.index.queues))
        discarded = await self.discard_quarantined(state.quarantined)
        while (first := state.index.first_seq()) is not None:
            last = min(first + _DISCARD_ROWS, state.next_seq) - 1
            discarded += await self._owner.submit(operations.Drop("discarded", first, last, self._metrics))
        return discarded

    async def disown(self) -> None:
        """Forget which machine owns the outbox. The next machine that opens it becomes the owner."""
        await self._owner.submit(quarantine.Disown())

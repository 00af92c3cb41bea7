"""The implementation of relay.outbox.Outbox on any store.

Each call becomes an Op or an Append, and waits for its commit. `group_commit` decides when to commit
and handles failures. The store (see `storage`) executes the commands of a commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from relay.config import OutboxSettings
from relay.event.reader import Event
from relay.outbox import (
    AppendResult,
    Claimed,
    ClaimPart,
    DeadLetter,
    Durability,
    EventState,
    Gauges,
    Holder,
    Ledger,
    MayForget,
    OutboxError,
    OutboxFull,
    Selection,
    Settled,
)
from relay.outbox.engine import dead_letters as dead
from relay.outbox.engine import operations
from relay.outbox.engine.commands import FindOlder, ForgetMachine, ReadDeadLetters
from relay.outbox.engine.commit_plan import Append, Op
from relay.outbox.engine.group_commit import Owner
from relay.outbox.engine.limits import limited
from relay.outbox.engine.operations import Execute
from relay.outbox.engine.storage import Storage
from relay.runtime.clock import Clock
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks

_WALL_JUMP_MS = 60_000
_DISCARD_ROWS = 4096
"""Seqs whose events one commit discards."""


class OutboxEngine:
    """See relay.outbox.Outbox."""

    def __init__(
        self, settings: OutboxSettings, clock: Clock, metrics: Metrics, tasks: Tasks, storage: Storage
    ) -> None:
        """Create a closed outbox."""
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._tasks = tasks
        self._own_tasks = Tasks()
        """The task of the owner. `tasks.cancel_all` does not cancel it, so that a commit at shutdown completes."""
        self._owner = Owner(settings, clock, metrics, storage)
        self._task: asyncio.Task[None] | None = None
        self._dead_letter_lock = asyncio.Lock()
        self._wall_ahead_ms = clock.wall_ms() - clock.monotonic_ms()

    # -- life ----------------------------------------------------------------------------------------

    async def open(self, may_forget: MayForget | None = None) -> None:
        await self._owner.open(may_forget)
        self._task = self._own_tasks.start("outbox", self._owner.run())
        self._tasks.start("outbox watch", self._watch())

    async def load(self, holder: Holder) -> None:
        await self._owner.load(holder)

    def configure(self, settings: OutboxSettings) -> None:
        self._settings = limited(self._settings, settings)
        self._owner.configure(self._settings)

    async def close(self) -> None:
        self._owner.begin_closing()
        if self._task is not None:
            await asyncio.wait((self._task,))
        await self._owner.storage.close()
        self._owner.storage.unlock()

    async def _watch(self) -> None:
        """Raise the owner's exception if its task fails, so that the service stops."""
        raise await asyncio.shield(self._own_tasks.failure)

    # -- ingest --------------------------------------------------------------------------------------

    def append(self, events: Sequence[Event], *, callers: int = 1) -> asyncio.Future[AppendResult]:
        result: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()
        append = Append(events, result, callers, self._owner.storage.cost_bytes)
        rejection, state = self._owner.rejection(append.memory_bytes, append.cost_bytes, events), self._owner.state
        are_known = state is not None and all(event.event_id in state.dedupe_window.known for event in events)
        if state is not None and are_known and (rejection is None or isinstance(rejection, OutboxFull)):
            conflicts = [conflict for event in events if (conflict := state.conflict_of(event)) is not None]
            self._owner.conflicts.report(conflicts)
            result.set_result(AppendResult(len(events), self.durability))
        elif rejection is not None:
            result.set_exception(rejection)
        else:
            self._owner.enqueue(append)
        return result

    def room(self) -> bool:
        return self._owner.room()

    @property
    def durability(self) -> Durability:
        return self._settings.durability

    # -- forwarding ----------------------------------------------------------------------------------

    def sizes(self, queue_id: int, limit: int) -> Sequence[int]:
        return self._owner.known.index.sizes(queue_id, limit)

    def send_until_ms(self) -> int | None:
        return None

    async def claim(self, parts: Sequence[ClaimPart], true_ms: int | None = None) -> Sequence[Claimed]:
        return await self._owner.submit(operations.Claim(parts, true_ms, self._metrics))

    async def settle(self, settled: Sequence[Settled]) -> None:
        await self._owner.submit(operations.Settle(settled, self._metrics))

    def release(self, queue_ids: Sequence[int], *, perhaps_delivered: bool = False) -> None:
        index = self._owner.known.index
        for number in queue_ids:
            if (queue := index.find(number)) is not None:
                queue.release(perhaps_delivered=perhaps_delivered)
                index.calm(number)

    async def forget(self, queue_ids: Sequence[int]) -> None:
        await self._owner.submit(operations.Forget(queue_ids))

    async def expire(self) -> int:
        dropped = 0
        while (first := self._owner.known.index.first_seq()) is not None:
            before_ms = self._owner.known.time.now_ms() - self._settings.max_age_ms
            last: int | None = await self._owner.submit(Execute(FindOlder(first, before_ms)))
            if last is None:
                break
            events = await self._owner.submit(operations.Drop("age", first, last, self._metrics))
            if not events:
                break
            dropped += events
        return dropped

    # -- watching ------------------------------------------------------------------------------------

    def ledger(self) -> Ledger:
        return Ledger() if self._owner.state is None else self._owner.state.totals.ledger()

    def gauges(self) -> Gauges:
        return self._owner.gauges()

    async def find(self, event_id: bytes) -> EventState | None:
        return None if self._owner.state is None else self._owner.state.state_of(event_id)

    async def check(self) -> None:
        if not self._owner.storage.is_open or self._owner.life.is_closing:
            return
        self._owner.look_at_files()
        state = self._owner.known
        if not state.is_loaded:
            return
        ahead_ms = self._clock.wall_ms() - self._clock.monotonic_ms()
        first = state.index.first_seq()
        with suppress(OutboxError):  # appends report the failure, and the next check is in a second
            if abs(ahead_ms - self._wall_ahead_ms) > _WALL_JUMP_MS:
                await self._owner.submit(Execute(operations.save_clocks(state)))
                self._wall_ahead_ms = ahead_ms
            if first is not None and (state.oldest is None or first != state.oldest.seq):
                await self._owner.submit(operations.find_oldest(first))

    # -- dead letters --------------------------------------------------------------------------------

    async def dead_letters(self, selection: Selection, limit: int, after: int = 0) -> Sequence[DeadLetter]:
        return await self._owner.submit(Execute(ReadDeadLetters(selection, limit, after)))

    async def requeue(self, selection: Selection, limit: int) -> int:
        moved = 0
        async with self._dead_letter_lock:
            while moved < limit:
                chosen = await self._owner.submit(dead.choose(selection, limit - moved))
                if not chosen:
                    break
                moved += await self._owner.submit(dead.Requeue(chosen, self._metrics))
        return moved

    async def discard(self, selection: Selection, limit: int) -> int:
        return await self._repeat(limit, lambda rest: dead.discard(selection, rest))

    async def _repeat(self, limit: int, make_op: Callable[[int], Op[int]]) -> int:
        """Submit calls that change a limited number of events each, until `limit` or no more events are changed."""
        changed = 0
        async with self._dead_letter_lock:
            while changed < limit and (events := await self._owner.submit(make_op(limit - changed))):
                changed += events
        return changed

    # -- cloned installations ------------------------------------------------------------------------

    @property
    def was_moved(self) -> bool:
        """Whether the outbox belonged to another machine when it was opened."""
        return self._owner.storage.was_moved

    async def adopt(self, limit: int) -> int:
        return await self._repeat(limit, dead.Adopt)

    async def discard_quarantined(self, limit: int) -> int:
        return await self._repeat(limit, lambda rest: dead.DropQuarantined(rest, self._metrics))

    async def discard_pending(self) -> int:
        """Drop all pending and quarantined events, and return their number. The forwarder must not run."""
        state = self._owner.known
        self.release(list(state.index.in_flight()))
        discarded = await self.discard_quarantined(state.totals.quarantined)
        while (first := state.index.first_seq()) is not None:
            last = min(first + _DISCARD_ROWS, state.next_seq) - 1
            discarded += await self._owner.submit(operations.Drop("discarded", first, last, self._metrics))
        return discarded

    async def disown(self) -> None:
        """Forget which machine owns the outbox. The next machine that opens it becomes the owner."""
        await self._owner.submit(Execute(ForgetMachine()))

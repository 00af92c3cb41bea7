"""Group commit: one task, one store, one commit at a time; and the handling of failures.

Calls that arrive during a commit wait for the next commit, which executes all of them (see
`commit_delay`). A single event waits for one fsync. No timer delays a call with a waiting caller.

-   The state in memory changes after a commit. A failed commit is rolled back, its callers get an
    error "unknown", and the store is closed and opened again; an fsync is never repeated
    alone. If the store then differs from memory, the state is loaded from the store.
-   While the store fails, calls fail at once, and it is opened again at growing intervals.
-   Maintenance and deletes are limited in size. They wait until the outbox is idle, unless
    space runs out or they have waited too long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import structlog

from relay.config import OutboxSettings
from relay.event.reader import Event
from relay.outbox import (
    Gauges,
    Holder,
    MayForget,
    OutboxError,
    OutboxFull,
    OutboxLocked,
    OutboxShareUsed,
    OutboxUnavailable,
    OutboxUnusable,
    RestoredState,
)
from relay.outbox.engine import operations
from relay.outbox.engine.commit_delay import Bell, CommitDelay
from relay.outbox.engine.commit_plan import Append, Draft, Op
from relay.outbox.engine.conflicts import Conflicts
from relay.outbox.engine.deletion import CleanupDelay
from relay.outbox.engine.life import FileWatch, Happening, Life
from relay.outbox.engine.limits import OutboxLimits
from relay.outbox.engine.loading import LoadingLog
from relay.outbox.engine.outbox_state import OutboxState
from relay.outbox.engine.pending_calls import PendingCalls, cleanup
from relay.outbox.engine.storage import Storage, failure_of
from relay.runtime.clock import Clock, monotonic_us
from relay.runtime.metrics import Metrics

T = TypeVar("T")

_log = structlog.get_logger("relay.outbox")

_MAX_PENDING_BYTES = 36 << 20
"""Maximum memory of events that wait for a commit. One larger append is allowed if no other append waits."""
_SPARE_BYTES = 1 << 20
"""Part of this memory for readers that called `room` earlier and have not appended yet."""
_COMMON_EVENT_BYTES = 1024
"""`room` returns True as long as an event of this size can be appended."""
_REPORTED_AT_ONCE = 1_000
"""Device queues that a load reports without a pause for other work: about 5 ms."""
_IDLE_S = 0.1
"""The outbox is idle after this time without calls. Pauses between two requests of a backlog are shorter."""


@dataclass(frozen=True, slots=True)
class LoadCall:
    """A call of `load`."""

    holder: Holder
    result: asyncio.Future[None]


class Owner:
    """Executes calls of the event loop in commits. `run` is its task."""

    def __init__(self, settings: OutboxSettings, clock: Clock, metrics: Metrics, storage: Storage) -> None:
        self.life = Life()
        self.storage = storage
        self.state: OutboxState | None = None
        """None until the store is opened for the first time."""
        self.conflicts = Conflicts(clock, metrics)
        self._limits = OutboxLimits(settings, storage.configure(settings))
        self._clock = clock
        self._pending_calls = PendingCalls(metrics)
        self._commit_delay = CommitDelay()
        self._cleanup_delay = CleanupDelay()
        self._load_call: LoadCall | None = None
        self._bell = Bell()
        self._files = FileWatch()

    def __repr__(self) -> str:
        return f"<Owner {self.life!r}: {self._pending_calls.calls} calls wait, {self.state!r}>"

    # -- called by the event loop -----------------------------------------------------------------

    async def open(self, may_forget: MayForget | None) -> None:
        """Take the lock and open the store. If it fails, `run` opens it. Raise OutboxLocked or OutboxUnusable."""
        self.storage.lock()
        self.life.enter(Happening.OPEN)
        try:
            await self._connect(may_forget)
        except (OutboxUnusable, OutboxLocked):
            self.life.enter(Happening.CLOSED)
            self.storage.unlock()
            raise
        except (OutboxError, MemoryError) as error:
            await self._failed(error)
        except BaseException:
            self.storage.unlock()
            raise

    def configure(self, settings: OutboxSettings) -> None:
        """Apply new limits: to appends at once, to the store before the next commit."""
        self._limits = OutboxLimits(settings, self.storage.configure(settings))
        if self.state is not None:
            self.state.configure(self._limits)
        self._bell.ring()

    async def load(self, holder: Holder) -> None:
        self._load_call = LoadCall(holder, asyncio.get_running_loop().create_future())
        self._bell.ring()
        await self._load_call.result

    def begin_closing(self) -> None:
        """Reject new calls. `run` commits the waiting calls, and ends."""
        self.life.begin_closing()
        self._bell.ring()

    @property
    def known(self) -> OutboxState:
        assert self.state is not None, "the outbox is not open"
        return self.state

    def enqueue(self, append: Append) -> None:
        self._pending_calls.add(append)
        self._bell.ring()

    async def submit(self, op: Op[T]) -> T:
        if self.life.failure is not None or self.life.is_closing or self.state is None:
            raise self.life.failure or OutboxUnavailable("the outbox is closed")
        self._pending_calls.ops.append(op)
        self._bell.ring()
        return await op.result

    def look_at_files(self) -> None:
        """Reject appends if the files were deleted or are read-only. Write deleted files again if possible."""
        if self._files.look(self.storage.find_fault()):
            self._bell.ring()

    def rejection(self, memory_bytes: int, cost_bytes: int, events: Sequence[Event] = ()) -> OutboxError | None:
        """Return why events with these sizes (see Append) cannot be appended now; None if they can."""
        life, state = self.life, self.state
        if life.failure is not None or life.is_closing or state is None:
            return life.failure or OutboxUnavailable("the outbox is closed")
        if self._files.problem:
            return OutboxUnavailable(self._files.problem)
        waiting_bytes = self._pending_calls.memory_bytes
        if waiting_bytes and waiting_bytes + memory_bytes > _MAX_PENDING_BYTES:
            return OutboxFull("more events are waiting for the disk than memory may hold")
        settings, space = self._limits
        rejects = settings.when_full == "reject"
        room_bytes = state.room_bytes() - self._pending_calls.cost_bytes if rejects else space.append_bytes
        # A commit that is larger than the store's own log extends the log.
        if cost_bytes + max(0, cost_bytes - space.log_bytes) > room_bytes:
            return OutboxFull("the outbox is full (outbox.max_size)")
        if state.share_problem(room_bytes, (event.device_key for event in events)):
            return OutboxShareUsed()
        return state.beyond_max_devices([events]).get(0)

    def room(self) -> bool:
        return (
            self._pending_calls.memory_bytes <= _MAX_PENDING_BYTES - _SPARE_BYTES and self._common_rejection() is None
        )

    def gauges(self) -> Gauges:
        rejection = self._common_rejection()
        problem = "" if rejection is None else str(rejection)
        state, max_bytes = self.state, self._limits.space.max_bytes
        if state is None:
            return Gauges(0, max_bytes, 0, False, 0, problem, 0, self._limits.settings.max_devices)
        problem = problem or state.share_problem(state.room_bytes() - self._pending_calls.cost_bytes)
        oldest = state.oldest if state.totals.queued else None
        return Gauges(
            bytes=self.storage.file_bytes,
            max_bytes=max_bytes,
            oldest_age_ms=0 if oldest is None else max(state.time.now_ms() - oldest.at_ms, 0),
            writable=not problem,
            dead_letters=state.totals.dead_letters,
            problem=problem,
            devices=len(state.index),
            max_devices=self._limits.settings.max_devices,
            quarantined=state.totals.quarantined,
        )

    def _common_rejection(self) -> OutboxError | None:
        return self.rejection(_COMMON_EVENT_BYTES, self.storage.cost_bytes((_COMMON_EVENT_BYTES,)))

    # -- the task -----------------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            while not self.life.is_closing or self._pending_calls.appends or self._executable_ops:
                try:
                    await self._step()
                except (OutboxError, MemoryError) as error:
                    await self._failed(error)
            if self.storage.is_open:
                await self.storage.commit([operations.save_clocks(self.known, is_clean=True)])
        except OutboxError as error:
            _log.error("outbox not closed cleanly", error=str(error.__cause__ or error))
        finally:
            self.life.end()
            self._fail_waiting(OutboxUnavailable("the outbox is closed"))

    @property
    def _executable_ops(self) -> bool:
        return bool(self._pending_calls.ops) and self.known.is_loaded

    async def _step(self) -> None:
        """Execute the next task, or wait for one."""
        assert self.storage.is_open == self.life.is_open, self
        if not self.storage.is_open:
            await self._reconnect()
        elif self._files.take_recreation():
            await self._recreate_files()
        elif not self.known.is_loaded and self._load_call is not None:
            if self._pending_calls.appends:
                await self._commit(self._pending_calls.draft(self.known))
            await self._load_more(self._load_call)
        elif self._pending_calls.appends or self._executable_ops:
            await self._commit_pending_calls()
        elif (draft := self._cleanup()) is not None:
            if self.known.is_crowded or await self._may_clean_up(is_expensive=draft.is_expensive):
                await self._commit(draft)
        elif self.storage.is_untidy:
            await self.storage.tidy()
        else:  # There is no await between the conditions and this line, because a ring would have no effect.
            await self._bell.wait(None)

    async def _commit_pending_calls(self) -> None:
        """Commit the waiting calls, or wait for the commit delay."""
        delay_us = 0 if self.life.is_closing else self._commit_delay.delay_us(self._pending_calls, monotonic_us())
        if delay_us > 0:
            await self._bell.wait(delay_us / 1_000_000)
        else:
            await self._commit_delay.gather(self._pending_calls, monotonic_us)
            await self._commit(self._pending_calls.draft(self.known))

    async def _commit(self, draft: Draft) -> None:
        try:
            began_us = monotonic_us()
            committed = await self.storage.commit(draft.commands())
            flowing = any(not append.callers for append in draft.appends)
            self._commit_delay.committed(began_us, monotonic_us(), flowing=flowing)
            self._pending_calls.apply(draft, committed)
            if draft.conflicts:
                self.conflicts.report(draft.conflicts)
        except Exception as error:
            draft.fail(failure_of(error))
            raise
        finally:
            for append in draft.appends:
                self._pending_calls.done(append)
        self.life.committed()
        self._report_changes()

    def _report_changes(self) -> None:
        state = self.known
        if self._load_call is None or not state.is_loaded:
            return
        backlogs = map(state.index.backlog, state.take_changed())
        self._load_call.holder.pending([backlog for backlog in backlogs if backlog is not None])

    async def _load_more(self, call: LoadCall) -> None:
        """Load the next rows of the log. After the last rows, complete `load`."""
        state = self.known
        assert isinstance(state.phase, LoadingLog), state
        chunk = await self.storage.read_log(state.phase.after_seq, state.phase.to_seq)
        if chunk is not None:
            state.load(chunk)
            return
        missing, orphans = state.missing(), state.phase.orphans
        if missing > 0 and not self.storage.is_verified:
            raise self.storage.distrust(missing, orphans)
        restored = state.finish_loading(restores_requests=not call.result.done())
        self.life.enter(Happening.LOG_READ)
        if missing:
            _log.error("outbox ledger corrected", missing_events=missing)
            await self._commit(self._pending_calls.correction(state, missing))
        await self._grant(call, restored)

    async def _grant(self, call: LoadCall, restored: RestoredState) -> None:
        """Report the loaded queues, and grant them when they are loaded for the first time. Pause for other work."""
        state, holder = self.known, call.holder
        state.take_changed()
        for at, (number, key, events, body_bytes) in enumerate(state.index):
            if events:
                holder.pending([(number, key, events, body_bytes)])
            if at % _REPORTED_AT_ONCE == 0:
                await asyncio.sleep(0)
        if call.result.done():
            return
        queues = iter(restored.queues)
        chunk = list(islice(queues, _REPORTED_AT_ONCE))
        while following := list(islice(queues, _REPORTED_AT_ONCE)):
            holder.granted(RestoredState(chunk, ()))
            chunk = following
            await asyncio.sleep(0)
        holder.granted(RestoredState(chunk, restored.unsettled))
        call.result.set_result(None)

    async def _connect(self, may_forget: MayForget | None = None) -> None:
        """Open the store. If it does not match the state in memory, build a new state."""
        failed_before = self.life.failure is not None
        opened = await self.storage.open(may_forget)
        old, state = self.state, OutboxState.of(opened, self._limits, self._clock)
        if old is not None and not self.storage.was_replaced and old.agrees_with(state):
            old.measure(state.space)
        else:
            if old is not None:
                state.inherit(old)
                self._report_lost_queues(old, state)
            self.state = state
        await self.storage.commit([operations.save_clocks(self.known)])
        if failed_before:
            _log.info("outbox available again", pending=state.totals.pending)
        self.life.enter(Happening.OPENED_AS_KNOWN if self.known.is_loaded else Happening.OPENED)

    def _report_lost_queues(self, old: OutboxState, state: OutboxState) -> None:
        if self._load_call is not None:
            lost = [(number, key, 0, 0) for key, number in old.index.by_key.items() if number not in state.index]
            self._load_call.holder.pending(lost)

    async def _recreate_files(self) -> None:
        """Write files again that were deleted while open."""
        self.life.enter(Happening.RECREATE)
        try:
            await self.storage.recreate()
        except OutboxError as error:  # the deleted files stay open, and the next check tries again
            self.life.enter(Happening.NOT_RECREATED)
            if self._files.is_news(reason := str(error.__cause__ or error)):
                _log.error("outbox files were deleted and cannot be written again", reason=reason)
            return
        _log.warning("outbox files were deleted and have been written again")
        await self.storage.close()
        self.life.enter(Happening.RECREATED)
        await self._connect()
        self._files.forget()

    async def _reconnect(self) -> None:
        await self._bell.wait(self.life.retry_after_s)
        if not self.life.is_closing:
            self.life.enter(Happening.OPEN)
            await self._connect()

    async def _failed(self, error: Exception) -> None:
        """Fail all waiting calls after a failure, and close the store."""
        failure = failure_of(error)
        if self.life.failure is None:
            _log.error("outbox unavailable", reason=str(failure))
        self.life.fail(failure)
        _log.debug("the outbox is opened again later", state=repr(self.life.state))
        self._fail_waiting(failure)
        await self.storage.close()

    def _fail_waiting(self, failure: OutboxError) -> None:
        self._pending_calls.fail(failure)
        if self.life.is_closing and self._load_call is not None and not self._load_call.result.done():
            self._load_call.result.set_exception(failure)

    def _cleanup(self) -> Draft | None:
        draft = cleanup(self.known)
        if draft is None and not self.known.needs_cleanup:
            self._cleanup_delay.nothing_due()
        return draft

    async def _may_clean_up(self, *, is_expensive: bool) -> bool:
        """Return whether a cleanup may run now, after waiting for an idle outbox."""
        now_ms = self._clock.monotonic_ms()
        delay_ms = self._cleanup_delay.delay_ms(now_ms, is_expensive=is_expensive)
        if delay_ms > 0:
            if self.storage.is_untidy:
                await self.storage.tidy()
            else:
                await self._bell.wait(delay_ms / 1000)
            return False
        if self._cleanup_delay.awaits_idleness(now_ms) and not await self._bell.is_quiet(_IDLE_S):
            return False
        self._cleanup_delay.began(now_ms)
        return True

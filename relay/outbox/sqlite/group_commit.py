"""Group commit: one task, one connection, one commit at a time; and the handling of disk failures.

Calls that arrive during a commit wait for the next commit, which executes all of them (see
`commit_delay`). A single event waits for one fsync. No timer delays a call with a waiting caller.

-   The state in memory changes after a commit. A failed commit is rolled back, its callers get an
    error "unknown", and the connection is closed and opened again; an fsync is never repeated
    alone. If the file then differs from memory, the state is loaded from the file.
-   While the disk fails, calls fail at once, and the file is opened again at growing intervals.
-   Checkpoints, deletes and vacuums are limited in size. They wait until the outbox is idle, unless
    space runs out or they have waited too long.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from typing import TypeVar

import structlog

from relay.config import OutboxSettings
from relay.event.reader import DeviceKey
from relay.outbox import Backlog, Gauges, OutboxError, OutboxFull, OutboxShareUsed, OutboxUnavailable
from relay.outbox.engine.conflicts import Conflicts
from relay.outbox.sqlite import loading, operations
from relay.outbox.sqlite.commit_delay import CommitDelay
from relay.outbox.sqlite.commit_plan import Append, Draft, Op, cost_bytes
from relay.outbox.sqlite.connection import PAGE_BYTES
from relay.outbox.sqlite.disk_errors import DISK_ERRORS, failure_of
from relay.outbox.sqlite.loading import Broken
from relay.outbox.sqlite.outbox_state import OutboxState, SpaceLimits
from relay.outbox.sqlite.pending_calls import PendingCalls, cleanup
from relay.outbox.sqlite.recovery import is_broken
from relay.outbox.sqlite.store import Store
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
_IDLE_S = 0.1
"""The outbox is idle after this time without calls. Pauses between two requests of a backlog are shorter."""
_CLEANUP_DELAY_MS = 5_000
"""Interval of cleanups while the outbox is never idle, so that the file shrinks."""
_EXPENSIVE_CLEANUP_DELAY_MS = 10_000
"""Delay of a cleanup before pending rows, twice the default linger. If these rows are settled until then, the cleanup
does not write the pages that it frees, see OutboxState.reclaimable."""
_RETRY_FIRST_MS, _RETRY_LAST_MS = 50, 5_000


class Owner:
    """Executes calls of the event loop in commits. `run` is its task."""

    def __init__(self, settings: OutboxSettings, clock: Clock, metrics: Metrics, store: Store) -> None:
        self.store = store
        self.state: OutboxState | None = None
        """None until the file is opened for the first time."""
        self.promised: set[int] = set()
        """Ids of queues whose journalled requests `load` returned, until they are claimed."""
        self.closing = False
        self.conflicts = Conflicts(clock, metrics)
        self._settings = settings
        self._limits = SpaceLimits.of(settings)
        self._clock = clock
        self._metrics = metrics
        self._pending_calls = PendingCalls(clock, metrics)
        self._commit_delay = CommitDelay()
        self._backlog: Backlog | None = None
        self._loaded: asyncio.Future[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._failure: OutboxError | None = None
        """Why the file is not open; None if it is open."""
        self._is_idle = False
        """Whether there was no call since `_may_clean_up` began to wait."""
        self._cleanup_wanted_ms: int | None = None
        """Monotonic time since when a cleanup is due; None if none is due."""
        self._cleanup_done_ms = 0
        """Monotonic time of the last cleanup, or when the first became due."""
        self._failures = 0
        """Number of disk failures since the last commit."""
        self._blocked = ""
        """Why appends are rejected although the file is open; "" if they are not."""
        self._rescue = False
        self._resize = False
        self._logged_reason = ""
        """The last logged reason why deleted files cannot be written again."""

    # -- called by the event loop -----------------------------------------------------------------

    async def open(self) -> None:
        """Take the lock and open the file. If the disk fails, `run` opens it. Raise OutboxLocked or OutboxUnusable."""
        self.store.lock()
        try:
            await self._connect()
        except (sqlite3.Error, OSError, MemoryError) as error:
            await self._failed(error)
        except BaseException:
            self.store.unlock()
            raise

    def configure(self, settings: OutboxSettings) -> None:
        """Apply new limits: to appends at once, to the file before the next commit."""
        self._settings, self._limits = settings, SpaceLimits.of(settings)
        self.store.configure(settings, self._limits.wal_bytes)
        if self.state is not None:
            self.state.settings, self.state.limits = self._settings, self._limits
        self._resize = True
        self.poke()

    async def load(self, backlog: Backlog) -> OutboxState:
        self._backlog = backlog
        self._loaded = asyncio.get_running_loop().create_future()
        self.poke()
        await self._loaded
        return self.known

    @property
    def known(self) -> OutboxState:
        assert self.state is not None, "the outbox is not open"
        return self.state

    def enqueue(self, append: Append) -> None:
        self._pending_calls.add(append)
        self.poke()

    async def submit(self, op: Op[T]) -> T:
        if self._failure is not None:
            raise self._failure
        if self.closing or self.state is None:
            raise OutboxUnavailable("the outbox is closed")
        self._pending_calls.ops.append(op)
        self.poke()
        return await op.result

    def look_at_files(self) -> None:
        """Reject appends if the files were deleted or are read-only. Write deleted files again if possible."""
        try:
            self._blocked = self.store.problem()
            self._rescue = bool(self._blocked) and self.store.rescuable()
        except OSError as error:
            self._blocked = f"{error.filename} cannot be read ({error.strerror}): check the disk"
        if self._rescue:
            self.poke()

    def rejection(self, memory_bytes: int, cost_bytes: int, keys: Iterable[DeviceKey] = ()) -> OutboxError | None:
        """Return why events of these devices with these sizes (see Append) cannot be appended now; None if they can."""
        if self._failure is not None:
            return self._failure
        if self.closing or self.state is None:
            return OutboxUnavailable("the outbox is closed")
        if self._blocked:
            return OutboxUnavailable(self._blocked)
        waiting_bytes = self._pending_calls.memory_bytes
        if waiting_bytes and waiting_bytes + memory_bytes > _MAX_PENDING_BYTES:
            return OutboxFull("more events are waiting for the disk than memory may hold")
        room_bytes = self._room_bytes() if self._settings.when_full == "reject" else self._limits.append_bytes
        # A commit that is larger than the write-ahead log extends the log.
        if cost_bytes + max(0, cost_bytes - self._limits.wal_bytes) > room_bytes:
            return OutboxFull("the outbox is full (outbox.max_size)")
        return OutboxShareUsed() if self.state.share_problem(room_bytes, keys) else None

    def _common_rejection(self) -> OutboxError | None:
        return self.rejection(_COMMON_EVENT_BYTES, cost_bytes(_COMMON_EVENT_BYTES))

    def room(self) -> bool:
        return (
            self._pending_calls.memory_bytes <= _MAX_PENDING_BYTES - _SPARE_BYTES and self._common_rejection() is None
        )

    def gauges(self) -> Gauges:
        rejection = self._common_rejection()
        problem = "" if rejection is None else str(rejection)
        state = self.state
        if state is None:
            return Gauges(0, self._limits.max_bytes, 0, False, 0, problem)
        problem = problem or state.share_problem(self._room_bytes())
        aged = state.queued and state.oldest_seq is not None
        return Gauges(
            bytes=state.pages * PAGE_BYTES + self.store.wal_file_bytes,
            max_bytes=self._limits.max_bytes,
            oldest_age_ms=max(state.time.now_ms() - state.oldest_at_ms, 0) if aged else 0,
            writable=not problem,
            dead_letters=state.dead_letters,
            problem=problem,
            quarantined=state.quarantined,
        )

    def _room_bytes(self) -> int:
        return self.known.room_bytes() - self._pending_calls.cost_bytes

    def poke(self) -> None:
        self._is_idle = False
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # -- the task -----------------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            while not self.closing or self._pending_calls.appends or (self._pending_calls.ops and self.known.loaded):
                try:
                    await self._step()
                except DISK_ERRORS as error:
                    await self._failed(error)
            if self.store.connected:
                await self.store.commit([operations.SaveOutboxTime(clean=True).step(self.known)])
        except (sqlite3.Error, OSError) as error:
            _log.error("outbox not closed cleanly", error=str(error))
        finally:
            self.closing = True
            self._fail_waiting(OutboxUnavailable("the outbox is closed"))

    async def _step(self) -> None:
        """Execute the next task, or wait for one."""
        if not self.store.connected:
            await self._reconnect()
        elif self._rescue:
            self._rescue = False
            await self._rewrite_files()
        elif self._resize:
            self._resize = False
            await self.store.resize()
        elif not self.known.loaded and self._backlog is not None:
            if self._pending_calls.appends:
                await self._commit(self._pending_calls.draft(self.known, self._settings))
            await self._load_more()
        elif self._pending_calls.appends or (self._pending_calls.ops and self.known.loaded):
            await self._commit_pending_calls()
        elif (draft := self._cleanup()) is not None:
            if self.known.crowded or await self._may_clean_up(expensive=draft.is_expensive):
                await self._commit(draft)
        elif self.store.untidy:
            await self.store.tidy()
        else:  # There is no await between the conditions and this line, because `poke` would have no effect.
            await self._idle(None)

    async def _commit_pending_calls(self) -> None:
        """Commit the waiting calls, or wait for the commit delay."""
        delay_us = 0 if self.closing else self._commit_delay.delay_us(self._pending_calls, monotonic_us())
        if delay_us > 0:
            await self._idle(delay_us / 1_000_000)
        else:
            await self._commit_delay.gather(self._pending_calls, monotonic_us)
            await self._commit(self._pending_calls.draft(self.known, self._settings))

    async def _commit(self, draft: Draft) -> None:
        try:
            await self.store.make_way(draft.pages, draft.appended_pages)
            began_us = monotonic_us()
            committed = await self.store.commit(draft.steps())
            flowing = any(not append.callers for append in draft.appends)
            self._commit_delay.committed(began_us, monotonic_us(), flowing=flowing)
            moved_pages = abs(committed.pages - draft.state.pages)
            draft.apply(committed)
            self.conflicts.report(draft.conflicts)
        except Exception as error:
            draft.fail(failure_of(error))
            raise
        finally:
            for append in draft.appends:
                self._pending_calls.done(append)
        self._failures = 0
        self._report_changes()
        self.store.wrote(draft.body_bytes, committed.changed_rows - draft.events + 2 * moved_pages)

    def _report_changes(self) -> None:
        state = self.known
        if self._backlog is None or not state.loaded:
            return
        changed, state.changed = state.changed, set()
        for number in changed:
            queue = state.index.queues.get(number)
            if queue is not None:
                self._backlog(number, queue.key, len(queue), queue.body_bytes)

    async def _load_more(self) -> None:
        """Load the next rows of the log. After the last rows, complete `load`."""
        state = self.known
        chunk = await self.store.run(loading.read_chunk, state.loading_from, state.load_to)
        if chunk is not None:
            state.load(chunk)
            return
        missing = state.missing()
        if missing > 0 and state.orphans and not self.store.thorough:
            self.store.condemned = f"{state.orphans} rows of the log belong to no device"
        if missing > 0 and not self.store.thorough:
            raise Broken(f"{missing} events are missing from the log")
        waited_for = self._loaded is not None and not self._loaded.done()
        state.finish_loading(promise=waited_for)
        if missing:
            _log.error("outbox ledger corrected", missing_events=missing)
            draft = Draft(state, self._clock)
            operations.Reconcile(missing, self._metrics).plan(draft)
            await self._commit(draft)
        if waited_for:
            self.promised = {part.queue_id for request in state.unsettled for part in request}
        self._report_changes()
        if self._loaded is not None and not self._loaded.done():
            self._loaded.set_result(None)

    async def _connect(self) -> None:
        """Open the file. If it does not match the state in memory, build a new state."""
        opened, set_aside = await self.store.connect()
        old, state = self.state, OutboxState.of(opened, self._settings, self._clock)
        if old is not None and not set_aside and old.agrees_with(state):
            old.pages, old.free_pages = state.pages, state.free_pages
        else:
            if old is not None:
                state.inherit(old)
                if self._backlog is not None:
                    for number, queue in old.index.queues.items():
                        if number not in state.index.queues:
                            self._backlog(number, queue.key, 0, 0)
            self.state = state
        await self.store.commit([operations.SaveOutboxTime().step(self.known)])
        if self._failure is not None:
            _log.info("outbox available again", pending=state.pending)
        self._failure = None

    async def _rewrite_files(self) -> None:
        """Write files again that were deleted while open."""
        try:
            await self.store.rescue()
        except (sqlite3.Error, OSError) as error:  # the deleted files stay open, and the next check tries again
            if str(error) != self._logged_reason:
                self._logged_reason = str(error)
                _log.error("outbox files were deleted and cannot be written again", reason=self._logged_reason)
            return
        self._logged_reason = ""
        _log.warning("outbox files were deleted and have been written again")
        await self.store.disconnect()
        await self._connect()
        self._blocked = ""

    async def _reconnect(self) -> None:
        delay_ms = min(_RETRY_FIRST_MS << min(self._failures, 16), _RETRY_LAST_MS)
        await self._idle(delay_ms / 1000)
        if not self.closing:
            await self._connect()

    async def _failed(self, error: Exception) -> None:
        """Fail all waiting calls after a disk error, and close the file."""
        failure = failure_of(error)
        if self._failure is None:
            _log.error("outbox unavailable", reason=str(failure))
        self._failure = failure
        self._failures += 1
        self.store.suspect = self.store.suspect or is_broken(error)
        self._fail_waiting(failure)
        await self.store.disconnect()

    def _fail_waiting(self, failure: OutboxError) -> None:
        self._pending_calls.fail(failure)
        if self.closing and self._loaded is not None and not self._loaded.done():
            self._loaded.set_exception(failure)

    def _cleanup(self) -> Draft | None:
        draft = cleanup(self.known, self._clock)
        if draft is None and not self.known.needs_cleanup:
            self._cleanup_wanted_ms = None
        return draft

    async def _may_clean_up(self, *, expensive: bool) -> bool:
        """Return whether a cleanup may run now, after waiting for an idle outbox."""
        now_ms = self._clock.monotonic_ms()
        if self._cleanup_wanted_ms is None:
            self._cleanup_wanted_ms = self._cleanup_done_ms = now_ms
        delay_ms = self._cleanup_wanted_ms + _EXPENSIVE_CLEANUP_DELAY_MS - now_ms
        if expensive and delay_ms > 0:
            if self.store.untidy:
                await self.store.tidy()
            else:
                await self._idle(delay_ms / 1000)
            return False
        if now_ms - self._cleanup_done_ms < _CLEANUP_DELAY_MS:
            if not self._is_idle:
                self._is_idle = True  # until the next call
                await self._idle(_IDLE_S)
            if not self._is_idle:
                return False
        self._cleanup_done_ms = now_ms
        return True

    async def _idle(self, timeout_s: float | None) -> None:
        """Wait for a call of `poke`, at most for `timeout_s`."""
        self._wake = asyncio.get_running_loop().create_future()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake
        self._wake = None

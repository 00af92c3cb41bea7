"""The outbox in a SQLite file: one task, one connection, one commit at a time.

Owns group commit and what happens when the disk fails. While a commit runs, calls gather; the next
commit takes them all, so one lonely event waits for one fsync and nothing waits for a timer.

-   Memory changes after the commit that says so. A failed commit is rolled back, whoever waits for
    it is told "unknown", and the connection is closed and opened again: never is an fsync alone
    retried. The file is the truth then; if it differs from memory, memory is built anew.
-   While the disk fails, calls fail at once and the file is tried again at growing intervals.
-   Checkpoints, deletes and vacuuming are bounded and come after the answers.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeVar

import structlog

from relay.clock import Clock
from relay.config import OutboxSettings
from relay.event import Event
from relay.metrics import Metrics
from relay.outbox import (
    Backlog,
    DeadLetter,
    EventState,
    Gauges,
    Ledger,
    Loaded,
    OutboxError,
    OutboxFull,
    OutboxUnavailable,
    Part,
    Selection,
    Settled,
    Taken,
)
from relay.outbox.sqlite import dead, ops, start
from relay.outbox.sqlite.book import Book, Limits
from relay.outbox.sqlite.connection import PAGE_BYTES
from relay.outbox.sqlite.draft import Append, Draft, Op, cost_bytes
from relay.outbox.sqlite.recovery import is_broken
from relay.outbox.sqlite.store import Store
from relay.tasks import Tasks

T = TypeVar("T")

_log = structlog.get_logger("relay.outbox")

_GATHER_BYTES = 32 << 20
"""Bodies that may wait for their commit in memory."""
_RETRY_FIRST_MS, _RETRY_LAST_MS = 50, 5_000
_WALL_JUMP_MS = 60_000


class SqliteOutbox:
    """See relay.outbox.Outbox for what it promises."""

    def __init__(self, settings: OutboxSettings, clock: Clock, metrics: Metrics, tasks: Tasks) -> None:
        self._settings = settings
        self._limits = Limits.of(settings)
        self._clock = clock
        self._metrics = metrics
        self._tasks = tasks
        self._own_tasks = Tasks()
        """The owner's: it outlives `tasks.cancel_all`, so that a commit under way at shutdown is not cut off."""
        self._store = Store(settings, self._limits.wal_bytes, clock, metrics)
        self._book: Book | None = None
        self._appends: deque[Append] = deque()
        self._ops: deque[Op[Any]] = deque()
        self._gathered_bytes = 0
        self._gathered_events = 0
        self._promised: set[int] = set()
        """Lanes of the journal that `load` named and nobody took yet."""
        self._backlog: Backlog | None = None
        self._loaded: asyncio.Future[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._failure: OutboxError | None = None
        """Why the file is not open."""
        self._failures = 0
        """Since the last commit."""
        self._blocked = ""
        """Why nothing may be appended though the file is open."""
        self._rescue = False
        self._dead_letter_lock = asyncio.Lock()
        self._wall_ahead_ms = clock.wall_ms() - clock.monotonic_ms()

    # -- life ---------------------------------------------------------------------------------

    async def open(self) -> None:
        self._store.lock()
        try:
            await self._connect()
        except (sqlite3.Error, OSError) as error:
            await self._failed(error)
        except BaseException:
            self._store.unlock()
            raise
        self._task = self._own_tasks.start("outbox", self._run())
        self._tasks.start("outbox watch", self._watch())

    async def load(self, backlog: Backlog) -> Loaded:
        self._backlog = backlog
        self._loaded = asyncio.get_running_loop().create_future()
        self._poke()
        await self._loaded
        book = self._book
        assert book is not None
        return Loaded(book.lanes_at_load, book.unsettled)

    async def close(self) -> None:
        self._closing = True
        self._poke()
        if self._task is not None:
            await asyncio.wait((self._task,))
        await self._store.disconnect()
        self._store.unlock()

    # -- ingest -------------------------------------------------------------------------------

    def append(self, events: Sequence[Event]) -> asyncio.Future[int]:
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        append = Append(events, answer)
        refusal = self._refusal(append.body_bytes, len(events))
        if refusal is not None:
            answer.set_exception(refusal)
        elif self._book is not None and all(event.event_id in self._book.recent.known for event in events):
            answer.set_result(len(events))
        else:
            self._appends.append(append)
            self._gathered_bytes += append.body_bytes
            self._gathered_events += len(events)
            self._poke()
        return answer

    def room(self) -> bool:
        return self._refusal(0, 0) is None

    # -- forwarding ---------------------------------------------------------------------------

    def sizes(self, lane: int, limit: int) -> Sequence[int]:
        known = self._known().index.lanes.get(lane)
        return () if known is None else known.sizes(limit)

    async def take(self, parts: Sequence[Part]) -> Sequence[Taken]:
        return await self._submit(ops.Take(parts, self._promised, self._metrics))

    async def settle(self, settled: Sequence[Settled]) -> None:
        await self._submit(ops.Settle(settled, self._promised, self._metrics))

    def release(self, lanes: Sequence[int]) -> None:
        for number in lanes:
            lane = self._known().index.lanes.get(number)
            if lane is not None:
                lane.in_flight = None
            self._promised.discard(number)

    async def forget(self, lanes: Sequence[int]) -> None:
        await self._submit(ops.Forget(lanes))

    async def expire(self) -> int:
        dropped = 0
        while (first := self._known().index.first_seq()) is not None:
            before_ms = self._known().time.now_ms() - self._settings.max_age_ms
            last = await self._submit(ops.FindOlder(first, before_ms))
            if last is None:
                break
            events = await self._submit(ops.Drop("age", first, last, self._metrics))
            if not events:
                break
            dropped += events
        return dropped

    # -- watching -----------------------------------------------------------------------------

    def ledger(self) -> Ledger:
        return Ledger() if self._book is None else self._book.ledger()

    def gauges(self) -> Gauges:
        book = self._book
        refusal = self._refusal(0, 0)
        problem = "" if refusal is None else str(refusal)
        if book is None:
            return Gauges(0, self._limits.max_bytes, 0, False, 0, problem)
        age_ms = max(book.time.now_ms() - book.oldest_at_ms, 0) if book.pending and book.oldest_seq is not None else 0
        file_bytes = book.pages * PAGE_BYTES + self._store.wal_file_bytes
        return Gauges(file_bytes, self._limits.max_bytes, age_ms, not problem, book.dead_letters, problem)

    def find(self, event_id: bytes) -> EventState | None:
        return None if self._book is None else self._book.state_of(event_id)

    async def check(self) -> None:
        if not self._store.connected or self._closing:
            return
        self._blocked = self._store.problem()
        if self._blocked and self._store.rescuable():
            self._rescue = True
            self._poke()
        book = self._known()
        if not book.loaded:
            return
        ahead_ms = self._clock.wall_ms() - self._clock.monotonic_ms()
        if abs(ahead_ms - self._wall_ahead_ms) > _WALL_JUMP_MS:
            self._wall_ahead_ms = ahead_ms
            await self._submit(ops.Stamp())
        first = book.index.first_seq()
        if first is not None and first != book.oldest_seq:
            await self._submit(ops.FindOldest(first))

    # -- dead letters -------------------------------------------------------------------------

    async def dead_letters(self, selection: Selection, limit: int, after: int = 0) -> Sequence[DeadLetter]:
        return await self._submit(dead.ReadDead(selection, limit, after))

    async def requeue(self, selection: Selection, limit: int) -> int:
        moved = 0
        async with self._dead_letter_lock:
            while moved < limit:
                chosen = await self._submit(dead.Choose(selection, limit - moved))
                if not chosen:
                    break
                moved += await self._submit(dead.Requeue(chosen, self._metrics))
        return moved

    async def discard(self, selection: Selection, limit: int) -> int:
        gone = 0
        async with self._dead_letter_lock:
            while gone < limit:
                letters = await self._submit(dead.Discard(selection, limit - gone))
                if not letters:
                    break
                gone += letters
        return gone

    # -- the owner ----------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Die if the owner dies, so that the service knows."""
        raise await asyncio.shield(self._own_tasks.died)

    async def _run(self) -> None:
        try:
            while not self._closing or self._appends:
                try:
                    await self._turn()
                except (sqlite3.Error, OSError) as error:
                    await self._failed(error)
            if self._store.connected:
                await self._store.commit([ops.Stamp(clean=True).step(self._known())])
        except (sqlite3.Error, OSError) as error:
            _log.error("outbox not closed cleanly", error=str(error))
        finally:
            self._closing = True
            self._fail_waiting(OutboxUnavailable("the outbox is closed"))

    async def _turn(self) -> None:
        """One thing that has to be done, or wait until there is one."""
        if not self._store.connected:
            await self._reconnect()
        elif self._rescue:
            self._rescue = False
            await self._store.rescue()
            await self._connect()
            self._blocked = ""
        elif draft := self._draft():
            await self._commit(draft)
            if not self._known().loaded and self._backlog is not None:
                await self._load_more()
        elif not self._known().loaded and self._backlog is not None:
            await self._load_more()
        else:
            await self._idle(None)

    def _draft(self) -> Draft:
        """What the next commit does with what has gathered."""
        book = self._known()
        draft = Draft(book, self._clock)
        appends = self._next_appends(book.limits.commit_bytes)
        refusal = self._make_room(draft, appends)
        for append in appends:
            if refusal is None:
                draft.append(append)
            else:
                self._done_with(append)
                if not append.answer.done():
                    append.answer.set_exception(refusal)
        while book.loaded and self._ops and self._ops[0].plan(draft):
            self._ops.popleft()
        if not draft and book.loaded and book.wasteful:
            ops.Vacuum().plan(draft)
        return draft

    def _next_appends(self, body_bytes: int) -> list[Append]:
        appends = []
        while self._appends and body_bytes > 0:
            append = self._appends.popleft()
            appends.append(append)
            body_bytes -= append.body_bytes
        return appends

    def _make_room(self, draft: Draft, appends: Sequence[Append]) -> OutboxFull | None:
        """Plan what has to go: done rows when there are enough, pending ones when the operator said so."""
        book = draft.book
        events = sum(len(each.events) for each in appends)
        cost = cost_bytes(sum(each.body_bytes for each in appends), events)
        missing_bytes = cost - book.room_bytes()
        if self._settings.when_full == "drop_oldest" and appends and missing_bytes > 0:
            last = book.index.oldest_droppable(missing_bytes) if book.loaded else None
            if last is None:
                return OutboxFull("the outbox is full, and nothing in it can be dropped now")
            ops.Drop("size", book.first_row, last, self._metrics).plan(draft)
        elif (stretch := book.reclaimable(events)) is not None:
            ops.Reclaim(*stretch).plan(draft)
        return None

    async def _commit(self, draft: Draft) -> None:
        try:
            committed = await self._store.commit(draft.steps())
        except Exception as error:
            draft.fail(_failure(error))
            raise
        finally:
            for append in draft.appends:
                self._done_with(append)
        draft.apply(committed)
        self._failures = 0
        self._tell()
        await self._store.tidy()

    def _tell(self) -> None:
        book = self._known()
        if self._backlog is None or not book.loaded:
            return
        changed, book.changed = book.changed, set()
        for number in changed:
            lane = book.index.lanes.get(number)
            if lane is not None:
                self._backlog(number, lane.key, len(lane), lane.body_bytes)

    async def _load_more(self) -> None:
        """Read the next stretch of the log; after the last, answer `load`."""
        book = self._known()
        chunk = await self._store.run(start.read_chunk, book.loading_from, book.load_to)
        if chunk is not None:
            book.load(chunk)
            return
        book.finish_loading()
        missing = book.pending - sum(len(lane) for lane in book.index.lanes.values())
        if missing:
            _log.error("outbox ledger mended", missing_events=missing)
            draft = Draft(book, self._clock)
            ops.Reconcile(missing, self._metrics).plan(draft)
            await self._commit(draft)
        self._promised = {part.lane for request in book.unsettled for part in request}
        self._tell()
        if self._loaded is not None and not self._loaded.done():
            self._loaded.set_result(None)

    async def _connect(self) -> None:
        """Open the file; memory is built anew unless the file holds exactly what memory holds."""
        opened, set_aside = await self._store.connect()
        old, book = self._book, Book.of(opened, self._settings, self._clock)
        if old is not None and not set_aside and old.ledger() == book.ledger():
            old.pages, old.free_pages = book.pages, book.free_pages
        else:
            if old is not None:
                book.inherit(old)
                if self._backlog is not None:
                    for number, lane in old.index.lanes.items():
                        if number not in book.index.lanes:
                            self._backlog(number, lane.key, 0, 0)
            self._book = book
        await self._store.commit([ops.Stamp().step(self._known())])
        if self._failure is not None:
            _log.info("outbox available again", pending=book.pending)
        self._failure = None

    async def _reconnect(self) -> None:
        delay_ms = min(_RETRY_FIRST_MS << min(self._failures, 16), _RETRY_LAST_MS)
        await self._idle(delay_ms / 1000)
        if not self._closing:
            await self._connect()

    async def _failed(self, error: Exception) -> None:
        """The disk failed: tell everybody, and let go of the file."""
        failure = _failure(error)
        if self._failure is None:
            _log.error("outbox unavailable", reason=str(failure))
        self._failure = failure
        self._failures += 1
        self._store.suspect = self._store.suspect or is_broken(error)
        self._fail_waiting(failure)
        await self._store.disconnect()

    def _fail_waiting(self, failure: OutboxError) -> None:
        while self._appends:
            append = self._appends.popleft()
            self._done_with(append)
            if not append.answer.done():
                append.answer.set_exception(failure)
        while self._ops:
            op = self._ops.popleft()
            if not op.answer.done():
                op.answer.set_exception(failure)

    def _done_with(self, append: Append) -> None:
        self._gathered_bytes -= append.body_bytes
        self._gathered_events -= len(append.events)

    async def _submit(self, op: Op[T]) -> T:
        if self._failure is not None:
            raise self._failure
        if self._closing or self._book is None:
            raise OutboxUnavailable("the outbox is closed")
        self._ops.append(op)
        self._poke()
        return await op.answer

    def _refusal(self, body_bytes: int, events: int) -> OutboxError | None:
        """Why so much more cannot be appended now."""
        if self._failure is not None:
            return self._failure
        if self._closing or self._book is None:
            return OutboxUnavailable("the outbox is closed")
        if self._blocked:
            return OutboxUnavailable(self._blocked)
        if self._gathered_bytes + body_bytes > _GATHER_BYTES:
            return OutboxFull("more events are waiting for the disk than memory may hold")
        cost = cost_bytes(self._gathered_bytes + body_bytes, self._gathered_events + events)
        drops = self._settings.when_full == "drop_oldest"
        if cost > (self._limits.append_bytes if drops else self._book.room_bytes()):
            return OutboxFull("the outbox is full (outbox.max_size)")
        return None

    def _known(self) -> Book:
        assert self._book is not None, "the outbox is not open"
        return self._book

    def _poke(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _idle(self, timeout_s: float | None) -> None:
        """Until there is something to do, or so long."""
        self._wake = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._wake,), timeout=timeout_s)
        self._wake = None


def _failure(error: Exception) -> OutboxError:
    """What to tell whoever waits; the cause is kept."""
    failure: OutboxError
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        failure = OutboxFull("the disk is full")
    else:
        failure = OutboxUnavailable(f"the disk fails ({error}): whether the events were stored is unknown")
    failure.__cause__ = error
    return failure

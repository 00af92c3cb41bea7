"""The plan of one commit: it translates waiting calls into steps for the database thread.

Order in a commit: deletions that make space, new device queues, new events, then the other calls in
the order of their arrival. Rules: planning changes only the draft, so that a failed commit has no
effect. The draft contains everything that a call may know about earlier calls of the same commit. A
call that needs more waits for the next commit.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from relay.event.reader import DeviceKey, Event
from relay.outbox.engine.checksum import checksums
from relay.outbox.engine.conflicts import Conflict
from relay.outbox.sqlite import statements
from relay.outbox.sqlite.connection import PAGE_BYTES
from relay.outbox.sqlite.insert import NewRows
from relay.outbox.sqlite.outbox_state import OutboxState
from relay.outbox.sqlite.transaction import Committed, Step
from relay.runtime.clock import Clock

T = TypeVar("T")

_LOCAL_BYTES = PAGE_BYTES - 35
"""The longest row without overflow pages (https://www.sqlite.org/fileformat2.html#payload_overflow)."""
_ROW_BYTES = 60
"""Maximum size of a row without its body."""
EVENT_MEMORY_BYTES = 320
"""Memory of an event without its body: the object, its id and its device key."""
QUEUE_PAGES = 2
"""Pages written when the row of a device queue changes: its page, and a neighbour if the row grows."""
_SMALL_BYTES = 600
"""Pages with rows up to this size are at least 80 % full."""


class Op(ABC, Generic[T]):
    """A call that waits for its commit."""

    patient = False
    """Whether the commit may be delayed by some milliseconds, see `commit_delay`."""
    is_expensive = False
    """Whether it writes pages that it frees, which a later cleanup would not write. Set by `plan`."""

    def __init__(self) -> None:
        self.result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    @property
    def pages(self) -> int | None:
        """Maximum number of pages that the call writes; None if unknown."""
        return None

    @abstractmethod
    def plan(self, draft: Draft) -> bool:
        """Add steps to the draft. Return False, without a change, if the call has to wait for the next commit."""

    @abstractmethod
    def apply(self, state: OutboxState, result: Any) -> T:
        """Change the state as the commit changed the file. Return the result for the caller."""


class Append:
    """A call of `append`: its events, and the future for its result."""

    __slots__ = ("body_bytes", "callers", "cost_bytes", "duplicates", "events", "memory_bytes", "result")

    def __init__(self, events: Sequence[Event], result: asyncio.Future[int], callers: int) -> None:
        sizes = [len(event.body) for event in events]
        self.events = events
        self.callers = callers
        """Number of callers that wait for the result."""
        self.body_bytes = sum(sizes)
        self.memory_bytes = self.body_bytes + EVENT_MEMORY_BYTES * len(sizes)
        self.cost_bytes = (
            sum(map(cost_bytes, sizes))
            if max(sizes, default=0) > _SMALL_BYTES
            else (self.body_bytes * 5 // 4 + _ROW_BYTES * len(sizes))
        )
        """Maximum growth of the used pages."""
        self.result = result
        self.duplicates = 0


def cost_bytes(body_bytes: int) -> int:
    """Return the size of the pages of one event: its share of a page with several rows, or its own pages."""
    row_bytes = body_bytes + _ROW_BYTES
    if row_bytes > _LOCAL_BYTES:
        return row_bytes + 2 * PAGE_BYTES
    return PAGE_BYTES // (_LOCAL_BYTES // row_bytes) + _ROW_BYTES


class Draft:
    """The plan of the next commit."""

    def __init__(self, state: OutboxState, clock: Clock) -> None:
        self.state = state
        self.clock = clock
        self.now_ms = state.time.now_ms()
        self.next_seq = state.next_seq
        self.next_request = state.next_request
        self.appends: list[Append] = []
        self.body_bytes = 0
        self.skipped: dict[int, int] = {}
        """By queue id: the number of its first events that an earlier settle of this commit removes."""
        self.unclear: set[int] = set()
        """Ids of queues whose content after this commit is unknown to later calls."""
        self._rows: NewRows | None = None
        self._sizes: list[int] = []
        self._queues: list[int] = []
        self._ids: Sequence[bytes] = ()
        self._checks: Sequence[int] = ()
        self.conflicts: list[Conflict] = []
        """Events that are not stored because an event with the same id and other bytes is stored."""
        self._new_queue_ids: dict[DeviceKey, int] = {}
        self._before: list[tuple[Op[Any], Step]] = []
        self._after: list[tuple[Op[Any], Step]] = []

    def __bool__(self) -> bool:
        return bool(self.appends or self._before or self._after)

    @property
    def events(self) -> int:
        return len(self._sizes)

    @property
    def appended_pages(self) -> int:
        """Maximum number of pages for new events."""
        return sum([append.cost_bytes for append in self.appends]) // PAGE_BYTES

    @property
    def pages(self) -> int | None:
        """Maximum number of pages that the commit writes, without inner pages; None if unknown."""
        pages = self.appended_pages + QUEUE_PAGES * len(self._new_queue_ids)
        for op in self.ops:
            if op.pages is None:
                return None
            pages += op.pages
        return pages

    @property
    def is_expensive(self) -> bool:
        """Whether it deletes rows before pending rows: then it writes each page that it frees."""
        return any(op.is_expensive for op in self.ops)

    @property
    def ops(self) -> Sequence[Op[Any]]:
        return [op for op, _ in (*self._before, *self._after)]

    def add(self, op: Op[Any], step: Step) -> None:
        self._after.append((op, step))

    def add_before(self, op: Op[Any], step: Step) -> None:
        """Add a step that makes space for the events of this commit."""
        self._before.append((op, step))

    def append(self, appends: Sequence[Append]) -> None:
        """Plan rows for the events that are not duplicates. Called once."""
        self.appends += appends
        self.body_bytes += sum([append.body_bytes for append in appends])
        events = self._unknown(appends)
        if not events:
            return
        # By columns, because a call per event and column would cost more than the rest of this function.
        ids, keys, bodies, has_inserted_time, received = zip(*events, strict=True)
        by_key, new_queue = self.state.index.by_key, self.queue_id
        self._ids = ids
        self._queues = [by_key.get(key) or new_queue(key) for key in keys]
        self._sizes = list(map(len, bodies))
        crcs = checksums(bodies, has_inserted_time)
        self._checks = [new or old for new, old in zip(received, crcs, strict=True)] if any(received) else crcs
        self._rows = NewRows.joined(
            self.next_seq, self.now_ms, self._queues, ids, crcs, bodies, self._sizes, received_crcs=received
        )
        self.next_seq += len(events)

    def _unknown(self, appends: Sequence[Append]) -> Sequence[Event]:
        """Return the events to store, and set the number of duplicates of each append."""
        known = self.state.dedupe_window.known
        events = [event for append in appends for event in append.events]
        ids = {event.event_id for event in events}
        if len(ids) == len(events) and known.isdisjoint(ids):
            return events
        fresh: dict[bytes, Event] = {}
        for append in appends:
            before = len(fresh)
            for event in append.events:
                conflict = None
                if event.event_id in known:
                    conflict = self.state.conflict_of(event)
                elif (first := fresh.setdefault(event.event_id, event)).check != event.check:
                    conflict = Conflict(event, first.device_key)
                if conflict is not None:
                    self.conflicts.append(conflict)
            append.duplicates = len(append.events) - (len(fresh) - before)
        return list(fresh.values())

    def queue_id(self, key: DeviceKey) -> int:
        """Return the queue id of a device, a new one if the device has no queue."""
        queue_id = self.state.index.by_key.get(key) or self._new_queue_ids.get(key)
        if queue_id is None:
            queue_id = self._new_queue_ids[key] = self.state.next_queue_id + len(self._new_queue_ids)
        return queue_id

    def appended_to(self) -> set[int]:
        """Return the ids of the queues to which this commit appends events."""
        return set(self._queues)

    def steps(self) -> list[Step]:
        steps = [step for _, step in self._before]
        if self._new_queue_ids:
            rows = [
                (queue_id, str(key[0]), *key[1:], self.state.next_seq - 1)
                for key, queue_id in self._new_queue_ids.items()
            ]
            steps.append(partial(statements.add_queues, queues=rows))
        if self._rows is not None:
            steps.append(self._rows)
        return steps + [step for _, step in self._after]

    def apply(self, committed: Committed) -> None:
        """Change the state after the commit, and set the results of all calls."""
        state, results = self.state, list(committed.results)
        state.pages, state.free_pages = committed.pages, committed.free_pages
        before = results[: len(self._before)]
        after = results[len(results) - len(self._after) :]
        for (op, _), result in zip(self._before, before, strict=True):
            _set_result(op.result, op.apply(state, result))
        self._apply_rows()
        for (op, _), result in zip(self._after, after, strict=True):
            _set_result(op.result, op.apply(state, result))
        for append in self.appends:
            _set_result(append.result, append.duplicates)

    def fail(self, error: Exception) -> None:
        """Fail all calls of a failed commit. Whether their events are on disk is unknown."""
        for result in (*(append.result for append in self.appends), *(op.result for op in self.ops)):
            if not result.done():
                result.set_exception(error)

    def _apply_rows(self) -> None:
        state = self.state
        for key, queue_id in self._new_queue_ids.items():
            state.index.add(queue_id, key)
        state.next_queue_id += len(self._new_queue_ids)
        if not self._sizes:
            return
        if not state.queued:
            state.oldest_seq, state.oldest_at_ms = state.next_seq, self.now_ms
        state.index.append(state.next_seq, self._queues, self._sizes)
        state.dedupe_window.extend(state.next_seq, self._ids, array("I", self._queues), self._checks)
        state.rows += len(self._sizes)
        state.next_seq += len(self._sizes)
        state.last_row = state.next_seq - 1
        state.changed.update(self._queues)


def _set_result(future: asyncio.Future[T], value: T) -> None:
    """Set the result of a call, unless its caller has cancelled the future."""
    if not future.done():
        future.set_result(value)

"""One commit in the making: what the waiting calls want, turned into steps for the thread.

Owns the order inside a commit: what makes room, then new lanes and events, then the other calls in
the order they came. Rules: planning changes nothing but the draft, so a commit that fails leaves no
trace; what a call needs to know of an earlier one in the same commit stands in the draft, and a
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
"""The longest row that needs no page of its own (https://www.sqlite.org/fileformat2.html#payload_overflow)."""
_ROW_BYTES = 60
"""What a row holds besides its body, at most."""
EVENT_MEMORY_BYTES = 320
"""What an event takes in memory besides its body: itself, its id, its device's name."""
QUEUE_PAGES = 2
"""A lane's row that is written anew, and its neighbour if it has grown."""
_SMALL_BYTES = 600
"""Pages of rows up to here are at least four fifths full."""


class Op(ABC, Generic[T]):
    """A call that waits for its commit."""

    patient = False
    """Whether the commit may be put off for some milliseconds, see pace."""
    frees_dearly = False
    """Whether pages that it frees are written, and would not be once nothing is pending; known once planned."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    @property
    def pages(self) -> int | None:
        """At most so many pages does it write; None: that is not known."""
        return None

    @abstractmethod
    def plan(self, draft: Draft) -> bool:
        """Add steps to the draft; False: it has to wait for the next commit, and nothing was added."""

    @abstractmethod
    def apply(self, state: OutboxState, result: Any) -> T:
        """Change the book as the commit changed the file; returns the answer."""


class Append:
    """Events waiting to be appended, and who waits for them."""

    __slots__ = ("answer", "body_bytes", "callers", "cost_bytes", "duplicates", "events", "memory_bytes")

    def __init__(self, events: Sequence[Event], answer: asyncio.Future[int], callers: int) -> None:
        sizes = [len(event.body) for event in events]
        self.events = events
        self.callers = callers
        """Who wait for the answer."""
        self.body_bytes = sum(sizes)
        self.memory_bytes = self.body_bytes + EVENT_MEMORY_BYTES * len(sizes)
        self.cost_bytes = (
            sum(map(cost_bytes, sizes))
            if max(sizes, default=0) > _SMALL_BYTES
            else (self.body_bytes * 5 // 4 + _ROW_BYTES * len(sizes))
        )
        """At most so much do the used pages grow."""
        self.answer = answer
        self.duplicates = 0


def cost_bytes(body_bytes: int) -> int:
    """The pages that one event takes: its share of one that holds several, or its own ones."""
    row_bytes = body_bytes + _ROW_BYTES
    if row_bytes > _LOCAL_BYTES:
        return row_bytes + 2 * PAGE_BYTES
    return PAGE_BYTES // (_LOCAL_BYTES // row_bytes) + _ROW_BYTES


class Draft:
    """What the next commit will do."""

    def __init__(self, state: OutboxState, clock: Clock) -> None:
        self.state = state
        self.clock = clock
        self.now_ms = state.time.now_ms()
        self.next_seq = state.next_seq
        self.next_request = state.next_request
        self.appends: list[Append] = []
        self.body_bytes = 0
        self.skipped: dict[int, int] = {}
        """Lanes whose first so many events an earlier settle of this commit moves past."""
        self.unclear: set[int] = set()
        """Lanes of which a later call cannot know what they will hold."""
        self._rows: NewRows | None = None
        self._sizes: list[int] = []
        self._queues: list[int] = []
        self._ids: Sequence[bytes] = ()
        self._checks: Sequence[int] = ()
        self.conflicts: list[Conflict] = []
        """Of events that are not stored because their id is known."""
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
        """At most so many of them hold new events."""
        return sum([append.cost_bytes for append in self.appends]) // PAGE_BYTES

    @property
    def pages(self) -> int | None:
        """At most so many pages does the commit write, but for inner ones; None: that is not known."""
        pages = self.appended_pages + QUEUE_PAGES * len(self._new_queue_ids)
        for op in self.ops:
            if op.pages is None:
                return None
            pages += op.pages
        return pages

    @property
    def writes_what_it_frees(self) -> bool:
        """Whether it deletes rows before pending ones: then each page that gets free is written once more."""
        return any(op.frees_dearly for op in self.ops)

    @property
    def ops(self) -> Sequence[Op[Any]]:
        return [op for op, _ in (*self._before, *self._after)]

    def add(self, op: Op[Any], step: Step) -> None:
        self._after.append((op, step))

    def add_before(self, op: Op[Any], step: Step) -> None:
        """For what makes room for the events of this commit."""
        self._before.append((op, step))

    def append(self, appends: Sequence[Append]) -> None:
        """Plan rows for the events that are not known yet, in this commit or before it; called once."""
        self.appends += appends
        self.body_bytes += sum([append.body_bytes for append in appends])
        events = self._unknown(appends)
        if not events:
            return
        # by columns: a call for each event of each column would cost more than all that is done here
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
        """Those that are to be stored; what each append has besides is counted in it."""
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
        """The lane of a device, a new one if it has none."""
        queue_id = self.state.index.by_key.get(key) or self._new_queue_ids.get(key)
        if queue_id is None:
            queue_id = self._new_queue_ids[key] = self.state.next_queue_id + len(self._new_queue_ids)
        return queue_id

    def appended_to(self) -> set[int]:
        """The lanes that this commit appends to."""
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
        """The commit is on disk: change the book, answer everybody."""
        state, results = self.state, list(committed.results)
        state.pages, state.free_pages = committed.pages, committed.free_pages
        before = results[: len(self._before)]
        after = results[len(results) - len(self._after) :]
        for (op, _), result in zip(self._before, before, strict=True):
            _answer(op.answer, op.apply(state, result))
        self._apply_rows()
        for (op, _), result in zip(self._after, after, strict=True):
            _answer(op.answer, op.apply(state, result))
        for append in self.appends:
            _answer(append.answer, append.duplicates)

    def fail(self, error: Exception) -> None:
        """The commit failed: nobody knows whether its events are on disk."""
        for answer in (*(append.answer for append in self.appends), *(op.answer for op in self.ops)):
            if not answer.done():
                answer.set_exception(error)

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


def _answer(future: asyncio.Future[T], value: T) -> None:
    """Whoever stopped waiting has cancelled the future; the work is done all the same."""
    if not future.done():
        future.set_result(value)

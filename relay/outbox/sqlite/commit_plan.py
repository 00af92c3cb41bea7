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

from relay.event.reader import Event, LaneKey
from relay.outbox.engine.checksum import checksums
from relay.outbox.engine.conflicts import Conflict
from relay.outbox.sqlite import statements
from relay.outbox.sqlite.connection import PAGE_BYTES
from relay.outbox.sqlite.insert import NewRows
from relay.outbox.sqlite.outbox_state import Book
from relay.outbox.sqlite.statements import Committed, Step
from relay.runtime.clock import Clock

T = TypeVar("T")

_LOCAL_BYTES = PAGE_BYTES - 35
"""The longest row that needs no page of its own (https://www.sqlite.org/fileformat2.html#payload_overflow)."""
_ROW_BYTES = 60
"""What a row holds besides its body, at most."""
EVENT_MEMORY_BYTES = 320
"""What an event takes in memory besides its body: itself, its id, its device's name."""
LANE_PAGES = 2
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
    def apply(self, book: Book, result: Any) -> T:
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

    def __init__(self, book: Book, clock: Clock) -> None:
        self.book = book
        self.clock = clock
        self.now_ms = book.time.now_ms()
        self.next_seq = book.next_seq
        self.next_request = book.next_request
        self.appends: list[Append] = []
        self.body_bytes = 0
        self.skipped: dict[int, int] = {}
        """Lanes whose first so many events an earlier settle of this commit moves past."""
        self.unclear: set[int] = set()
        """Lanes of which a later call cannot know what they will hold."""
        self._rows: NewRows | None = None
        self._sizes: list[int] = []
        self._lanes: list[int] = []
        self._ids: Sequence[bytes] = ()
        self._checks: Sequence[int] = ()
        self.conflicts: list[Conflict] = []
        """Of events that are not stored because their id is known."""
        self._new_lanes: dict[LaneKey, int] = {}
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
        pages = self.appended_pages + LANE_PAGES * len(self._new_lanes)
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
        ids, keys, bodies, stamped, received = zip(*events, strict=True)
        by_key, new_lane = self.book.index.by_key, self.lane
        self._ids = ids
        self._lanes = [by_key.get(key) or new_lane(key) for key in keys]
        self._sizes = list(map(len, bodies))
        crcs = checksums(bodies, stamped)
        self._checks = [new or old for new, old in zip(received, crcs, strict=True)] if any(received) else crcs
        self._rows = NewRows.joined(
            self.next_seq, self.now_ms, self._lanes, ids, crcs, bodies, self._sizes, received_crcs=received
        )
        self.next_seq += len(events)

    def _unknown(self, appends: Sequence[Append]) -> Sequence[Event]:
        """Those that are to be stored; what each append has besides is counted in it."""
        known = self.book.recent.known
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
                    conflict = self.book.conflict_of(event)
                elif (first := fresh.setdefault(event.event_id, event)).check != event.check:
                    conflict = Conflict(event, first.lane_key)
                if conflict is not None:
                    self.conflicts.append(conflict)
            append.duplicates = len(append.events) - (len(fresh) - before)
        return list(fresh.values())

    def lane(self, key: LaneKey) -> int:
        """The lane of a device, a new one if it has none."""
        lane = self.book.index.by_key.get(key) or self._new_lanes.get(key)
        if lane is None:
            lane = self._new_lanes[key] = self.book.next_lane + len(self._new_lanes)
        return lane

    def appended_to(self) -> set[int]:
        """The lanes that this commit appends to."""
        return set(self._lanes)

    def steps(self) -> list[Step]:
        steps = [step for _, step in self._before]
        if self._new_lanes:
            rows = [(lane, str(key[0]), *key[1:], self.book.next_seq - 1) for key, lane in self._new_lanes.items()]
            steps.append(partial(statements.add_lanes, lanes=rows))
        if self._rows is not None:
            steps.append(self._rows)
        return steps + [step for _, step in self._after]

    def apply(self, committed: Committed) -> None:
        """The commit is on disk: change the book, answer everybody."""
        book, results = self.book, list(committed.results)
        book.pages, book.free_pages = committed.pages, committed.free_pages
        before = results[: len(self._before)]
        after = results[len(results) - len(self._after) :]
        for (op, _), result in zip(self._before, before, strict=True):
            _answer(op.answer, op.apply(book, result))
        self._apply_rows()
        for (op, _), result in zip(self._after, after, strict=True):
            _answer(op.answer, op.apply(book, result))
        for append in self.appends:
            _answer(append.answer, append.duplicates)

    def fail(self, error: Exception) -> None:
        """The commit failed: nobody knows whether its events are on disk."""
        for answer in (*(append.answer for append in self.appends), *(op.answer for op in self.ops)):
            if not answer.done():
                answer.set_exception(error)

    def _apply_rows(self) -> None:
        book = self.book
        for key, lane in self._new_lanes.items():
            book.index.add(lane, key)
        book.next_lane += len(self._new_lanes)
        if not self._sizes:
            return
        if not book.queued:
            book.oldest_seq, book.oldest_at_ms = book.next_seq, self.now_ms
        book.index.append(book.next_seq, self._lanes, self._sizes)
        book.recent.extend(book.next_seq, self._ids, array("I", self._lanes), self._checks)
        book.rows += len(self._sizes)
        book.next_seq += len(self._sizes)
        book.last_row = book.next_seq - 1
        book.changed.update(self._lanes)


def _answer(future: asyncio.Future[T], value: T) -> None:
    """Whoever stopped waiting has cancelled the future; the work is done all the same."""
    if not future.done():
        future.set_result(value)

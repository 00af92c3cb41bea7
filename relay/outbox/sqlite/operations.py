"""The calls of the protocol as parts of a commit: what each plans, and what it changes when it is on disk.

Owns the meaning of take, settle, forget, drop and reclaim. Rules are `draft`'s.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial

from relay.outbox import DropReason, Part, Settled, Taken
from relay.outbox.engine.dedupe_window import DEAD, DROPPED
from relay.outbox.sqlite import loading, statements
from relay.outbox.sqlite.commit_plan import LANE_PAGES, Draft, Op
from relay.outbox.sqlite.outbox_state import Book, Stretch
from relay.outbox.sqlite.statements import Buried, Grave, Move, Read, Reclaimed, Step, Wanted
from relay.runtime.metrics import Metrics


class Take(Op[Sequence[Taken]]):
    patient = True

    def __init__(self, parts: Sequence[Part], true_ms: int | None, promised: set[int], metrics: Metrics) -> None:
        super().__init__()
        self._parts = parts
        self._true_ms = true_ms
        self._promised = promised
        self._metrics = metrics

    @property
    def pages(self) -> int | None:
        return LANE_PAGES * len(self._parts)

    def plan(self, draft: Draft) -> bool:
        book = draft.book
        if any(part.lane in draft.unclear for part in self._parts):
            return False
        shift_ms = 0 if self._true_ms is None else self._true_ms - draft.now_ms
        wanted = []
        for lane, events, window in self._parts:
            skip = draft.skipped.get(lane, 0)
            held = book.index.lanes.get(lane)
            if held is None:  # lost with a broken file
                wanted.append(Wanted(lane, array("Q"), array("I"), window, 0))
                continue
            busy = held.in_flight is not None and not skip and lane not in self._promised
            assert not busy, f"lane {lane} is in flight already"
            sent_ms = None if skip else held.shift_ms
            shift = shift_ms if sent_ms is None else sent_ms
            wanted.append(Wanted(lane, held.seqs(events, skip), held.sizes(events, skip), window, shift))
        step = partial(
            statements.take,
            request=draft.next_request,
            boot=book.boot,
            boot_from_ms=book.boot_from_ms,
            wanted=wanted,
            graveyard=book.graveyard(draft.clock),
        )
        draft.next_request += 1
        draft.unclear.update(part.lane for part in self._parts)
        draft.add(self, step)
        return True

    def apply(self, book: Book, result: tuple[list[Read], Buried]) -> Sequence[Taken]:
        read, buried = result
        book.next_request += 1
        count_buried(book, buried, ["corrupt"] * buried.events, self._metrics)
        taken = []
        for (number, _, _), part in zip(self._parts, read, strict=True):
            for seq in part.corrupt:
                _lose(book, number, seq)
            if number in book.index.lanes:
                book.index.lanes[number].in_flight = part.seqs if part.seqs else None
                book.index.lanes[number].shift_ms = part.shift_ms if part.seqs else None
            self._promised.discard(number)
            taken.append(Taken(number, part.bodies, part.stamps))
        return taken


class Settle(Op[None]):
    patient = True

    def __init__(self, settled: Sequence[Settled], promised: set[int], metrics: Metrics) -> None:
        super().__init__()
        self._settled = settled
        self._promised = promised
        self._metrics = metrics
        self._moves: list[Move] = []
        self._graves: list[Grave] = []

    @property
    def pages(self) -> int | None:
        return None if self._graves else LANE_PAGES * len(self._settled)

    def plan(self, draft: Draft) -> bool:
        book = draft.book
        if any(each.lane in draft.unclear for each in self._settled):
            return False
        for number, delivered, dead, window in self._settled:
            lane = book.index.lanes.get(number)
            if lane is None:  # lost with a broken file
                continue
            seqs = lane.in_flight if lane.in_flight is not None else array("Q")
            assert seqs or not (delivered or dead), f"lane {number} has nothing in flight"
            # after a failed commit the file may turn out to hold this settle already
            graves = [Grave(seqs[at], number, why) for at, why in dead.items() if seqs[at] in lane]
            here = len(seqs) if lane.seqs(len(seqs)) == seqs else sum(seq in lane for seq in seqs)
            self._graves += graves
            cursor, done = (seqs[-1], here - len(graves)) if delivered else (0, 0)
            self._moves.append(Move(cursor, done, window, book.boot, number))
            if delivered and here == len(seqs):
                draft.skipped[number] = len(seqs)
            else:
                draft.unclear.add(number)
        graveyard = book.graveyard(draft.clock)
        draft.add(self, partial(statements.settle, moves=self._moves, graves=self._graves, graveyard=graveyard))
        return True

    def apply(self, book: Book, result: Buried) -> None:
        count_buried(book, result, [grave.dead.reason for grave in self._graves], self._metrics)
        for grave in self._graves:
            _lose(book, grave.lane, grave.seq)
        for cursor, delivered, _, _, number in self._moves:
            lane = book.index.lanes[number]
            lane.in_flight = lane.shift_ms = None
            self._promised.discard(number)
            if cursor:
                events = lane.count_to(cursor)
                assert events == delivered
                lane.remove(0, events)
                book.delivered += events
                self._metrics.events_delivered.inc(events)
                book.changed.add(number)


class Forget(Op[None]):
    def __init__(self, lanes: Sequence[int]) -> None:
        super().__init__()
        self._lanes = lanes
        self._idle: list[int] = []

    def plan(self, draft: Draft) -> bool:
        if draft.unclear.intersection(self._lanes):
            return False
        lanes, appended_to = draft.book.index.lanes, draft.appended_to()
        self._idle = [
            number
            for number in self._lanes
            if (lane := lanes.get(number)) is not None
            and not len(lane)
            and not lane.quarantined
            and lane.in_flight is None
            and number not in appended_to
        ]
        draft.unclear.update(self._idle)
        draft.add(self, partial(statements.forget, lanes=self._idle, next_lane=draft.book.next_lane))
        return True

    def apply(self, book: Book, result: None) -> None:
        for number in self._idle:
            book.index.forget(number)


class Drop(Op[int]):
    """Drop what is pending but not in flight in a stretch of seqs."""

    def __init__(self, reason: DropReason, first_seq: int, last_seq: int, metrics: Metrics) -> None:
        super().__init__()
        self._reason = reason
        self._first = first_seq
        self._last = last_seq
        self._metrics = metrics
        self._from: list[tuple[int, int, array[int]]] = []
        """(lane, how many of its pending events come before, the seqs to go)."""
        self._kept: list[int] = []

    def plan(self, draft: Draft) -> bool:
        book = draft.book
        if draft.unclear or draft.skipped:
            return False
        for number, lane in book.index.lanes.items():
            in_flight = lane.in_flight if lane.in_flight is not None else array("Q")
            self._kept += [seq for seq in in_flight if self._first <= seq <= self._last]
            events = lane.count_to(self._last) - len(in_flight)
            if events > 0:
                self._from.append((number, len(in_flight), lane.seqs(events, len(in_flight))))
        stretch = book.range(self._first, self._last)
        marks = bytearray(stretch.marks)
        for _, _, seqs in self._from:
            for seq in seqs:
                if seq >= stretch.kept_from_seq:
                    marks[seq - stretch.kept_from_seq] = DROPPED
        draft.unclear.update(number for number, _, _ in self._from)
        draft.add_before(
            self,
            partial(
                statements.drop,
                stretch=stretch._replace(marks=bytes(marks)),
                events=sum(len(seqs) for _, _, seqs in self._from),
                in_flight=self._kept,
                quarantined=book.quarantined > 0,
            ),
        )
        return True

    def apply(self, book: Book, result: int) -> int:
        events = 0
        for number, before, seqs in self._from:
            book.index.lanes[number].remove(before, len(seqs))
            book.changed.add(number)
            events += len(seqs)
            for seq in seqs:
                book.recent.mark(seq, DROPPED)
        book.dropped += events
        self._metrics.events_dropped.labels(self._reason).inc(events)
        first_left = book.first_row
        if self._first <= book.first_row and not book.quarantined:
            first_left = min(self._kept, default=self._last + 1)
        book.reclaimed(Stretch(self._first, self._last, "front"), Reclaimed(result, first_left, book.last_row))
        return events


class Reclaim(Op[None]):
    """Delete what is done, see Book.reclaimable."""

    def __init__(self, stretch: Stretch) -> None:
        super().__init__()
        self._stretch = stretch

    def plan(self, draft: Draft) -> bool:
        first_seq, last_seq, kind = self._stretch
        book = draft.book
        self.frees_dearly = kind in ("front", "holes") and book.pending > 0
        stretch, pages = book.range(first_seq, last_seq), book.limits.reclaim_pages
        draft.add_before(self, partial(statements.reclaim, stretch=stretch, kind=kind, pages=pages))
        return True

    def apply(self, book: Book, result: Reclaimed) -> None:
        book.reclaimed(self._stretch, result)


class Vacuum(Op[None]):
    """Give free pages back to the file system."""

    def __init__(self) -> None:
        super().__init__()
        self._pages_before = 0

    def plan(self, draft: Draft) -> bool:
        self._pages_before = draft.book.pages
        draft.add(self, partial(statements.vacuum, pages=draft.book.limits.vacuum_pages))
        return True

    def apply(self, book: Book, result: None) -> None:
        if book.pages >= self._pages_before:
            book.vacuum_useless_at = book.pages


class Stamp(Op[None]):
    """Write down what the clocks show, see relay.outbox.engine.outbox_clock."""

    def __init__(self, clean: bool = False) -> None:
        super().__init__()
        self._clean = clean

    def plan(self, draft: Draft) -> bool:
        draft.add(self, self.step(draft.book))
        return True

    def step(self, book: Book) -> Step:
        boot = (book.boot, book.boot_from_ms)
        return partial(statements.anchor, now=book.time.anchor(), boot=boot, clean=self._clean)

    def apply(self, book: Book, result: None) -> None:
        """Only a restart reads it."""


class Reconcile(Op[None]):
    """Balance the ledger with a log that a broken disk has changed.

    Events missing from it are counted as dead letters (though nothing of them is left to keep),
    events that came back as not delivered.
    """

    def __init__(self, missing: int, metrics: Metrics) -> None:
        super().__init__()
        self._missing = missing
        self._metrics = metrics

    def plan(self, draft: Draft) -> bool:
        draft.add(self, partial(statements.reconcile, missing=self._missing))
        return True

    def apply(self, book: Book, result: None) -> None:
        if self._missing > 0:
            book.dead_lettered += self._missing
            self._metrics.events_dead_lettered.labels("corrupt").inc(self._missing)
        else:
            book.delivered += self._missing


class FindOlder(Op[int | None]):
    """The last seq up to which everything from `first_seq` on is older, some thousand rows at most."""

    def __init__(self, first_seq: int, before_ms: int) -> None:
        super().__init__()
        self._first = first_seq
        self._before_ms = before_ms

    def plan(self, draft: Draft) -> bool:
        draft.add(self, partial(loading.last_older, first_seq=self._first, before_ms=self._before_ms))
        return True

    def apply(self, book: Book, result: int | None) -> int | None:
        return result


class FindOldest(Op[None]):
    """Look up when the oldest pending event was appended."""

    def __init__(self, seq: int) -> None:
        super().__init__()
        self._seq = seq

    def plan(self, draft: Draft) -> bool:
        draft.add(self, partial(loading.read_at_ms, seq=self._seq))
        return True

    def apply(self, book: Book, result: int | None) -> None:
        if result is not None:
            book.oldest_seq, book.oldest_at_ms = self._seq, result


def count_buried(book: Book, buried: Buried, reasons: Sequence[str], metrics: Metrics) -> None:
    book.buried(buried)
    metrics.dead_letters_discarded.inc(buried.discarded)
    for reason in reasons:
        metrics.events_dead_lettered.labels(reason).inc()


def _lose(book: Book, number: int, seq: int) -> None:
    """An event has become a dead letter."""
    book.index.lanes[number].remove_seq(seq)
    book.recent.mark(seq, DEAD)
    book.changed.add(number)

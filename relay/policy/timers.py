"""One timer for each item, set to the earliest requested time."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Generic, Protocol, TypeVar

_SPAN_BITS = 10
"""Timers that expire within the same 2 ** _SPAN_BITS milliseconds are in one list."""


class Timed(Protocol):
    wake_at: int | None
    """When the timer of the item expires, in monotonic milliseconds; set by Timers only."""


S = TypeVar("S", bound=Timed)


class Timers(Generic[S]):
    """Timers in lists by time span, of which only the earliest is sorted: a later timer takes 8 bytes.

    Outdated entries stay and are skipped.
    """

    def __init__(self) -> None:
        self._sorted: list[tuple[int, int, S]] = []  # A heap.
        self._tie = count()
        self._spans: list[int] = []  # A heap of the keys of `_later`.
        self._later: dict[int, list[S]] = {}

    def wake(self, item: S, at: int) -> bool:
        """Set the timer to `at` unless it expires earlier. Return whether `at` is the earliest time of all timers."""
        if item.wake_at is not None and at >= item.wake_at:
            return False
        item.wake_at = at
        heap, span = self._sorted, at >> _SPAN_BITS
        if not heap or span <= heap[0][0] >> _SPAN_BITS:
            heappush(heap, (at, next(self._tie), item))
            return heap[0][0] == at
        if (later := self._later.get(span)) is None:
            later = self._later[span] = []
            heappush(self._spans, span)
        later.append(item)
        return False

    def pop_expired(self, now: int) -> S | None:
        """Remove and return the item with the earliest expired timer; None if no timer has expired at `now`."""
        at = self.next_at()
        if at is None or at > now:
            return None
        item = heappop(self._sorted)[2]
        item.wake_at = None
        return item

    def next_at(self) -> int | None:
        """Return the time of the earliest timer; None without timers."""
        heap = self._sorted
        while True:
            while heap and heap[0][2].wake_at != heap[0][0]:
                heappop(heap)
            if not self._spans or (heap and heap[0][0] >> _SPAN_BITS < self._spans[0]):
                return heap[0][0] if heap else None
            span = heappop(self._spans)
            for item in self._later.pop(span):
                if item.wake_at is not None and item.wake_at >> _SPAN_BITS == span:
                    heappush(heap, (item.wake_at, next(self._tie), item))

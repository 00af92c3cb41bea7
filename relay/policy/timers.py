"""One timer for each item, set to the earliest requested time."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Generic, Protocol, TypeVar

_SPAN_BITS = 10
"""Timers that expire within the same 2 ** _SPAN_BITS milliseconds are in one list."""
_MAX_SORTED = 1024
"""Maximum number of entries in a portion, so that no call lasts long."""


class Timed(Protocol):
    wake_at: int | None
    """When the timer of the item expires, in monotonic milliseconds; set by Timers only."""


S = TypeVar("S", bound=Timed)


class Timers(Generic[S]):
    """Timers in lists by time span, of which only the earliest is sorted: a later timer takes 8 bytes.

    A list is sorted in bounded portions. Outdated entries stay and are skipped.
    """

    def __init__(self) -> None:
        self._sorted: list[tuple[int, int, S]] = []  # A heap.
        self._tie = count()
        self._sorted_until = 0  # All timers that expire before this time are in `_sorted`.
        self._spans: list[int] = []  # A heap of the keys of `_later`.
        self._later: dict[int, list[S]] = {}

    def wake(self, item: S, at: int) -> bool:
        """Set the timer to `at` unless it expires earlier. Return whether `at` may be the earliest time of all."""
        if item.wake_at is not None and at >= item.wake_at:
            return False
        item.wake_at = at
        heap = self._sorted
        if at < self._sorted_until:
            heappush(heap, (at, next(self._tie), item))
            return heap[0][0] == at
        span = at >> _SPAN_BITS
        if (later := self._later.get(span)) is None:
            later = self._later[span] = []
            heappush(self._spans, span)
        later.append(item)
        return not heap and span == self._spans[0]

    def pop_expired(self, now: int, most: int) -> Sequence[S]:
        """Remove and return up to `most` items whose timers have expired at `now`, the earliest first."""
        heap = self._sorted
        expired: list[S] = []  # Not list[S](), which takes 0.4 µs.
        while now >= self._sorted_until and self._spans and len(heap) < most:
            if not self._sort():
                break
        while heap and heap[0][0] <= now and heap[0][0] < self._sorted_until and len(expired) < most:
            at, _, item = heappop(heap)
            if item.wake_at == at:
                item.wake_at = None
                expired.append(item)
        return expired

    def next_at(self) -> int | None:
        """Return the time of the earliest timer, or an earlier one while its list is not yet sorted; None without."""
        heap = self._sorted
        while True:
            while heap and heap[0][2].wake_at != heap[0][0]:
                heappop(heap)
            if heap and heap[0][0] < self._sorted_until:
                return heap[0][0]
            if not self._spans:
                return None
            if not self._sort():
                return self._spans[0] << _SPAN_BITS

    def _sort(self) -> bool:
        """Sort a portion of the earliest list. Return whether it was the last one."""
        span = self._spans[0]
        later = self._later[span]
        for item in later[:_MAX_SORTED]:
            if (at := item.wake_at) is not None and at >> _SPAN_BITS == span:
                heappush(self._sorted, (at, next(self._tie), item))
        if len(later) > _MAX_SORTED:
            del later[:_MAX_SORTED]
            return False
        del self._later[heappop(self._spans)]
        self._sorted_until = (span + 1) << _SPAN_BITS
        return True

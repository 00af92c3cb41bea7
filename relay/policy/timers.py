"""One timer for each item, set to the earliest requested time."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    wake_at: int | None
    """When the timer of the item expires, in monotonic milliseconds; set by Timers only."""


S = TypeVar("S", bound=Timed)


class Timers(Generic[S]):
    """A heap of timers. Outdated entries stay in the heap and are skipped."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, S]] = []
        self._tie = count()

    def wake(self, item: S, at: int) -> bool:
        """Set the timer to `at` unless it expires earlier. Return whether `at` is the earliest time of all timers."""
        if item.wake_at is not None and at >= item.wake_at:
            return False
        item.wake_at = at
        heappush(self._heap, (at, next(self._tie), item))
        return self.next_at() == at

    def pop_expired(self, now: int) -> S | None:
        """Remove and return the item with the earliest expired timer; None if no timer has expired at `now`."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, item = heappop(heap)
            if item.wake_at == at:
                item.wake_at = None
                return item
        return None

    def next_at(self) -> int | None:
        """Return the time of the earliest timer; None without timers."""
        heap = self._heap
        while heap:
            at, _, item = heap[0]
            if item.wake_at == at:
                return at
            heappop(heap)
        return None

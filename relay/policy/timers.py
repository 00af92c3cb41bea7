"""When to look at what again: one alarm for each thing, the earliest that was asked for."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    wake_at: int | None
    """When its alarm rings, monotonic milliseconds; only Timers sets it."""


S = TypeVar("S", bound=Timed)


class Timers(Generic[S]):
    """A heap; alarms that were moved forward stay in it, and are skipped."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, S]] = []
        self._tie = count()

    def wake(self, item: S, at: int) -> bool:
        """Ring at `at`, unless it will ring before. True if that is now the earliest of all."""
        if item.wake_at is not None and at >= item.wake_at:
            return False
        item.wake_at = at
        heappush(self._heap, (at, next(self._tie), item))
        return self.next_at() == at

    def pop_expired(self, now: int) -> S | None:
        """The next whose alarm rings, or has rung; None if all others ring after `now`."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, item = heappop(heap)
            if item.wake_at == at:
                item.wake_at = None
                return item
        return None

    def next_at(self) -> int | None:
        """When the next one rings."""
        heap = self._heap
        while heap:
            at, _, item = heap[0]
            if item.wake_at == at:
                return at
            heappop(heap)
        return None

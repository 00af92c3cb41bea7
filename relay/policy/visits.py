"""The device queues and endpoints to which a flush or new limits are applied one after the other, in bounded steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

MAX_STEP = 512
"""Maximum number of visits, and of expired timers, of one call. As large as a batch, so that devices share requests."""

T = TypeVar("T")


class Visits(Generic[T]):
    """What is still to be visited."""

    __slots__ = ("_remaining", "linger_ends")

    def __init__(self, items: Iterable[T] = (), *, linger_ends: bool = False) -> None:
        """Plan one visit of each item. `linger_ends`: pending events are due at the visit."""
        self._remaining = deque(items)
        self.linger_ends = linger_ends

    def __len__(self) -> int:
        return len(self._remaining)

    def __repr__(self) -> str:
        return f"Visits({len(self)} remaining, linger_ends={self.linger_ends})"

    def step(self) -> Iterable[T]:
        """Remove and return the items of the next step."""
        remaining = self._remaining
        return [remaining.popleft() for _ in range(min(len(remaining), MAX_STEP))] if remaining else ()

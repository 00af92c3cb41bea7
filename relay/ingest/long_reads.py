"""Long readings take turns, so that a large batch keeps nobody with a small one waiting.

Owns the order in which bodies are read that take longer than a millisecond: one slice of one of them per turn of
the event loop, round and round. So a hundred such requests delay everything else by one slice, not by a hundred
bodies, and each other evenly.

What is read takes many times the memory of its body (a mebibyte of tiny events: 30 MB). So those under way have
`AT_ONCE_BYTES` together; of those that wait, the smallest and the oldest are next by turns: a small one waits for
few others, and none for ever. Knows nothing of events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

AT_ONCE_BYTES = 1 << 20
"""Of bodies; a larger one is read alone."""


@dataclass(frozen=True, slots=True)
class _Long(Generic[T]):
    reading: Generator[None, None, T]
    body_bytes: int
    read: asyncio.Future[T]


class Turns(Generic[T]):
    """Readings under way, and those that wait for it."""

    def __init__(self, measured: Callable[[Callable[[], None]], Callable[[], None]] = lambda step: step) -> None:
        """`measured` is applied to what a turn of the event loop calls."""
        self._measured_turn = measured(self._turn)
        self._under_way: deque[_Long[T]] = deque()
        self._under_way_bytes = 0
        self._waiting: list[_Long[T]] = []
        """In the order they came."""
        self._oldest_is_next = True

    def add(self, reading: Generator[None, None, T], body_bytes: int = 0) -> asyncio.Future[T]:
        """What the reading returns, or its bug, when it is done; a reading whose future is cancelled is dropped."""
        loop = asyncio.get_running_loop()
        read: asyncio.Future[T] = loop.create_future()
        if not self._under_way and not self._waiting:
            loop.call_soon(self._measured_turn)
        self._waiting.append(_Long(reading, body_bytes, read))
        return read

    def _turn(self) -> None:
        self._begin()
        long = self._under_way[0]
        if not long.read.done():
            try:
                next(long.reading)
            except StopIteration as done:
                long.read.set_result(done.value)
            except Exception as bug:
                long.read.set_exception(bug)
        if long.read.done():
            self._under_way.popleft()
            self._under_way_bytes -= long.body_bytes
        else:
            self._under_way.rotate(-1)
        if self._under_way or self._waiting:
            asyncio.get_running_loop().call_soon(self._measured_turn)

    def _begin(self) -> None:
        """As many as may be under way."""
        while self._waiting:
            sizes = [long.body_bytes for long in self._waiting]
            at = 0 if self._oldest_is_next else sizes.index(min(sizes))
            if self._under_way and self._under_way_bytes + sizes[at] > AT_ONCE_BYTES:
                break
            self._oldest_is_next = not self._oldest_is_next
            long = self._waiting.pop(at)
            self._under_way_bytes += long.body_bytes
            self._under_way.append(long)

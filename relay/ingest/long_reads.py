"""Long readings take turns, so that a large batch keeps nobody with a small one waiting.

Owns the order in which bodies are read that take longer than a millisecond: one slice of one of them per turn of
the event loop, round and round. So a hundred such requests delay everything else by one slice, not by a hundred
bodies, and each other evenly.

What is read takes many times the memory of its body (a mebibyte of tiny events: 30 MB). So those under way have
`MAX_ACTIVE_BYTES` together; of those that wait, the smallest and the oldest are next by turns: a small one waits for
few others, and none for ever. Knows nothing of events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_ACTIVE_BYTES = 1 << 20
"""Of bodies; a larger one is read alone."""


@dataclass(frozen=True, slots=True)
class _LongRead(Generic[T]):
    reading: Generator[None, None, T]
    body_bytes: int
    read: asyncio.Future[T]


class LongReads(Generic[T]):
    """Readings under way, and those that wait for it."""

    def __init__(self, measured: Callable[[Callable[[], None]], Callable[[], None]] = lambda step: step) -> None:
        """`measured` is applied to what a turn of the event loop calls."""
        self._measured_step = measured(self._run_step)
        self._active: deque[_LongRead[T]] = deque()
        self._active_bytes = 0
        self._waiting: list[_LongRead[T]] = []
        """In the order they came."""
        self._oldest_is_next = True

    def add(self, reading: Generator[None, None, T], body_bytes: int = 0) -> asyncio.Future[T]:
        """What the reading returns, or its bug, when it is done; a reading whose future is cancelled is dropped."""
        loop = asyncio.get_running_loop()
        read: asyncio.Future[T] = loop.create_future()
        if not self._active and not self._waiting:
            loop.call_soon(self._measured_step)
        self._waiting.append(_LongRead(reading, body_bytes, read))
        return read

    def _run_step(self) -> None:
        self._activate()
        long = self._active[0]
        if not long.read.done():
            try:
                next(long.reading)
            except StopIteration as done:
                long.read.set_result(done.value)
            except Exception as bug:
                long.read.set_exception(bug)
        if long.read.done():
            self._active.popleft()
            self._active_bytes -= long.body_bytes
        else:
            self._active.rotate(-1)
        if self._active or self._waiting:
            asyncio.get_running_loop().call_soon(self._measured_step)

    def _activate(self) -> None:
        """As many as may be under way."""
        while self._waiting:
            sizes = [long.body_bytes for long in self._waiting]
            at = 0 if self._oldest_is_next else sizes.index(min(sizes))
            if self._active and self._active_bytes + sizes[at] > MAX_ACTIVE_BYTES:
                break
            self._oldest_is_next = not self._oldest_is_next
            long = self._waiting.pop(at)
            self._active_bytes += long.body_bytes
            self._active.append(long)

"""Long readings take turns, so that a large batch keeps nobody with a small one waiting.

Owns the order in which bodies are read that take longer than a millisecond: one slice of one of them per turn of
the event loop, round and round. So a hundred such requests delay everything else by one slice, not by a hundred
bodies, and each other evenly. Knows nothing of events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Readings under way."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Generator[None, None, T], asyncio.Future[T]]] = deque()

    def add(self, reading: Generator[None, None, T]) -> asyncio.Future[T]:
        """What the reading returns, or its bug, when it is done; a reading whose future is cancelled is dropped."""
        loop = asyncio.get_running_loop()
        read: asyncio.Future[T] = loop.create_future()
        self._waiting.append((reading, read))
        if len(self._waiting) == 1:
            loop.call_soon(self._turn)
        return read

    def _turn(self) -> None:
        reading, read = self._waiting[0]
        if not read.done():
            try:
                next(reading)
            except StopIteration as done:
                read.set_result(done.value)
            except Exception as bug:
                read.set_exception(bug)
        if read.done():
            self._waiting.popleft()
        else:
            self._waiting.rotate(-1)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)

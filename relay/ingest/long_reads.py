"""Schedule the reading of large bodies in steps, so that they do not delay small requests.

Rules:
1.  One step of one body runs per turn of the event loop, in rotation. A hundred large requests therefore delay all
    other work by one step, and share the time evenly.
2.  Reading a body takes many times its memory (1 MiB of tiny events: 30 MB). The bodies that are being read have at
    most `MAX_ACTIVE_BYTES` together; a larger body is read alone.
3.  The next body is alternately the smallest and the oldest pending one. A small body waits for few others, and no
    body waits forever.

Independent of events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_ACTIVE_BYTES = 1 << 20
"""Total size of the bodies that are read at the same time."""


@dataclass(frozen=True, slots=True)
class _LongRead(Generic[T]):
    reading: Generator[None, None, T]
    body_bytes: int
    read: asyncio.Future[T]


class LongReads(Generic[T]):
    """Active and pending readings."""

    def __init__(self, measured: Callable[[Callable[[], None]], Callable[[], None]] = lambda step: step) -> None:
        """`measured` wraps the callback that the event loop calls."""
        self._measured_step = measured(self._run_step)
        self._active: deque[_LongRead[T]] = deque()
        self._active_bytes = 0
        self._waiting: list[_LongRead[T]] = []
        """Oldest first."""
        self._oldest_is_next = True

    def add(self, reading: Generator[None, None, T], body_bytes: int = 0) -> asyncio.Future[T]:
        """Schedule a reading. The future returns its result or raises its exception; cancel it to drop the reading."""
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
        """Activate pending readings up to `MAX_ACTIVE_BYTES`."""
        while self._waiting:
            sizes = [long.body_bytes for long in self._waiting]
            at = 0 if self._oldest_is_next else sizes.index(min(sizes))
            if self._active and self._active_bytes + sizes[at] > MAX_ACTIVE_BYTES:
                break
            self._oldest_is_next = not self._oldest_is_next
            long = self._waiting.pop(at)
            self._active_bytes += long.body_bytes
            self._active.append(long)

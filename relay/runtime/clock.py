"""The only module that reads a clock or draws a random number.

Monotonic time decides, wall time only stamps. Both are integer milliseconds: a float
`60 - (now - t0)` can be 1e-15 s short for ever.
"""

from __future__ import annotations

import random
import time
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

_EPOCH = datetime(1970, 1, 1)
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Monotonic, and where there is one, a clock that goes on while the box sleeps: the upstream's minute does, too."""


class Clock(Protocol):
    """Time and chance, as the service or a simulation gives them."""

    @property
    def boot_id(self) -> str:
        """Changes when monotonic readings of before can no longer be compared."""

    def monotonic_ms(self) -> int: ...

    def wall_ms(self) -> int:
        """Unix time; may jump, may be decades off."""

    def chance(self) -> float:
        """Uniform in [0, 1)."""

    def new_event_id(self) -> str:
        """A UUID v4, lower case with hyphens."""


class SystemClock:
    """The machine's own."""

    def __init__(self) -> None:
        self.boot_id = _boot_id()

    def monotonic_ms(self) -> int:
        return time.clock_gettime_ns(_STEADY) // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def chance(self) -> float:
        return random.random()

    def new_event_id(self) -> str:
        return str(uuid.uuid4())


def monotonic_us() -> int:
    """Microseconds of CLOCK_MONOTONIC: for a service manager that compares them with its own, and for what takes less
    than a Clock's millisecond; an event loop's time is no finer (uvloop's), and stands still within a turn."""
    return time.monotonic_ns() // 1000


def loop_s(loop: asyncio.AbstractEventLoop) -> float:
    """Return the event loop's own time, in seconds, for a library that compares its deadlines with that."""
    return loop.time()


def thread_cpu_ns() -> int:
    """Nanoseconds of CPU time that the calling thread has used: what it worked, without what it waited."""
    return time.thread_time_ns()


def rfc3339(wall_ms: int) -> str:
    """UTC, milliseconds, `Z`: 2026-11-23T08:00:00.000Z. Years outside 1..9999 are clamped."""
    clamped = min(max(wall_ms, -62_135_596_800_000), 253_402_300_799_999)
    seconds, ms = divmod(clamped, 1000)
    return (_EPOCH + timedelta(seconds=seconds, milliseconds=ms)).isoformat(timespec="milliseconds") + "Z"


def _boot_id() -> str:
    """The kernel's boot id; without one, every start counts as a new boot, which is the safe side."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(uuid.uuid4())

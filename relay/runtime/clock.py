"""The only module that reads a clock or draws a random number.

Decisions use monotonic time; wall time is for timestamps only. Both are integer milliseconds, because a
float difference `60 - (now - t0)` can stay 1e-15 s above zero and never reach it.
"""

from __future__ import annotations

import random
import time
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

_EPOCH = datetime(1970, 1, 1)
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""CLOCK_BOOTTIME where it exists: it also runs while the machine sleeps, as the upstream's rate window does."""


class Clock(Protocol):
    """Time and randomness, provided by the service or by a simulation."""

    @property
    def boot_id(self) -> str:
        """Return an id of the boot. Monotonic times of different boots cannot be compared."""

    def monotonic_ms(self) -> int: ...

    def wall_ms(self) -> int:
        """Return Unix time in milliseconds. It may jump, and may be wrong by decades."""

    def chance(self) -> float:
        """Return a random number, uniform in [0, 1)."""

    def new_event_id(self) -> str:
        """Return a UUID v4, lower case with hyphens."""


class SystemClock:
    """The clock and the random generator of this machine."""

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
    """Return CLOCK_MONOTONIC in microseconds.

    systemd compares this value with its own clock. It also measures steps shorter than a Clock's millisecond: the time
    of an event loop is too coarse for that (uvloop's has milliseconds, and does not advance within an iteration).
    """
    return time.monotonic_ns() // 1000


def thread_cpu_ns() -> int:
    """Return the CPU time of the calling thread in nanoseconds. Waiting does not count."""
    return time.thread_time_ns()


def rfc3339(wall_ms: int) -> str:
    """Return a time in UTC with milliseconds and `Z`: 2026-11-23T08:00:00.000Z. Years are clamped to 1..9999."""
    clamped = min(max(wall_ms, -62_135_596_800_000), 253_402_300_799_999)
    seconds, ms = divmod(clamped, 1000)
    return (_EPOCH + timedelta(seconds=seconds, milliseconds=ms)).isoformat(timespec="milliseconds") + "Z"


def _boot_id() -> str:
    """Return the kernel's boot id. Without it, each start counts as a new boot, which is safe."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(uuid.uuid4())

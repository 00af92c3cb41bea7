"""Virtual time: an event loop that never waits, and a clock that follows it.

When nothing is ready, the loop's time jumps to the next timer. An hour takes as long as what happens in it,
and the same seed takes the same steps.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")
DAY_MS = 86_400_000
START_MS = 1_795_420_800_000
"""True time when a simulation begins: 2026-11-23T08:00:00Z."""


class Deadlock(Exception):
    """Nothing is ready and no timer is set: everybody waits for somebody, for ever."""


class _JumpSelector(selectors.SelectSelector):
    """A selector whose waiting is a jump in time; nothing but the loop's own wake-up pipe is registered."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jump = _JumpSelector()
        super().__init__(self._jump)

        self.callback_error: BaseException | None = None
        """What a callback raised: it ends the run."""

    def time(self) -> float:
        return self._jump.now

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.callback_error = self.callback_error or context.get("exception")
        self.stop()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run, in virtual time."""
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            return runner.run(work)
        except RuntimeError:
            if loop.callback_error:
                raise loop.callback_error from None
            raise


class SimClock:
    """A box's clocks: monotonic time follows the loop from each boot on, wall time may be anything."""

    def __init__(self, rng: Random) -> None:
        self.boot_id = "boot-0"
        self.wall_offset_ms = START_MS
        self._rng = rng
        self._boots = 0
        self._booted_at_ms = -rng.randrange(10**9)

    def reboot(self) -> None:
        self._boots += 1
        self.boot_id = f"boot-{self._boots}"
        self._booted_at_ms = self.true_ms()

    def true_ms(self) -> int:
        """Time since the simulation began: what the upstream and the checks go by."""
        # a timer at 5 s may ring at 4.9999999999
        return int(asyncio.get_running_loop().time() * 1000 + 1e-4)

    def monotonic_ms(self) -> int:
        return self.true_ms() - self._booted_at_ms

    def wall_ms(self) -> int:
        return self.true_ms() + self.wall_offset_ms

    def chance(self) -> float:
        return self._rng.random()

    def new_event_id(self) -> str:
        return f"{self._rng.getrandbits(48):012x}"

"""Virtual time: an event loop that does not wait, and a clock that follows it.

If no callback is ready, the time of the loop jumps to the next timer. The same seed gives the same steps.
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
"""True time at the beginning of a simulation: 2026-11-23T08:00:00Z."""


class Deadlock(Exception):
    """No callback is ready and no timer is set, so the simulation would wait forever."""


class _JumpSelector(selectors.SelectSelector):
    """A selector that jumps in time instead of waiting. Only the wake-up pipe of the loop is registered."""

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
        """The exception of a callback, which ends the run."""

    def time(self) -> float:
        return self._jump.now

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.callback_error = self.callback_error or context.get("exception")
        self.stop()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as asyncio.run does, in virtual time."""
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            return runner.run(work)
        except RuntimeError:
            if loop.callback_error:
                raise loop.callback_error from None
            raise


class SimClock:
    """The clocks of a box. Monotonic time follows the loop from each boot on, and wall time is arbitrary."""

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
        """Return the time since the beginning of the simulation, which upstream and checks use."""
        # A timer at 5 s may expire at 4.9999999999 s.
        return int(asyncio.get_running_loop().time() * 1000 + 1e-4)

    def monotonic_ms(self) -> int:
        return self.true_ms() - self._booted_at_ms

    def wall_ms(self) -> int:
        return self.true_ms() + self.wall_offset_ms

    def chance(self) -> float:
        return self._rng.random()

    def new_event_id(self) -> str:
        return f"{self._rng.getrandbits(48):012x}"

"""The outbox's own clock. It measures the age of events, so that no jump of the wall clock drops an
event.

Rule: outbox time follows monotonic time while the relay runs. A restart in the same boot adds the
difference of the monotonic clock. A restart in another boot adds the difference of the wall clock
if both its readings are plausible, and nothing otherwise: an event may live too long, but never too
short.
"""

from __future__ import annotations

from typing import NamedTuple

from relay.policy.true_time import EARLIEST_MS
from relay.runtime.clock import Clock

_LONGEST_OFF_MS = 30 * 86_400_000


class Anchor(NamedTuple):
    """Simultaneous readings of the three clocks, as stored on disk."""

    outbox_ms: int
    monotonic_ms: int
    wall_ms: int
    boot_id: str


class Boot(NamedTuple):
    """One boot of the machine."""

    number: int
    from_ms: int
    """Outbox time when the boot began."""


class OutboxTime:
    """Outbox time in this process. It continues from the last process's."""

    def __init__(self, clock: Clock, last: Anchor | None, not_before_ms: int = 0) -> None:
        """Continue from `last`; `not_before_ms` is the time of the newest event, which may be later."""
        self._clock = clock
        self._ahead_ms = _resumed(clock, last, not_before_ms) - clock.monotonic_ms()

    def wall_ms(self) -> int:
        """Return Unix time by the wall clock."""
        return self._clock.wall_ms()

    def now_ms(self) -> int:
        return self._clock.monotonic_ms() + self._ahead_ms

    def anchor(self) -> Anchor:
        clock = self._clock
        return Anchor(self.now_ms(), clock.monotonic_ms(), clock.wall_ms(), clock.boot_id)


def _resumed(clock: Clock, last: Anchor | None, not_before_ms: int) -> int:
    if last is None:
        return not_before_ms
    ran_on = max(0, not_before_ms - last.outbox_ms)
    elapsed_ms = clock.monotonic_ms() - last.monotonic_ms
    if last.boot_id == clock.boot_id and elapsed_ms >= 0:
        return max(last.outbox_ms + elapsed_ms, not_before_ms)
    was_ms, is_ms = last.wall_ms + ran_on, clock.wall_ms()
    if was_ms >= EARLIEST_MS and 0 <= is_ms - was_ms < _LONGEST_OFF_MS:
        return last.outbox_ms + ran_on + is_ms - was_ms
    return last.outbox_ms + ran_on

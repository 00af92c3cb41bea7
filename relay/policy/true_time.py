"""What time it really is, by the upstream's Date headers: the box's own clock may be decades off.

An answer's Date says what the upstream's clock showed at some moment between the request's first byte
and the answer's last: an interval for the difference between true and monotonic time. What several
answers say is what their intervals have in common (K. Marzullo and S. Owicki, "Maintaining the Time in
a Distributed System", 1983).

Rules: only monotonic time is reckoned with, so nothing here outlives a boot. A response that contradicts the others, or
a plausible wall clock, changes nothing until a second response confirms it: the clock of an upstream may be wrong, too.
"""

from __future__ import annotations

from typing import NamedTuple

EARLIEST_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z: a clock that shows less was never set. TV boxes without a battery wake up in 1970
or at their firmware's build date."""
WRONG_FROM_MS = 30_000
"""A clock that is off by more is wrong. Less may be a slow answer (`upstream.timeout`) or a slow disk."""
_DATE_STEP_MS = 1_000


class _Ahead(NamedTuple):
    """Bounds of true time minus monotonic time."""

    least: int
    most: int

    def common(self, other: _Ahead) -> _Ahead | None:
        least, most = max(self.least, other.least), min(self.most, other.most)
        return _Ahead(least, most) if least <= most else None


class TrueTime:
    """Unix time in milliseconds, from monotonic milliseconds; unknown until an answer with a Date came."""

    def __init__(self) -> None:
        self._ahead: _Ahead | None = None
        self._doubt: _Ahead | None = None  # contradicts `_ahead`

    def heard(self, date_ms: int, sent_at: int, came_at: int, wall_ms: int) -> None:
        """Learn from a response's Date. `sent_at`, `came_at`: when its request began and ended, monotonic
        milliseconds; `wall_ms`: this machine's Unix time at the end."""
        if date_ms < EARLIEST_MS:
            return
        said = _Ahead(date_ms - came_at, date_ms + _DATE_STEP_MS - sent_at)
        common = said.common(self._ahead) if self._ahead else self._unless_doubtful(said, wall_ms, came_at)
        if common is None:
            common = said.common(self._doubt) if self._doubt else None
            if common is None:
                self._doubt = said
                return
        self._ahead, self._doubt = common, None

    def _unless_doubtful(self, said: _Ahead, wall_ms: int, came_at: int) -> _Ahead | None:
        """Return what the first response says; of two in a row that contradict a plausible wall clock, the second's."""
        agrees = said.least - WRONG_FROM_MS <= wall_ms - came_at <= said.most + WRONG_FROM_MS
        return said if agrees or wall_ms < EARLIEST_MS else None

    def now_ms(self, now: int) -> int | None:
        """The time at `now`; None: unknown."""
        return None if self._ahead is None else now + (self._ahead.least + self._ahead.most) // 2

    def stamp_ms(self, now: int, wall_ms: int) -> int:
        """What to write on an event that came at `now`: the wall clock's time, unless it is known to be wrong."""
        true_ms = self.now_ms(now)
        return wall_ms if true_ms is None or abs(wall_ms - true_ms) <= WRONG_FROM_MS else true_ms

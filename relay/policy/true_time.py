"""The true time from the Date headers of the upstreams, because the clock of a box may be wrong by decades.

The Date of a response is the time of the upstream's clock at a moment between the first byte of the request and the
last byte of the response. So it bounds the difference between true and monotonic time. Several responses give the
intersection of their bounds (K. Marzullo and S. Owicki, "Maintaining the Time in a Distributed System", 1983).

Rules:
- Calculations use monotonic time only, so the results are valid until the next boot.
- A response that contradicts earlier responses or a plausible wall clock is ignored until a second response confirms
  it, because the clock of an upstream may be wrong, too.
- Each upstream origin has its own time, so a wrong Date of one origin changes no event of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

EARLIEST_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z. A clock before this time was never set: TV boxes without a battery start in 1970 or at the
build date of their firmware."""
WRONG_FROM_MS = 30_000
"""A clock with a larger error is wrong. A smaller one may be a slow response (`upstream.timeout`) or a slow disk."""
_DATE_STEP_MS = 1_000


class OffsetBounds(NamedTuple):
    """Bounds of true time minus monotonic time, in milliseconds."""

    least: int
    most: int

    @property
    def middle(self) -> int:
        return (self.least + self.most) // 2

    def intersection(self, other: OffsetBounds) -> OffsetBounds | None:
        least, most = max(self.least, other.least), min(self.most, other.most)
        return OffsetBounds(least, most) if least <= most else None


class TrueTime:
    """Unix time in milliseconds by one upstream origin, from monotonic milliseconds; unknown before a Date."""

    def __init__(self, bounds: OffsetBounds | None = None) -> None:
        """Create the time of an origin. `bounds`: learned by an earlier process of this boot."""
        self.bounds = bounds
        self._unconfirmed: OffsetBounds | None = None  # The latest response; it contradicts `bounds`.

    def learn(self, date_ms: int, sent_at: int, received_at: int, wall_ms: int) -> None:
        """Learn from the Date of a response.

        `sent_at`, `received_at`: beginning and end of its request, monotonic milliseconds; `wall_ms`: Unix time of this
        machine at the end.
        """
        if date_ms < EARLIEST_MS:
            return
        interval = OffsetBounds(date_ms - received_at, date_ms + _DATE_STEP_MS - sent_at)
        intersection = (
            interval.intersection(self.bounds) if self.bounds else self._first_estimate(interval, wall_ms, received_at)
        )
        if intersection is None:
            intersection = interval.intersection(self._unconfirmed) if self._unconfirmed else None
            if intersection is None:
                self._unconfirmed = interval
                return
        self.bounds, self._unconfirmed = intersection, None

    def _first_estimate(self, interval: OffsetBounds, wall_ms: int, received_at: int) -> OffsetBounds | None:
        """Return the bounds of the first response; None if they contradict a plausible wall clock."""
        agrees = interval.least - WRONG_FROM_MS <= wall_ms - received_at <= interval.most + WRONG_FROM_MS
        return interval if agrees or wall_ms < EARLIEST_MS else None

    def now_ms(self, now: int) -> int | None:
        """Return the Unix time at `now`; None while it is unknown."""
        return None if self.bounds is None else now + self.bounds.middle


class TrueTimes:
    """The true time of each configured upstream origin."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._by_origin: dict[str, TrueTime] = {}
        self._any: int | None = None
        self._agreed: int | None = None
        self.configure(origins)

    def configure(self, origins: Iterable[str]) -> None:
        """Set the origins, the default one first. Known times of these origins remain, all others are removed."""
        self._by_origin = {origin: self._by_origin.get(origin) or TrueTime() for origin in origins}
        self._compare()

    def restore(self, known: Mapping[str, OffsetBounds]) -> None:
        """Restore the bounds that an earlier process of this boot learned. Other origins are ignored."""
        for origin in self._by_origin.keys() & known.keys():
            self._by_origin[origin] = TrueTime(known[origin])
        self._compare()

    def learn(self, origin: str, date_ms: int, sent_at: int, received_at: int, wall_ms: int) -> None:
        """Learn from a response of `origin`, see TrueTime. Ignore an origin that is not configured."""
        true_time = self._by_origin.get(origin)
        if true_time is not None:
            true_time.learn(date_ms, sent_at, received_at, wall_ms)
            self._compare()

    def known(self) -> dict[str, OffsetBounds]:
        """Return the learned bounds by origin."""
        return {origin: one.bounds for origin, one in self._by_origin.items() if one.bounds is not None}

    def now_ms(self, origin: str, now: int) -> int | None:
        """Return the Unix time at `now` by `origin`; None while it is unknown."""
        true_time = self._by_origin.get(origin)
        return None if true_time is None else true_time.now_ms(now)

    def timestamp_ms(self, now: int, wall_ms: int) -> int:
        """Return the timestamp of an event received at `now`, before its upstream origin is known.

        The timestamp is the time of the wall clock, unless all origins agree that this clock is wrong. If the clock was
        never set, one origin is enough.
        """
        offset_ms = self._any if wall_ms < EARLIEST_MS else self._agreed
        if offset_ms is None or abs(wall_ms - now - offset_ms) <= WRONG_FROM_MS:
            return wall_ms
        return now + offset_ms

    def skew_ms(self, now: int, wall_ms: int) -> int | None:
        """Return how far the wall clock is ahead of the true time; None while that is unknown.

        The origin closest to the wall clock counts, because two clocks that agree are rarely both wrong.
        """
        skews = [wall_ms - now - bounds.middle for bounds in self.known().values()]
        return min(skews, key=abs, default=None)

    def _compare(self) -> None:
        middles = [bounds.middle for bounds in self.known().values()]
        self._any = middles[0] if middles else None
        is_complete = bool(middles) and len(middles) == len(self._by_origin)
        agree = is_complete and max(middles) - min(middles) <= WRONG_FROM_MS
        self._agreed = self._any if agree else None

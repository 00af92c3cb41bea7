"""The rate window of one device: at most `limit` requests in any window, as the upstream counts them (G5).

A request occupies a rate slot until one window after its *response*. The upstream receives the request before it
responds. So it never counts more than `limit` requests, regardless of network delays and of the kind of its window
(fixed, calendar or sliding). Rejected and failed requests occupy a rate slot, too, except those of which
nothing left this machine.

The first half of the rate slots may be used in a burst. From then on requests are spaced evenly over the window, so
that a device at its limit does not send a burst and then nothing for the rest of the window.
"""

from __future__ import annotations

import struct
from array import array

_BASE = struct.Struct("<q")
_MIN_SPACED_LIMIT = 10  # With fewer rate slots, the spacing would delay single requests for a large part of the window.


def is_free(packed: bytes, now: int, span_ms: int) -> bool:
    """Return whether every rate slot of a window that `Window.pack` returned in this boot is free."""
    # The last response is not later than the call of `pack`. A window without responses is shorter than the time.
    return len(packed) < _BASE.size or _BASE.unpack_from(packed)[0] + span_ms < now


class Window:
    """The times of the latest responses, in monotonic milliseconds."""

    __slots__ = ("_earlier", "_responded_at", "_sent_at", "owed")

    def __init__(self) -> None:
        self._earlier: tuple[int, int] | None = None  # Time and number of simultaneous responses before all others.
        self._responded_at = array("q")
        self._sent_at = 0
        self.owed = 0
        """Rate slots reserved for requests of another relay that may still reach the upstream."""

    def sent(self, now: int) -> None:
        """Record a request at `now`."""
        self._sent_at = now

    def responded(self, now: int) -> None:
        """Record a response, or the end of waiting for it, at `now`."""
        self._responded_at.append(now)

    def owe(self, requests: int, now: int) -> None:
        """Set the number of reserved rate slots. A request that is over counts as answered now."""
        for _ in range(self.owed - requests):
            self.responded(now)
        self.owed = requests

    def count(self, now: int, span_ms: int) -> int:
        """Return the number of occupied and reserved rate slots."""
        return self._occupied(now, span_ms) + self.owed

    def _occupied(self, now: int, span_ms: int) -> int:
        self._prune(now, span_ms)
        return len(self._responded_at) if self._earlier is None else self._earlier[1] + len(self._responded_at)

    def free_at(self, now: int, limit: int, span_ms: int) -> int:
        """Return the earliest time for the next request; `now` or earlier if a rate slot is free."""
        limit -= self.owed
        if self._earlier is None and 2 * len(self._responded_at) < limit:
            return now
        if limit <= 0:
            return now + span_ms
        occupied = self._occupied(now, span_ms)
        if occupied >= limit:
            return self._nth_last(limit) + span_ms + 1
        if limit < _MIN_SPACED_LIMIT or 2 * occupied < limit:
            return now
        # The free rate slots must last until the next one becomes free.
        until_next_ms = self._nth_last(occupied) + span_ms + 1 - self._sent_at
        return max(now, self._sent_at + max(span_ms // limit, until_next_ms // (limit - occupied + 1)))

    def pack(self, now: int, span_ms: int) -> bytes:
        """Return the state for storage: at most 8 + 4 * limit bytes, b"" if every rate slot is free."""
        if not self._occupied(now, span_ms):
            return b""
        at, number = self._earlier or (now, 0)
        ages = array("I", [max(0, now - at)] * number + [max(0, now - at) for at in self._responded_at])
        return _BASE.pack(now) + ages.tobytes()

    @classmethod
    def unpack(cls, packed: bytes, now: int, limit: int, shift_ms: int | None) -> Window:
        """Restore a stored state, and add `shift_ms` to its times.

        None: its times are those of another clock and cannot be compared with `now`, so the window counts as full.
        """
        window = cls()
        if not packed:
            return window
        if shift_ms is None:
            window._earlier = (now, limit)
            return window
        (base,) = _BASE.unpack_from(packed)
        ages = array("I")
        ages.frombytes(packed[_BASE.size :])
        window._responded_at = array("q", sorted(min(now, base + shift_ms - age) for age in ages))
        return window

    def _prune(self, now: int, span_ms: int) -> None:
        """Remove responses whose rate slot is free. One millisecond is added because both times were rounded down."""
        if self._earlier is not None and self._earlier[0] + span_ms < now:
            self._earlier = None
        responded = self._responded_at
        freed = 0
        for at in responded:
            if at + span_ms >= now:
                break
            freed += 1
        if freed:
            del responded[:freed]

    def _nth_last(self, n: int) -> int:
        """Return the time of the n-th last response."""
        if n <= len(self._responded_at):
            return self._responded_at[-n]
        assert self._earlier is not None
        return self._earlier[0]

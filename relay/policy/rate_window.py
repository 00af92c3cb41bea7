"""At most `limit` sends in any window, as the upstream sees them: one device's share of G5.

A slot is taken when a request is sent and is free again one window after its *answer* came. The
upstream saw the request at some moment before the answer, so whatever the network delays, and
however it counts its minute (fixed, calendar, sliding), it never sees one request too many.
Refused and failed requests take a slot like any other.
"""

from __future__ import annotations

import struct
from array import array

_BASE = struct.Struct("<q")


class Window:
    """When the last requests were answered; times are monotonic milliseconds."""

    __slots__ = ("_responded_at",)

    def __init__(self) -> None:
        self._responded_at = array("q")

    def responded(self, now: int) -> None:
        """One request's answer came, or was given up on, at `now`."""
        self._responded_at.append(now)

    def count(self, now: int, span_ms: int) -> int:
        """Slots not yet free again."""
        self._prune(now, span_ms)
        return len(self._responded_at)

    def free_at(self, now: int, limit: int, span_ms: int) -> int:
        """When the next send is within the limit: a time not after `now` if it is now."""
        responded = self._responded_at
        if len(responded) < limit:
            return now
        self._prune(now, span_ms)
        if len(responded) < limit:
            return now
        return responded[-limit] + span_ms + 1

    def pack(self, now: int, span_ms: int) -> bytes:
        """The state for the disk, b"" if all slots are free; at most 8 + 4 * limit bytes."""
        self._prune(now, span_ms)
        if not self._responded_at:
            return b""
        ages = array("I", [max(0, now - at) for at in self._responded_at])
        return _BASE.pack(now) + ages.tobytes()

    @classmethod
    def unpack(cls, packed: bytes, now: int, limit: int, *, same_boot: bool) -> Window:
        """The state as a restart finds it.

        Monotonic times of another boot mean nothing today: then the window is taken as full.
        """
        window = cls()
        if not packed:
            return window
        if not same_boot:
            window._responded_at.extend([now] * limit)
            return window
        (base,) = _BASE.unpack_from(packed)
        ages = array("I")
        ages.frombytes(packed[_BASE.size :])
        window._responded_at.extend(sorted(min(now, base - age) for age in ages))
        return window

    def _prune(self, now: int, span_ms: int) -> None:
        """Forget answers whose slot is free. One more millisecond: both readings were rounded down."""
        responded = self._responded_at
        freed = 0
        for at in responded:
            if at + span_ms >= now:
                break
            freed += 1
        if freed:
            del responded[:freed]

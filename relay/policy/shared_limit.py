"""A ceiling the relay was not told of: found by its 429s, obeyed, and left again.

The upstream's per-IP limit, or a second relay behind the same NAT, shows only as 429s to devices
that are below their own limit. Then the whole route is paced:

- It starts at `rate.ip_per_window` requests per window, evenly spread.
- A window that used its pace and saw no 429 is clean: the pace goes up one step. A step that is
  refused is taken back and tried again only after twice as many windows (4, 8, ... 64), so a steady
  ceiling costs at most one 429 in eighty requests.
- A 429 at a pace that had been clean means that somebody else draws on the ceiling: halve.
  If others were served around it, it may be that one device's own: take back one step only.
- One reduction per round trip: 429s to requests sent before the last change say nothing new.
- After 32 clean windows that had no use for the pace, or once it is beyond use, it is forgotten.
"""

from __future__ import annotations

from array import array

MIN_RATE = 1 / 5  # of a request per window: no rarer than the probes of a route in trouble
MAX_RATE = 1024
_FIRST_WINDOWS_BEFORE_STEP = 4
_MAX_WINDOWS_BEFORE_STEP = 64
_FORGET_AFTER = 32


class RequestHistory:
    """When a route's latest requests were answered, kept before any ceiling is known."""

    __slots__ = ("_responded_at",)

    def __init__(self) -> None:
        self._responded_at = array("q")

    def responded(self, now: int) -> None:
        self._responded_at.append(now)
        if len(self._responded_at) > 2 * MAX_RATE:
            del self._responded_at[:MAX_RATE]

    def free_at(self, now: int, limit: int, span_ms: int) -> int:
        """When at most `limit` requests are in the window that ends then, the next one included."""
        if len(self._responded_at) < limit:
            return now
        return self._responded_at[-limit] + span_ms + 1

    def since(self, at: int) -> int:
        """How many of the kept requests were answered after `at`."""
        count = 0
        for responded in reversed(self._responded_at):
            if responded <= at:
                break
            count += 1
        return count


class SharedLimit:
    """The pace of one route, in requests per window."""

    __slots__ = (
        "_changed_at",
        "_idle_windows",
        "_proven_rate",
        "_wait_windows",
        "_window_from",
        "_windows_before_step",
        "rate",
    )

    def __init__(self, now: int, rate: float) -> None:
        self.rate = rate
        self._proven_rate = 0.0  # the highest pace that a whole used window bore
        self._windows_before_step = _FIRST_WINDOWS_BEFORE_STEP
        self._wait_windows = 0
        self._idle_windows = 0
        self._changed_at = now
        self._window_from = now

    def limit(self) -> int:
        """Whole requests in any window."""
        return max(1, int(self.rate))

    def gap_ms(self, span_ms: int) -> int:
        """Between two sends."""
        return int(span_ms / self.rate)

    def reduce(self, sent_at: int, now: int) -> None:
        """A 429 came to a request sent at `sent_at`."""
        if sent_at < self._changed_at:
            return
        if not self._undo_step():
            self.rate = max(MIN_RATE, self.rate / 2)
            self._proven_rate = 0.0
            self._wait_windows = 0
        self._changed_at = self._window_from = now
        self._idle_windows = 0

    def reduce_one_step(self, sent_at: int, now: int) -> None:
        """A 429 came to one device while others were served: this ceiling's, or that device's own."""
        if sent_at < self._changed_at:
            return
        if not self._undo_step():
            self.rate = max(min(self.rate, 1), self.rate - self._step())
            self._proven_rate = min(self._proven_rate, self.rate)
        self._changed_at = self._window_from = now

    def tick(self, now: int, span_ms: int, history: RequestHistory) -> bool:
        """Count a window that is over; True if the ceiling is to be forgotten."""
        # a pace below one a window is judged over as many windows as one request takes
        span = span_ms if self.rate >= 1 else int(span_ms / self.rate)
        if now - self._window_from < span:
            return False
        used = history.since(self._window_from) >= int(self.rate * 0.9)
        self._window_from = now
        if not used:
            self._idle_windows += 1
            return self._idle_windows >= _FORGET_AFTER
        self._idle_windows = 0
        self._proven_rate = max(self._proven_rate, self.rate)
        if self._wait_windows > 0:
            self._wait_windows -= 1
            return False
        self.rate += self._step()
        self._changed_at = now
        return self.rate > MAX_RATE

    def _step(self) -> float:
        return self.rate if self.rate < 1 else max(1, self.rate // 8)

    def _undo_step(self) -> bool:
        """Back to the pace that was clean, if this one is above it, and patient before the next step."""
        if not self._proven_rate or self.rate <= self._proven_rate:
            return False
        self.rate = self._proven_rate
        self._wait_windows = self._windows_before_step
        self._windows_before_step = min(2 * self._windows_before_step, _MAX_WINDOWS_BEFORE_STEP)
        return True

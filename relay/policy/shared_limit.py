"""A shared limit: an unknown limit of several devices, learned from 429 responses.

The limit of the upstream per IP address, or a second relay behind the same NAT, is visible only as 429 responses to
devices below their own limit. After such a response, the rate of the whole endpoint is limited:

- The first rate is `rate.ip_per_window` requests per window, evenly spread.
- A window that used the rate and had no 429 is clean and raises the rate by one step. A 429 undoes the step. The next
  step follows after twice as many windows (4, 8, ... 64), so a steady limit causes at most one 429 in eighty requests.
- A 429 at a rate that was clean before means that another client uses the same limit. It halves the rate. If other
  devices succeed at the same time, the reason may be the limit of that device, and the rate is reduced by one step.
- The rate is reduced once per round trip. A 429 to a request sent before the latest change contains no news.
- The limit is removed after 32 windows that did not use the rate, or when the rate exceeds every useful value.
"""

from __future__ import annotations

from array import array

MIN_RATE = 1 / 5  # Requests per window: as many as the probes of a failing endpoint.
MAX_RATE = 1024
_FIRST_WINDOWS_BEFORE_STEP = 4
_MAX_WINDOWS_BEFORE_STEP = 64
_FORGET_AFTER = 32


class RequestHistory:
    """The times of the latest responses of an endpoint, recorded before a shared limit is known."""

    __slots__ = ("_responded_at",)

    def __init__(self) -> None:
        self._responded_at = array("q")

    def responded(self, now: int) -> None:
        self._responded_at.append(now)
        if len(self._responded_at) > 2 * MAX_RATE:
            del self._responded_at[:MAX_RATE]

    def free_at(self, now: int, limit: int, span_ms: int) -> int:
        """Return the earliest time at which the next request is one of at most `limit` requests in a window."""
        if len(self._responded_at) < limit:
            return now
        return self._responded_at[-limit] + span_ms + 1

    def since(self, at: int) -> int:
        """Return the number of recorded responses after `at`."""
        count = 0
        for responded in reversed(self._responded_at):
            if responded <= at:
                break
            count += 1
        return count


class SharedLimit:
    """The limited rate of one endpoint, in requests per window."""

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
        self._proven_rate = 0.0  # The highest rate of a clean window.
        self._windows_before_step = _FIRST_WINDOWS_BEFORE_STEP
        self._wait_windows = 0
        self._idle_windows = 0
        self._changed_at = now
        self._window_from = now

    def limit(self) -> int:
        """Return the number of requests in any window."""
        return max(1, int(self.rate))

    def gap_ms(self, span_ms: int) -> int:
        """Return the delay between two requests in milliseconds."""
        return int(span_ms / self.rate)

    def reduce(self, sent_at: int, now: int) -> None:
        """Reduce the rate after a 429 to a request sent at `sent_at`."""
        if sent_at < self._changed_at:
            return
        if not self._undo_step():
            self.rate = max(MIN_RATE, self.rate / 2)
            self._proven_rate = 0.0
            self._wait_windows = 0
        self._changed_at = self._window_from = now
        self._idle_windows = 0

    def reduce_one_step(self, sent_at: int, now: int) -> None:
        """Reduce the rate by one step after a 429 that may be about the limit of one device."""
        if sent_at < self._changed_at:
            return
        if not self._undo_step():
            self.rate = max(min(self.rate, 1), self.rate - self._step())
            self._proven_rate = min(self._proven_rate, self.rate)
        self._changed_at = self._window_from = now

    def tick(self, now: int, span_ms: int, history: RequestHistory) -> bool:
        """Evaluate a window that is over. Return whether the limit has become unnecessary."""
        # A rate below one request per window is evaluated over the time of one request.
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
        """Return to the highest clean rate if the rate is above it, and delay the next step. Return whether it was."""
        if not self._proven_rate or self.rate <= self._proven_rate:
            return False
        self.rate = self._proven_rate
        self._wait_windows = self._windows_before_step
        self._windows_before_step = min(2 * self._windows_before_step, _MAX_WINDOWS_BEFORE_STEP)
        return True

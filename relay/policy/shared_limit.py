"""The request rate of an upstream: free, or limited by a limit of several devices that 429 responses reveal.

The limit of the upstream per IP address, or a second relay behind the same NAT, is visible only as 429 responses to
devices below their own limit. After such a response, the requests of all devices together are limited:

- The first rate is `rate.ip_per_window` requests per window, evenly spread.
- A window that used the rate and had no 429 is clean and raises the rate by one step. A 429 undoes the step. The next
  step follows after twice as many windows (4, 8, 16), so a steady limit causes at most one 429 in eighty requests, and
  a limit that is lifted is left within the hour.
- A 429 at a rate that was clean before means that another client uses the same limit. It halves the rate. If other
  devices succeed at the same time, the reason may be the limit of that device, and the rate is reduced by one step.
- The rate is reduced once per round trip. A 429 to a request sent before the latest change contains no news.
- The rate is free again after 32 windows that did not use it, or when it exceeds every useful value.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Final, TypeAlias

from relay.policy.pause import NO_PAUSE, Pause

MIN_RATE = 1 / 5  # Requests per window: as many as the probes of a failing endpoint.
MAX_RATE = 1024
_FIRST_WINDOWS_BEFORE_STEP = 4
_MAX_WINDOWS_BEFORE_STEP = 16
_FORGET_AFTER = 32


class RequestHistory:
    """The times of the latest responses, recorded before a shared limit is known."""

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
        return len(self._responded_at) - bisect_right(self._responded_at, at)


class Free:
    """No limit is known."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Free()"

    def limited(self, sent_at: int, now: int, initial_rate: float) -> Limited:
        return Limited(now, initial_rate)

    def limited_one_device(self, sent_at: int, now: int) -> Free:
        return self

    def tick(self, now: int, span_ms: int, history: RequestHistory) -> Free:
        return self


class Limited:
    """At most `rate` requests per window."""

    __slots__ = (
        "_changed_at",
        "_idle_windows",
        "_proven_rate",
        "_wait_windows",
        "_window_from",
        "_windows_before_step",
        "limit",
        "rate",
    )

    def __init__(self, now: int, rate: float) -> None:
        self._set_rate(rate)
        self._proven_rate = 0.0  # The highest rate of a clean window.
        self._windows_before_step = _FIRST_WINDOWS_BEFORE_STEP
        self._wait_windows = 0
        self._idle_windows = 0
        self._changed_at = now
        self._window_from = now
        self._check()

    def __repr__(self) -> str:
        return f"Limited(rate={self.rate}, proven_rate={self._proven_rate}, wait_windows={self._wait_windows})"

    def _check(self) -> None:
        assert self.rate >= MIN_RATE, self
        assert 0 <= self._proven_rate <= self.rate, self
        assert 0 <= self._wait_windows <= _MAX_WINDOWS_BEFORE_STEP, self
        assert self._window_from >= self._changed_at, self

    def gap_ms(self, span_ms: int) -> int:
        """Return the delay between two requests in milliseconds."""
        return int(span_ms / self.rate)

    def limited(self, sent_at: int, now: int, initial_rate: float) -> Limited:
        """Reduce the rate after a 429 to a request sent at `sent_at`."""
        if sent_at < self._changed_at:
            return self
        self._check()
        if not self._undo_step():
            self._set_rate(max(MIN_RATE, self.rate / 2))
            self._proven_rate = 0.0
            self._wait_windows = 0
        self._changed_at = self._window_from = now
        self._idle_windows = 0
        self._check()
        return self

    def limited_one_device(self, sent_at: int, now: int) -> Limited:
        """Reduce the rate by one step after a 429 that may be about the limit of one device."""
        if sent_at < self._changed_at:
            return self
        self._check()
        if not self._undo_step():
            self._set_rate(max(min(self.rate, 1), self.rate - self._step()))
            self._proven_rate = min(self._proven_rate, self.rate)
        self._changed_at = self._window_from = now
        self._check()
        return self

    def tick(self, now: int, span_ms: int, history: RequestHistory) -> LimitState:
        """Evaluate a window that is over. The rate is free if the limit has become unnecessary."""
        # A rate below one request per window is evaluated over the time of one request.
        span = span_ms if self.rate >= 1 else int(span_ms / self.rate)
        if now - self._window_from < span:
            return self
        self._check()
        used = history.since(self._window_from) >= int(self.rate * 0.9)
        self._window_from = now
        if not used:
            self._idle_windows += 1
            return FREE if self._idle_windows >= _FORGET_AFTER else self
        self._idle_windows = 0
        self._proven_rate = max(self._proven_rate, self.rate)
        if self._wait_windows > 0:
            self._wait_windows -= 1
            return self
        self._set_rate(self.rate + self._step())
        self._changed_at = now
        self._check()
        return FREE if self.rate > MAX_RATE else self

    def _set_rate(self, rate: float) -> None:
        self.rate = rate
        self.limit = max(1, int(rate))  # The number of requests in any window.

    def _step(self) -> float:
        return self.rate if self.rate < 1 else max(1, self.rate // 8)

    def _undo_step(self) -> bool:
        """Return to the highest clean rate if the rate is above it, and delay the next step. Return whether it was."""
        if not self._proven_rate or self.rate <= self._proven_rate:
            return False
        self._set_rate(self._proven_rate)
        self._wait_windows = self._windows_before_step
        self._windows_before_step = min(2 * self._windows_before_step, _MAX_WINDOWS_BEFORE_STEP)
        return True


LimitState: TypeAlias = Free | Limited
FREE: Final = Free()


class SharedLimit:
    """The limit of all requests to one upstream. Times are monotonic milliseconds."""

    __slots__ = ("_attempt", "_history", "_limited_at", "_sent_at", "pause", "since", "state")

    def __init__(self, now: int) -> None:
        self.state: LimitState = FREE
        self.since = now  # Beginning of the latest limited or free time.
        self.pause = NO_PAUSE  # After a 429; a success or another failure does not end it.
        self._history = RequestHistory()
        self._sent_at = 0
        self._attempt = 0  # Consecutive 429s, at most one counted per round trip.
        self._limited_at = 0

    def __repr__(self) -> str:
        return f"SharedLimit({self.state}, {self.pause})"

    @property
    def is_limited(self) -> bool:
        return self.state is not FREE

    @property
    def limit(self) -> int | None:
        """The number of requests in any window; None while the rate is free."""
        return None if isinstance(self.state, Free) else self.state.limit

    def has_room(self, in_flight: int) -> bool:
        """Return whether one more request may be in flight. One that hangs may still count at the upstream."""
        return isinstance(self.state, Free) or in_flight < self.state.limit

    def free_at(self, now: int, in_flight: int, span_ms: int) -> int:
        """Return the earliest time of the next request. `span_ms`: length of the rate window."""
        state = self.state
        if isinstance(state, Free):
            return self.pause.until
        limit = state.limit
        return max(
            self.pause.until,
            self._sent_at + state.gap_ms(span_ms),
            self._history.free_at(now, limit - min(in_flight, limit - 1), span_ms),
        )

    def sent(self, now: int) -> None:
        """Record that a request is sent."""
        self._sent_at = now

    def responded(self, now: int) -> None:
        """Record a response, or the end of waiting for it."""
        self._history.responded(now)

    def responses_since(self, at: int) -> int:
        """Return the number of responses after `at`."""
        return self._history.since(at)

    def succeeded(self) -> None:
        """Reset the backoff after a success."""
        self._attempt = 0

    def limited(self, sent_at: int, now: int, initial_rate: float) -> int:
        """Record a 429 of a shared limit. Return the number of consecutive ones before it.

        A 429 to a request sent before the latest counted 429 contains no news and does not count.
        """
        # A request sent in the same millisecond may precede the latest 429.
        if not self.is_limited or sent_at > self._limited_at:
            self._become(self.state.limited(sent_at, now, initial_rate), now)
        attempt = self._attempt
        if sent_at >= self._limited_at:
            self._attempt += 1
            self._limited_at = now
        return attempt

    def limited_one_device(self, sent_at: int, now: int) -> None:
        """Record a 429 to one device below its own limit while other devices succeed."""
        self._become(self.state.limited_one_device(sent_at, now), now)

    def tick(self, now: int, span_ms: int) -> bool:
        """Evaluate a window that is over. Return whether the limit ended."""
        if self.state is FREE:
            return False
        self._become(self.state.tick(now, span_ms, self._history), now)
        return self.state is FREE

    def start_pause(self, pause: Pause) -> None:
        """Pause all requests after a 429, and not shorter than requested before."""
        self.pause = self.pause.extended(pause)

    def end_pause(self) -> None:
        """End the pause, except the part that a server requested."""
        self.pause = self.pause.ended()

    def _become(self, state: LimitState, now: int) -> None:
        """Change the state. This is the only transition."""
        if state is not self.state:
            assert isinstance(state, Free) is not isinstance(self.state, Free), f"{self} cannot become {state}"
            self.state, self.since = state, now

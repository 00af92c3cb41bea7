"""Delays after a failure. No other module contains a formula for them."""

from __future__ import annotations

PROBE_INITIAL_MS = 30_000
PROBE_MAX_MS = 300_000
ISOLATION_MS = 60_000
REQUESTED_DELAY_MAX_MS = 3_600_000
_SPREAD_MIN_MS = 2_000


def full_jitter(attempt: int, initial_ms: int, max_ms: int, u: float) -> int:
    """Return the delay in milliseconds before retry `attempt`, counted from 0.

    The delay is uniform in [0, min(max_ms, initial_ms * 2^attempt)]. Of the usual jitters, full jitter causes the
    least total work when many clients recover together: Marc Brooker, "Exponential Backoff And Jitter" (AWS
    Architecture Blog, 2015).
    """
    return int(u * min(max_ms, initial_ms << min(attempt, 32)))


def probe_delay(attempt: int, u: float) -> int:
    """Return the delay in milliseconds between probes of an endpoint that needs a person (401, 404).

    It doubles from 30 s to 5 min, plus the random addition.
    """
    return _spread(min(PROBE_MAX_MS, PROBE_INITIAL_MS << min(attempt, 16)), u)


def isolation_delay(u: float) -> int:
    """Return the delay in milliseconds between attempts of an event that fails alone: 60 s, plus or minus 10 %."""
    return ISOLATION_MS * 9 // 10 + int(u * ISOLATION_MS / 5)


def requested_delay(retry_after_ms: int | None, u: float) -> int:
    """Return the delay in milliseconds that a server requested, at most one hour, plus the random addition."""
    return _spread(min(retry_after_ms, REQUESTED_DELAY_MAX_MS), u) if retry_after_ms else 0


def _spread(delay_ms: int, u: float) -> int:
    """Return a longer delay, by up to a tenth and at least 2 s, so that a fleet does not return at one instant."""
    return delay_ms + int(u * max(_SPREAD_MIN_MS, delay_ms // 10))

"""Delays after a failure. No other module contains a formula for them."""

from __future__ import annotations

PROBE_INITIAL_MS = 30_000
PROBE_MAX_MS = 300_000
REQUESTED_DELAY_MAX_MS = 3_600_000


def full_jitter(attempt: int, initial_ms: int, max_ms: int, u: float) -> int:
    """Return the delay in milliseconds before retry `attempt`, counted from 0.

    The delay is uniform in [0, min(max_ms, initial_ms * 2^attempt)]. Of the usual jitters, full jitter causes the
    least total work when many clients recover together: Marc Brooker, "Exponential Backoff And Jitter" (AWS
    Architecture Blog, 2015).
    """
    return int(u * min(max_ms, initial_ms << min(attempt, 32)))


def probe_delay(attempt: int) -> int:
    """Return the delay in milliseconds between probes of an endpoint that needs a person (401, 404): 30 s to 5 min."""
    return min(PROBE_MAX_MS, PROBE_INITIAL_MS << min(attempt, 16))


def requested_until(now: int, retry_after_ms: int | None) -> int:
    """Return the end of the delay that a server requested, at most one hour from `now`; 0 without a request."""
    return 0 if retry_after_ms is None else now + min(retry_after_ms, REQUESTED_DELAY_MAX_MS)


def delay(jitter_ms: int, retry_after_ms: int | None) -> int:
    """Return the longer of the jitter and the delay that the server requested, which counts up to one hour."""
    return max(jitter_ms, min(retry_after_ms or 0, REQUESTED_DELAY_MAX_MS))

"""How long to wait after a failure: the only place with a formula for it."""

from __future__ import annotations

PROBE_INITIAL_MS = 30_000
PROBE_MAX_MS = 300_000
REQUESTED_DELAY_MAX_MS = 3_600_000


def full_jitter(attempt: int, initial_ms: int, max_ms: int, u: float) -> int:
    """Milliseconds before try number `attempt` + 1, `attempt` from 0: uniform in [0, min(max, initial * 2^attempt)].

    Full jitter, as in Marc Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015):
    of the usual jitters the one with the least total work when many clients recover together.
    """
    return int(u * min(max_ms, initial_ms << min(attempt, 32)))


def probe_delay(attempt: int) -> int:
    """Milliseconds between probes of a route that needs a person (401, 404, ...): 30 s, doubling to 5 min."""
    return min(PROBE_MAX_MS, PROBE_INITIAL_MS << min(attempt, 16))


def requested_until(now: int, retry_after_ms: int | None) -> int:
    """Return until when a server asked to wait, at most one hour from `now`; 0 if it did not ask."""
    return 0 if retry_after_ms is None else now + min(retry_after_ms, REQUESTED_DELAY_MAX_MS)


def delay(jitter_ms: int, retry_after_ms: int | None) -> int:
    """What is waited: the longer of our jitter and the server's wish, the wish cut at one hour."""
    return max(jitter_ms, min(retry_after_ms or 0, REQUESTED_DELAY_MAX_MS))

"""The waits between attempts to use a database that does not respond, and what callers are told meanwhile."""

from __future__ import annotations

import asyncio

import structlog

from relay.outbox import OutboxUnavailable
from relay.runtime.clock import Clock

_FIRST_MS, _MAX_MS = 100, 5_000

_log = structlog.get_logger("relay.outbox")


class Reconnect:
    """Full jitter without end, so that many relays do not connect at one instant."""

    def __init__(self, clock: Clock, lasting_ms: int, lease_ms: int) -> None:
        """`lasting_ms`: after this time the outbox rejects appends. It waits through shorter interruptions.

        A relay that connects first must not fence one that still waits, so that no wait is longer than half a lease.
        """
        self._clock = clock
        self._lasting_ms = lasting_ms
        self._max_ms = min(_MAX_MS, lease_ms // 2)
        self.failure: OutboxUnavailable | None = None
        """Why the database cannot be used; None if the last call succeeded."""
        self._since_ms = 0

    def __repr__(self) -> str:
        return f"<Reconnect after {self.failure!r} since {self._since_ms}>"

    def lasting_failure(self) -> OutboxUnavailable | None:
        lasts_ms = self._clock.monotonic_ms() - self._since_ms
        return self.failure if lasts_ms >= self._lasting_ms else None

    async def wait(self, attempt: int, error: OutboxUnavailable) -> None:
        if self.failure is None:
            _log.error("outbox unavailable", reason=str(error))
            self._since_ms = self._clock.monotonic_ms()
        self.failure = error
        most_ms = min(self._max_ms, _FIRST_MS << min(attempt, 10))
        await asyncio.sleep((_FIRST_MS / 2 + self._clock.chance() * most_ms) / 1000)

    def succeeded(self) -> None:
        if self.failure is not None:
            _log.info("outbox available again")
        self.failure = None

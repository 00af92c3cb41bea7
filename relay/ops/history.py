"""Counts of the last 15 minutes for charts and rates: received, sent and pending events, upstream responses.

Rules: a ring of 180 samples, one every 5 s. A sample contains the differences from the previous sample, so that a
restart appears as a gap and not as a peak. All times are monotonic. The history is not stored on disk; Prometheus
serves longer periods.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any, NamedTuple

from relay.outbox import Ledger, Outbox
from relay.runtime.clock import Clock
from relay.runtime.metrics import Metrics

SAMPLE_EVERY_S = 5
SAMPLES = 180
RATE_SAMPLES = 12
"""Number of samples in a rate: one minute, plus the time since the last sample."""
_FIRST_SAMPLE_S = 1
_SHORTEST_MS = 1_000
"""Minimum period of a rate. A shorter period gives no useful rate."""


class Sample(NamedTuple):
    """The counts of one period."""

    at_ms: int
    """Monotonic time of the end of the period."""
    span_ms: int
    """Length of the period."""
    accepted: int
    delivered: int
    pending: int
    responses: Mapping[str, int]
    """Requests by status code of the response; "error" counts requests without a response."""


class Rates(NamedTuple):
    """Events per second; None while the relay has run for less than a second."""

    accepted: float | None
    delivered: float | None


class _Totals(NamedTuple):
    at_ms: int
    ledger: Ledger
    responses: Mapping[str, int]


class History:
    """A ring of samples. `keep` adds samples while the relay runs."""

    def __init__(self, outbox: Outbox, metrics: Metrics, clock: Clock) -> None:
        self._outbox = outbox
        self._metrics = metrics
        self._clock = clock
        self._ring: deque[Sample] = deque(maxlen=SAMPLES)
        self._last: _Totals | None = None

    async def keep(self) -> None:
        """Add samples until cancelled. The first one is early, so that a page opened at the start is not empty."""
        self.sample()
        await asyncio.sleep(_FIRST_SAMPLE_S)
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_EVERY_S)

    def sample(self) -> None:
        """Add a sample of the period since the previous call. The first call only starts the period."""
        now = self._totals()
        before, self._last = self._last, now
        if before is None:
            return
        self._ring.append(
            Sample(
                now.at_ms,
                now.at_ms - before.at_ms,
                _increase(before.ledger.accepted, now.ledger.accepted),
                _increase(before.ledger.delivered, now.ledger.delivered),
                now.ledger.pending,
                {
                    code: count - before.responses.get(code, 0)
                    for code, count in now.responses.items()
                    if count > before.responses.get(code, 0)
                },
            )
        )

    def rates(self) -> Rates:
        """Return the rates of the last minute, up to now."""
        if self._last is None:
            return Rates(None, None)
        at_ms, ledger = self._clock.monotonic_ms(), self._outbox.ledger()
        lately = list(islice(reversed(self._ring), RATE_SAMPLES))
        span_ms = at_ms - self._last.at_ms + sum(sample.span_ms for sample in lately)
        if span_ms < _SHORTEST_MS:
            return Rates(None, None)
        accepted = _increase(self._last.ledger.accepted, ledger.accepted) + sum(sample.accepted for sample in lately)
        delivered = _increase(self._last.ledger.delivered, ledger.delivered) + sum(
            sample.delivered for sample in lately
        )
        return Rates(round(accepted * 1000 / span_ms, 2), round(delivered * 1000 / span_ms, 2))

    def samples(self, after_ms: int = -1) -> list[dict[str, Any]]:
        """Return the samples after `after_ms` (monotonic) as JSON values, oldest first."""
        return [sample._asdict() for sample in self._ring if sample.at_ms > after_ms]

    def _totals(self) -> _Totals:
        return _Totals(self._clock.monotonic_ms(), self._outbox.ledger(), self._metrics.responses())


def _increase(before: int, now: int) -> int:
    """Return the difference, never negative: after a database file was quarantined, the totals start at zero."""
    return max(0, now - before)

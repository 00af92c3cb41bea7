"""The last 15 minutes, for charts and rates: what came in, went out and waited, and how the upstream answered.

Rules: one sample every 5 s whether somebody looks or not, in a ring of 180; a sample holds differences
to the one before, so that drawing it needs no arithmetic and a restart shows as a gap, not as a peak.
Monotonic time only. Nothing of it is kept on disk: Prometheus is for longer.
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
"""What a rate is taken over: a minute, and the moments since."""
_FIRST_SAMPLE_S = 1
_SHORTEST_MS = 1_000
"""A rate over less says nothing."""


class Sample(NamedTuple):
    at_ms: int
    """Monotonic, at its end."""
    span_ms: int
    accepted: int
    delivered: int
    pending: int
    answers: Mapping[str, int]
    """Requests answered by status code; "error" for no answer."""


class Rates(NamedTuple):
    """Events a second; None in the first moments."""

    accepted: float | None
    delivered: float | None


class _Totals(NamedTuple):
    at_ms: int
    ledger: Ledger
    answers: Mapping[str, int]


class History:
    """The ring; `keep` fills it for as long as the relay runs."""

    def __init__(self, outbox: Outbox, metrics: Metrics, clock: Clock) -> None:
        self._outbox = outbox
        self._metrics = metrics
        self._clock = clock
        self._ring: deque[Sample] = deque(maxlen=SAMPLES)
        self._last: _Totals | None = None

    async def keep(self) -> None:
        """Take samples for ever; the first one early, so that a page opened at the start is not empty."""
        self.sample()
        await asyncio.sleep(_FIRST_SAMPLE_S)
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_EVERY_S)

    def sample(self) -> None:
        """Add what happened since the call before; the first call only begins."""
        now = self._totals()
        before, self._last = self._last, now
        if before is None:
            return
        self._ring.append(
            Sample(
                now.at_ms,
                now.at_ms - before.at_ms,
                _more(before.ledger.accepted, now.ledger.accepted),
                _more(before.ledger.delivered, now.ledger.delivered),
                now.ledger.pending,
                {
                    code: count - before.answers.get(code, 0)
                    for code, count in now.answers.items()
                    if count > before.answers.get(code, 0)
                },
            )
        )

    def rates(self) -> Rates:
        """Over the last minute, up to this moment."""
        if self._last is None:
            return Rates(None, None)
        at_ms, ledger = self._clock.monotonic_ms(), self._outbox.ledger()
        lately = list(islice(reversed(self._ring), RATE_SAMPLES))
        span_ms = at_ms - self._last.at_ms + sum(sample.span_ms for sample in lately)
        if span_ms < _SHORTEST_MS:
            return Rates(None, None)
        accepted = _more(self._last.ledger.accepted, ledger.accepted) + sum(sample.accepted for sample in lately)
        delivered = _more(self._last.ledger.delivered, ledger.delivered) + sum(sample.delivered for sample in lately)
        return Rates(round(accepted * 1000 / span_ms, 2), round(delivered * 1000 / span_ms, 2))

    def samples(self, after_ms: int = -1) -> list[dict[str, Any]]:
        """Those taken later than `after_ms` (monotonic), the oldest first, as JSON."""
        return [sample._asdict() for sample in self._ring if sample.at_ms > after_ms]

    def _totals(self) -> _Totals:
        return _Totals(self._clock.monotonic_ms(), self._outbox.ledger(), self._metrics.responses())


def _more(before: int, now: int) -> int:
    """Never negative: an outbox that was set aside while the relay runs begins anew."""
    return max(0, now - before)

"""Counts of the last 15 minutes, hour and day for charts and rates, and a forecast of the outbox's size.

Rules:
- A sample is taken every 5 s. Each resolution has a ring of 180 points; a point merges 1, 4 or 96 samples. The rings
  take at most 0.5 MB (`test_history`). They are not stored on disk; Prometheus serves longer periods.
- A sample contains the differences from the previous sample, so that a restart appears as a gap and not as a peak.
- All times are monotonic.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from relay.outbox import Ledger, Outbox
from relay.policy.upstream_origin import EndpointState
from relay.runtime.clock import Clock
from relay.runtime.metrics import Metrics

SAMPLE_EVERY_S = 5
POINTS = 180
MERGED = (1, 4, 96)
"""Number of samples in a point of each resolution: 15 minutes, 1 hour and 24 hours have 180 points."""
RATE_SAMPLES = 12
"""Number of samples in a rate: one minute, plus the time since the last sample."""
_FIRST_SAMPLE_S = 1
_SHORTEST_MS = 1_000
"""Minimum period of a rate. A shorter period gives no useful rate."""
_SHORTEST_FORECAST_MS = 60_000
NOT_WRITABLE = "not_writable"
_WORST_FIRST: Sequence[EndpointState | str] = (
    NOT_WRITABLE,
    "unauthorized",
    "misconfigured",
    "backing_off",
    "rate_limited",
    "ok",
    "untested",
)

_KINDS = ("2", "429", "3", "4", "5", "")
"""Kinds of responses: the first digit of their status, 429 apart, and "" for no response (or a status such as 100)."""


class Sample(NamedTuple):
    """The counts of one period."""

    at_ms: int
    """Monotonic time of the end of the period."""
    span_ms: int
    """Length of the period."""
    accepted: int
    delivered: int
    pending: int
    """Pending events at the end of the period."""
    bytes: int
    """Size of the outbox at the end of the period."""
    state: str
    """The worst state of an upstream, or NOT_WRITABLE."""
    responses: tuple[int, ...]
    """Requests by kind of the response, in the order of `_KINDS`."""

    def merged(self, later: Sample) -> Sample:
        """Return the sample of this period and of the next one."""
        return Sample(
            later.at_ms,
            self.span_ms + later.span_ms,
            self.accepted + later.accepted,
            self.delivered + later.delivered,
            later.pending,
            later.bytes,
            min(self.state, later.state, key=_WORST_FIRST.index),
            tuple(map(sum, zip(self.responses, later.responses, strict=True))),
        )


class Rates(NamedTuple):
    """Events per second; None while the relay has run for less than a second."""

    accepted: float | None
    delivered: float | None
    span_s: int
    """Length of the period in seconds."""


class _Totals(NamedTuple):
    at_ms: int
    ledger: Ledger
    responses: Mapping[str, int]


class Ring:
    """The points of one resolution, and the samples that are not yet a point."""

    def __init__(self, merged: int) -> None:
        self.points: deque[Sample] = deque(maxlen=POINTS)
        self._merged = merged
        self._rest: Sample | None = None
        self._count = 0

    def add(self, sample: Sample) -> None:
        self._rest = sample if self._rest is None else self._rest.merged(sample)
        self._count += 1
        if self._count == self._merged:
            self.points.append(self._rest)
            self._rest, self._count = None, 0


class History:
    """Rings of samples. `keep` adds samples while the relay runs."""

    def __init__(
        self, outbox: Outbox, metrics: Metrics, clock: Clock, states: Callable[[], Mapping[EndpointState, int]]
    ) -> None:
        """`states` returns the number of upstreams by state."""
        self._outbox = outbox
        self._metrics = metrics
        self._clock = clock
        self._states = states
        self._rings = [Ring(merged) for merged in MERGED]
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
        now = _Totals(self._clock.monotonic_ms(), self._outbox.ledger(), self._metrics.responses())
        before, self._last = self._last, now
        if before is None:
            return
        responses = [0] * len(_KINDS)
        for code, count in now.responses.items():
            responses[_kind(code)] += max(0, count - before.responses.get(code, 0))
        sample = Sample(
            now.at_ms,
            now.at_ms - before.at_ms,
            _increase(before.ledger.accepted, now.ledger.accepted),
            _increase(before.ledger.delivered, now.ledger.delivered),
            now.ledger.pending,
            self._outbox.gauges().bytes,
            self._state(),
            tuple(responses),
        )
        for ring in self._rings:
            ring.add(sample)

    def rates(self) -> Rates:
        """Return the rates of the last minute, up to now."""
        if self._last is None:
            return Rates(None, None, 0)
        at_ms, ledger = self._clock.monotonic_ms(), self._outbox.ledger()
        lately = list(islice(reversed(self._rings[0].points), RATE_SAMPLES))
        span_ms = at_ms - self._last.at_ms + sum(sample.span_ms for sample in lately)
        if span_ms < _SHORTEST_MS:
            return Rates(None, None, 0)
        accepted = _increase(self._last.ledger.accepted, ledger.accepted) + sum(sample.accepted for sample in lately)
        delivered = _increase(self._last.ledger.delivered, ledger.delivered) + sum(
            sample.delivered for sample in lately
        )
        return Rates(round(accepted * 1000 / span_ms, 2), round(delivered * 1000 / span_ms, 2), round(span_ms / 1000))

    def full_in_s(self) -> int | None:
        """Return the seconds until the outbox is full if it grows as in the last 15 minutes; None if it does not."""
        points = self._rings[0].points
        if not points or points[-1].at_ms - points[0].at_ms < _SHORTEST_FORECAST_MS:
            return None
        first, last, gauges = points[0], points[-1], self._outbox.gauges()
        # The size of the files also changes with cleanup, so that the pending events must have grown, too.
        if last.bytes <= first.bytes or last.pending <= first.pending:
            return None
        return (
            max(0, gauges.max_bytes - gauges.bytes) * (last.at_ms - first.at_ms) // (last.bytes - first.bytes) // 1000
        )

    def samples(self, after_ms: int = -1) -> list[list[dict[str, Any]]]:
        """Return the points after `after_ms` (monotonic) of each resolution as JSON values, oldest first."""
        return [[point._asdict() for point in ring.points if point.at_ms > after_ms] for ring in self._rings]

    def _state(self) -> str:
        if not self._outbox.gauges().writable:
            return NOT_WRITABLE
        return min(
            (state for state, count in self._states().items() if count), key=_WORST_FIRST.index, default="untested"
        )


def _kind(code: str) -> int:
    """Return the index of the kind of a response in `_KINDS`."""
    return _KINDS.index("429" if code == "429" else code[:1] if code[:1] in _KINDS else "")


def _increase(before: int, now: int) -> int:
    """Return the difference, never negative: after a database file was quarantined, the totals start at zero."""
    return max(0, now - before)

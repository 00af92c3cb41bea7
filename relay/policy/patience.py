"""How long a request to an endpoint may make no progress before it is overdue, so that it probably hangs.

Twice the longest of the latest response times, from 0.5 to 5 s.
"""

from __future__ import annotations

from relay.policy.request_slots import STALLED_MS

_MIN_MS = 500
_FIRST_MS = 2_000
"""Before the first response time is known."""


class Patience:
    """The response times of one endpoint."""

    __slots__ = ("_slowest_ms",)

    def __init__(self) -> None:
        self._slowest_ms: int | None = None  # Decays with each success.

    def __repr__(self) -> str:
        return f"Patience({self.ms} ms)"

    @property
    def ms(self) -> int:
        if self._slowest_ms is None:
            return _FIRST_MS
        return min(STALLED_MS, max(_MIN_MS, 2 * self._slowest_ms))

    def succeeded(self, after_ms: int) -> None:
        """Record a success `after_ms` after its request was chosen."""
        assert after_ms >= 0, after_ms
        self._slowest_ms = max(after_ms, (self._slowest_ms or 0) * 7 // 8)

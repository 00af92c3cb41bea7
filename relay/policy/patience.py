"""How long a request to an endpoint may make no progress before it is stalled.

Twice the longest of the latest response times, at most 5 s. So a request that hangs beside others soon frees its
request slot, and an upstream that is slow for all never gets more requests at a time than `upstream.max_in_flight`.
"""

from __future__ import annotations

MAX_PATIENCE_MS = 5_000
_MIN_MS = 500


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
            return MAX_PATIENCE_MS
        return min(MAX_PATIENCE_MS, max(_MIN_MS, 2 * self._slowest_ms))

    def succeeded(self, after_ms: int) -> None:
        """Record a success `after_ms` after its request was chosen."""
        assert after_ms >= 0, after_ms
        self._slowest_ms = max(after_ms, (self._slowest_ms or 0) * 7 // 8)

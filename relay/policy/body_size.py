"""How large a request may be on one route: lowered by 413s, and tried larger again now and then.

A proxy's limit may be lower than `batch.max_bytes`; it may also have been a moment's. So the size that a
413 lowered is doubled after ten minutes of requests that used it; if that is refused, after twenty, and so
on up to a day: a limit that stays costs one 413 a day.

A batch that times out while the relay sends it lowers the size in the same way, but not below 16 KiB: a
link that needs smaller batches within ten timeouts is no link, and an upstream that reads nothing for an
hour must not leave batches of one event behind.
"""

from __future__ import annotations

_FIRST_PATIENCE_MS = 600_000
_MAX_PATIENCE_MS = 86_400_000
SLOW_MIN_BYTES = 16 * 1024


class BodySize:
    """Bytes of a request's body; times are monotonic milliseconds."""

    __slots__ = ("_changed_at", "_grown", "_most", "_patience_ms", "largest_served", "max_bytes")

    def __init__(self, most: int) -> None:
        self.max_bytes = most
        self.largest_served = 0
        self._most = most
        self._changed_at = 0
        self._grown = False  # tried larger, and not refused since
        self._patience_ms = _FIRST_PATIENCE_MS

    def refused(self, body_bytes: int, now: int) -> None:
        """A 413 to a request that could be smaller."""
        if self._grown:
            self._patience_ms = min(2 * self._patience_ms, _MAX_PATIENCE_MS)
        self._grown = False
        self._changed_at = now
        self.max_bytes = max(1, min(self.max_bytes, body_bytes) // 2)

    def timed_out(self, body_bytes: int, now: int) -> None:
        """Halve the size after a batch that timed out while the relay sent it."""
        if body_bytes > SLOW_MIN_BYTES:
            least = min(self.max_bytes, SLOW_MIN_BYTES)
            self.refused(body_bytes, now)
            self.max_bytes = max(self.max_bytes, least)

    def served(self, body_bytes: int, now: int) -> None:
        self.largest_served = max(self.largest_served, body_bytes)
        used = body_bytes > self.max_bytes // 2
        if self.max_bytes < self._most and used and now - self._changed_at >= self._patience_ms:
            self._grown = True
            self._changed_at = now
            self.max_bytes = min(2 * self.max_bytes, self._most)

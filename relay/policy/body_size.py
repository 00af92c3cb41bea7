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
    """Learned size of a request's body in bytes; times are monotonic milliseconds.

    The configured limit (`most`) is an argument of each call, so that a reload applies at once.
    """

    __slots__ = ("_changed_at", "_grown", "_learned", "_patience_ms", "largest_served")

    def __init__(self) -> None:
        self.largest_served = 0
        self._learned: int | None = None  # None: nothing was too large yet
        self._changed_at = 0
        self._grown = False  # tried larger, and not refused since
        self._patience_ms = _FIRST_PATIENCE_MS

    def max_bytes(self, most: int) -> int:
        """Return the largest body to send."""
        return most if self._learned is None else min(self._learned, most)

    def refused(self, body_bytes: int, now: int, most: int) -> None:
        """A 413 to a request that could be smaller."""
        if self._grown:
            self._patience_ms = min(2 * self._patience_ms, _MAX_PATIENCE_MS)
        self._grown = False
        self._changed_at = now
        self._learned = max(1, min(self.max_bytes(most), body_bytes) // 2)

    def timed_out(self, body_bytes: int, now: int, most: int) -> None:
        """Halve the size after a batch that timed out while the relay sent it."""
        if body_bytes > SLOW_MIN_BYTES:
            least = min(self.max_bytes(most), SLOW_MIN_BYTES)
            self.refused(body_bytes, now, most)
            self._learned = max(self.max_bytes(most), least)

    def served(self, body_bytes: int, now: int, most: int) -> None:
        """Note a body that arrived; a learned size that was used for long enough grows."""
        self.largest_served = max(self.largest_served, body_bytes)
        if self._learned is None or self._learned >= most:
            return
        if body_bytes > self._learned // 2 and now - self._changed_at >= self._patience_ms:
            self._grown = True
            self._changed_at = now
            self._learned = min(2 * self._learned, most)

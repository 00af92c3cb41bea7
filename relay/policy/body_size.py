"""How large a request may be on one route: lowered by 413s, and tried larger again now and then.

A proxy's limit may be lower than `batch.max_bytes`; it may also have been a moment's. So the size that a
413 lowered is doubled after ten minutes of requests that used it; if that is refused, after twenty, and so
on up to a day: a limit that stays costs one 413 a day.

A batch that times out while the relay sends it lowers the size in the same way, but not below 16 KiB: a
link that needs smaller batches within ten timeouts is no link, and an upstream that reads nothing for an
hour must not leave batches of one event behind.
"""

from __future__ import annotations

_FIRST_GROWTH_DELAY_MS = 600_000
_MAX_GROWTH_DELAY_MS = 86_400_000
SLOW_MIN_BYTES = 16 * 1024


class BodySize:
    """Learned size of a request's body in bytes; times are monotonic milliseconds.

    The configured limit (`most`) is an argument of each call, so that a reload applies at once.
    """

    __slots__ = ("_changed_at", "_grown", "_growth_delay_ms", "_learned", "largest_delivered")

    def __init__(self) -> None:
        self.largest_delivered = 0
        self._learned: int | None = None  # None: nothing was too large yet
        self._changed_at = 0
        self._grown = False  # tried larger, and not refused since
        self._growth_delay_ms = _FIRST_GROWTH_DELAY_MS

    def max_bytes(self, configured_bytes: int) -> int:
        """Return the largest body to send."""
        return configured_bytes if self._learned is None else min(self._learned, configured_bytes)

    def too_large(self, body_bytes: int, now: int, configured_bytes: int) -> None:
        """A 413 to a request that could be smaller."""
        if self._grown:
            self._growth_delay_ms = min(2 * self._growth_delay_ms, _MAX_GROWTH_DELAY_MS)
        self._grown = False
        self._changed_at = now
        self._learned = max(1, min(self.max_bytes(configured_bytes), body_bytes) // 2)

    def timed_out(self, body_bytes: int, now: int, configured_bytes: int) -> None:
        """Halve the size after a batch that timed out while the relay sent it."""
        if body_bytes > SLOW_MIN_BYTES:
            least = min(self.max_bytes(configured_bytes), SLOW_MIN_BYTES)
            self.too_large(body_bytes, now, configured_bytes)
            self._learned = max(self.max_bytes(configured_bytes), least)

    def delivered(self, body_bytes: int, now: int, configured_bytes: int) -> None:
        """Note a body that arrived; a learned size that was used for long enough grows."""
        self.largest_delivered = max(self.largest_delivered, body_bytes)
        if self._learned is None or self._learned >= configured_bytes:
            return
        if body_bytes > self._learned // 2 and now - self._changed_at >= self._growth_delay_ms:
            self._grown = True
            self._changed_at = now
            self._learned = min(2 * self._learned, configured_bytes)

"""The largest request body of one endpoint, learned from 413 responses and timeouts.

The limit of a proxy may be lower than `batch.max_bytes`, and it may be temporary. A 413 halves the size. After ten
minutes of requests that used the lowered size, the size is doubled. If the doubled size is rejected, the next attempt
follows after twenty minutes, and so on up to a day. A permanent limit therefore costs one 413 a day.

A batch that times out while the relay sends it halves the size, too, but not below 16 KiB. A link that is too slow for
16 KiB is not usable, and an hour in which the upstream reads nothing must not reduce batches to single events.
"""

from __future__ import annotations

_FIRST_GROWTH_DELAY_MS = 600_000
_MAX_GROWTH_DELAY_MS = 86_400_000
SLOW_MIN_BYTES = 16 * 1024


class BodySize:
    """The learned size of a request body in bytes. Times are monotonic milliseconds.

    The configured limit is an argument of each call, so that a reload applies immediately.
    """

    __slots__ = ("_changed_at", "_grown", "_growth_delay_ms", "_learned", "largest_delivered")

    def __init__(self) -> None:
        self.largest_delivered = 0
        self._learned: int | None = None  # None: no body was too large yet.
        self._changed_at = 0
        self._grown = False  # The size was doubled and not rejected since.
        self._growth_delay_ms = _FIRST_GROWTH_DELAY_MS

    def max_bytes(self, configured_bytes: int) -> int:
        """Return the largest body to send."""
        return configured_bytes if self._learned is None else min(self._learned, configured_bytes)

    def too_large(self, body_bytes: int, now: int, configured_bytes: int) -> None:
        """Halve the size after a 413 to a request that can be divided."""
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
        """Record a delivered body. Double a learned size that was used for long enough."""
        self.largest_delivered = max(self.largest_delivered, body_bytes)
        if self._learned is None or self._learned >= configured_bytes:
            return
        if body_bytes > self._learned // 2 and now - self._changed_at >= self._growth_delay_ms:
            self._grown = True
            self._changed_at = now
            self._learned = min(2 * self._learned, configured_bytes)

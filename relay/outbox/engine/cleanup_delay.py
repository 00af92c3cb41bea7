"""The delay of a cleanup: when a commit may run that only deletes rows or returns space."""

from __future__ import annotations

from enum import Enum

_CLEANUP_DELAY_MS = 5_000
"""Interval of cleanups while the outbox is never idle, so that the store shrinks."""
_EXPENSIVE_CLEANUP_DELAY_MS = 10_000
"""Delay of a cleanup before pending rows, twice the default linger. If these rows are settled until then, the cleanup
does not write the blocks that it frees, see `deletion`."""


class Permission(Enum):
    """Whether a cleanup may run."""

    NOW = "now"
    WHEN_IDLE = "when idle"


class CleanupDelay:
    def __init__(self) -> None:
        self._due_ms: int | None = None
        """Monotonic time since when a cleanup is due; None if none is due."""
        self._last_ms = 0
        """Monotonic time of the last cleanup, or when the first became due."""

    def permit(self, now_ms: int, *, is_expensive: bool) -> Permission | int:
        """Return whether a cleanup may run, or the time in milliseconds until it may."""
        if self._due_ms is None:
            self._due_ms = self._last_ms = now_ms
        delay_ms = self._due_ms + _EXPENSIVE_CLEANUP_DELAY_MS - now_ms
        if is_expensive and delay_ms > 0:
            return delay_ms
        return Permission.NOW if now_ms - self._last_ms >= _CLEANUP_DELAY_MS else Permission.WHEN_IDLE

    def began(self, now_ms: int) -> None:
        """Record a cleanup."""
        self._last_ms = now_ms

    def nothing_due(self) -> None:
        self._due_ms = None

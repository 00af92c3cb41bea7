"""The evidence of one endpoint about other device queues: whether a failure is due to one device or to all.

A device queue is at fault if others succeed. The latest successes and the failures since then decide that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

_OTHERS_RECENT_MS = 10_000
_RECENT_SUCCESS_MS = 600_000


class Evidence:
    """Times are monotonic milliseconds."""

    __slots__ = ("_failed_queue_ids", "_previous", "_queue_ids", "success_at")

    def __init__(self) -> None:
        self.success_at: int | None = None
        self._queue_ids: Sequence[int] = ()  # Device queues of the latest success.
        self._previous: tuple[Sequence[int], int | None] = ((), None)  # Latest success of other device queues.
        self._failed_queue_ids: set[int] = set()  # Device queues that failed since the latest success.

    def __repr__(self) -> str:
        return f"Evidence(success_at={self.success_at}, failed_since={len(self._failed_queue_ids)})"

    def succeeded(self, queue_ids: Sequence[int], now: int) -> None:
        """Record that the upstream accepted events of these device queues."""
        assert self.success_at is None or self.success_at <= now, self
        if queue_ids != self._queue_ids:
            self._previous = (self._queue_ids, self.success_at)
        self.success_at, self._queue_ids = now, queue_ids
        self._failed_queue_ids.clear()

    def failed(self, queue_ids: Iterable[int]) -> None:
        """Record that requests with events of these device queues failed."""
        self._failed_queue_ids.update(queue_ids)

    def others_succeed(self, queue_ids: Collection[int], sent_at: int, now: int) -> bool:
        """Return whether other device queues succeeded recently and none of them failed since."""
        ids = set(queue_ids)
        if self._failed_queue_ids - ids:
            return False
        success_at = self._previous[1] if ids.issuperset(self._queue_ids) else self.success_at
        return success_at is not None and success_at >= min(sent_at, now - _OTHERS_RECENT_MS)

    def has_recent_success(self, now: int) -> bool:
        """Return whether a request succeeded in the last ten minutes."""
        return self.success_at is not None and self.success_at >= now - _RECENT_SUCCESS_MS

"""The evidence of one endpoint about other device queues: whether a failure is due to one device or to all.

A device queue is at fault if others succeed. The latest successes and the failures since then decide that.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Sequence

_OTHERS_RECENT_MS = 10_000
_RECENT_SUCCESS_MS = 600_000
_WITNESSES_MAX = 64
_MINUTE_MS = 60_000
_MINUTES_MAX = 15
_SUCCESSES_PER_FAILURE = 9


class Evidence:
    """Times are monotonic milliseconds."""

    __slots__ = (
        "_failed_queue_ids",
        "_minutes",
        "_previous",
        "_queue_ids",
        "_witnesses",
        "hung_since_success",
        "success_at",
    )

    def __init__(self) -> None:
        self.success_at: int | None = None
        self.hung_since_success = 0  # Requests.
        self._queue_ids: Sequence[int] = ()  # Device queues of the latest success.
        self._previous: tuple[Sequence[int], int | None] = ((), None)  # Latest success of other device queues.
        self._failed_queue_ids: set[int] = set()  # Device queues that failed since the latest success.
        self._witnesses: OrderedDict[int, int] = (
            OrderedDict()
        )  # Latest success of device queues without a failure since, in order.
        self._minutes: deque[list[int]] = deque(
            maxlen=_MINUTES_MAX
        )  # Minute, requests that succeeded and failed in it.

    def __repr__(self) -> str:
        return f"Evidence(success_at={self.success_at}, failed_since={len(self._failed_queue_ids)})"

    def succeeded(self, queue_ids: Sequence[int], failures: int, now: int) -> None:
        """Record that the upstream accepted events of these device queues, after `failures` requests with them."""
        assert self.success_at is None or self.success_at <= now, self
        if queue_ids != self._queue_ids:
            self._previous = (self._queue_ids, self.success_at)
        self.success_at, self._queue_ids = now, queue_ids
        self.hung_since_success = 0
        self._failed_queue_ids.clear()
        witnesses = self._witnesses
        for queue_id in queue_ids:
            witnesses[queue_id] = now
            witnesses.move_to_end(queue_id)
        while len(witnesses) > _WITNESSES_MAX:
            witnesses.popitem(last=False)
        minute = now // _MINUTE_MS
        if not self._minutes or self._minutes[-1][0] != minute:
            self._minutes.append([minute, 0, 0])
        latest = self._minutes[-1]
        latest[1] += 1
        latest[2] += failures

    def hung(self) -> None:
        """Record that a request hangs."""
        self.hung_since_success += 1

    def failed(self, queue_ids: Iterable[int]) -> None:
        """Record that requests with events of these device queues failed."""
        self._failed_queue_ids.update(queue_ids)

    def suspected(self, queue_id: int) -> None:
        """Record that a request of this device queue only failed, so that it is no witness."""
        self._witnesses.pop(queue_id, None)

    def has_witness(self, queue_ids: Collection[int], now: int) -> bool:
        """Return whether another device queue succeeded in the last ten minutes and did not fail since."""
        latest = next((at for queue_id, at in reversed(self._witnesses.items()) if queue_id not in queue_ids), None)
        return latest is not None and latest >= now - _RECENT_SUCCESS_MS

    def served_since(self, queue_id: int, at: int) -> bool:
        """Return whether a device queue succeeded at `at` or later and did not fail since, as far as it is known."""
        return self._witnesses.get(queue_id, -1) >= at

    def mostly_succeeds(self, since: int) -> bool:
        """Return whether 9 in 10 of the requests since then, at most 15 minutes ago, were delivered."""
        return any(each[0] > since // _MINUTE_MS for each in self._minutes) and not self.often_fails(since)

    def often_fails(self, since: int) -> bool:
        """Return whether more than 1 in 10 of the requests since then failed, as in a brownout.

        The failures of a batch count once it is delivered. Before that they may be due to its own content.
        """
        minutes = [each for each in self._minutes if each[0] > since // _MINUTE_MS]
        return sum(each[1] for each in minutes) < _SUCCESSES_PER_FAILURE * sum(each[2] for each in minutes)

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

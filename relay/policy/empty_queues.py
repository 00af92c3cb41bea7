"""The device queues without pending events, until they may be removed."""

from __future__ import annotations

from collections import deque

from relay.policy.device_queue import DeviceQueue


class EmptyQueues:
    """Each device queue is listed once, so that the number of entries is bounded by the number of device queues."""

    __slots__ = ("_listed", "_order")

    def __init__(self) -> None:
        self._listed: set[int] = set()
        self._order: deque[tuple[int, DeviceQueue]] = deque()

    def __len__(self) -> int:
        return len(self._order)

    def add(self, queue: DeviceQueue, now: int, window_ms: int) -> None:
        """List a device queue until its rate window must be free, unless it is listed."""
        if queue.id not in self._listed:
            self._listed.add(queue.id)
            self._order.append((now + window_ms + 1, queue))

    def pop_due(self, now: int) -> DeviceQueue | None:
        """Remove and return the first device queue if its time has come; otherwise None. It may have events again."""
        if not self._order or self._order[0][0] > now:
            return None
        _, queue = self._order.popleft()
        self._listed.remove(queue.id)
        return queue

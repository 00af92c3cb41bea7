"""The device queues without pending events, until they may be removed."""

from __future__ import annotations

from collections import OrderedDict, deque

from relay.policy.device_queue import DeviceQueue


class EmptyQueues:
    """New devices are listed once, and known devices by their latest use. A device may be in both lists."""

    __slots__ = ("_known", "_listed", "_new")

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[int, DeviceQueue]] = OrderedDict()
        self._listed: set[int] = set()
        self._new: deque[tuple[int, DeviceQueue]] = deque()

    def __len__(self) -> int:
        return len(self._new) + len(self._known)

    def add(self, queue: DeviceQueue, now: int, window_ms: int) -> None:
        """List a device queue until its rate window must be free."""
        due_at = now + window_ms + 1
        if queue.is_known:
            self._known[queue.id] = (due_at, queue)
            self._known.move_to_end(queue.id)
        elif queue.id not in self._listed:
            self._listed.add(queue.id)
            self._new.append((due_at, queue))

    def pop_due(self, now: int, remembered: int) -> DeviceQueue | None:
        """Remove and return the first device queue whose time has come; otherwise None. It may have events again.

        Known devices come last, and only if there are more than `remembered`.
        """
        while self._new and self._new[0][0] <= now:
            due_at, queue = self._new.popleft()
            self._listed.remove(queue.id)
            if not queue.is_known:
                return queue
            self._known.setdefault(queue.id, (due_at, queue))
        if len(self._known) > remembered and next(iter(self._known.values()))[0] <= now:
            return self._known.popitem(last=False)[1][1]
        return None

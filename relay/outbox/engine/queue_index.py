"""What a lane has pending, in memory: which seqs, and how large each body is.

Owns the in-memory side of "a log with a cursor per lane". Rules: 12 bytes an event and no object
per event (1,000,000 pending cost 12 MB); seqs of a lane only grow, so order is the array's order;
what is in flight is a lane's first events and is still pending. Knows nothing of disks or clocks.
"""

from __future__ import annotations

import heapq
import itertools
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from relay.event.reader import DeviceKey

_SLACK_EVENTS = 1024
"""A queue's dead front is cut off once it is this long and half of the array."""


class StoredQueue:
    """One lane's pending events, oldest first."""

    __slots__ = ("_head", "_seqs", "_sizes", "body_bytes", "in_flight", "key", "quarantined", "shift_ms")

    def __init__(self, key: DeviceKey) -> None:
        self.key = key
        self.body_bytes = 0
        self.in_flight: array[int] | None = None
        """The seqs handed out, or promised by `load`; a prefix of what is pending. None if nothing is."""
        self.shift_ms: int | None = None
        """By how much the first events were shifted when the upstream may have taken them, see Outbox.take; 0: not."""
        self.quarantined: array[int] = array("Q")
        """The seqs of events that another machine stored, oldest first; they are not part of the queue."""
        self._seqs: array[int] = array("Q")
        self._sizes: array[int] = array("I")
        self._head = 0

    def __len__(self) -> int:
        return len(self._seqs) - self._head

    def __contains__(self, seq: int) -> bool:
        at = bisect_left(self._seqs, seq, self._head)
        return at < len(self._seqs) and self._seqs[at] == seq

    @property
    def first_seq(self) -> int | None:
        return self._seqs[self._head] if len(self) else None

    def append(self, seq: int, size: int) -> None:
        self._seqs.append(seq)
        self._sizes.append(size)
        self.body_bytes += size

    def prepend(self, older: StoredQueue) -> None:
        """Put another's events before these: what a restart finds, before what came since."""
        assert not len(self) or not len(older) or older._seqs[-1] < self._seqs[self._head]
        self._seqs = older._seqs[older._head :] + self._seqs[self._head :]
        self._sizes = older._sizes[older._head :] + self._sizes[self._head :]
        self._head = 0
        self.body_bytes += older.body_bytes

    def seqs(self, limit: int, skip: int = 0) -> array[int]:
        """The first `limit` pending ones after `skip`."""
        start = self._head + skip
        return self._seqs[start : start + limit]

    def sizes(self, limit: int, skip: int = 0) -> array[int]:
        """The body sizes of the same events, in bytes."""
        start = self._head + skip
        return self._sizes[start : start + limit]

    def count_to(self, last_seq: int) -> int:
        """How many pending events have a seq <= last_seq."""
        return bisect_right(self._seqs, last_seq, self._head) - self._head

    def remove(self, start: int, events: int) -> None:
        """Take `events` events out, beginning with the `start`-th pending one."""
        low = self._head + start
        high = low + events
        assert high <= len(self._seqs)
        self.body_bytes -= sum(self._sizes[low:high])
        if start:
            del self._seqs[low:high]
            del self._sizes[low:high]
            return
        self._head = high
        if high == len(self._seqs) or (high >= _SLACK_EVENTS and high * 2 >= len(self._seqs)):
            del self._seqs[:high]
            del self._sizes[:high]
            self._head = 0

    def remove_seq(self, seq: int) -> bool:
        """Take one event out wherever it is; False if it is not pending."""
        at = bisect_left(self._seqs, seq, self._head)
        if at == len(self._seqs) or self._seqs[at] != seq:
            return False
        self.remove(at - self._head, 1)
        return True

    def droppable(self) -> Iterator[tuple[int, int]]:
        """(seq, body bytes) of what is not in flight, oldest first."""
        start = self._head + (len(self.in_flight) if self.in_flight is not None else 0)
        return ((self._seqs[at], self._sizes[at]) for at in range(start, len(self._seqs)))


class Index:
    """Every lane the outbox knows, by its integer and by its device."""

    def __init__(self) -> None:
        self.queues: dict[int, StoredQueue] = {}
        self.by_key: dict[DeviceKey, int] = {}

    def add(self, queue: int, key: DeviceKey) -> StoredQueue:
        added = self.queues[queue] = StoredQueue(key)
        self.by_key[key] = queue
        return added

    def append(self, first_seq: int, numbers: Sequence[int], sizes: Sequence[int]) -> None:
        """The events first_seq, first_seq + 1, ...: the lane and the body size of each."""
        queues = self.queues
        for seq, (number, size) in enumerate(zip(numbers, sizes, strict=True), first_seq):
            queue = queues[number]
            queue._seqs.append(seq)
            queue._sizes.append(size)
            queue.body_bytes += size

    def forget(self, queue_id: int) -> None:
        del self.by_key[self.queues.pop(queue_id).key]

    @property
    def busy(self) -> bool:
        """Whether anything is in flight; O(lanes)."""
        return any(queue.in_flight is not None for queue in self.queues.values())

    def first_quarantined(self, limit: int) -> list[tuple[int, int]]:
        """Return (seq, lane) of the oldest quarantined events, at most `limit`."""
        queues = (
            [(seq, number) for seq in queue.quarantined[:limit]]
            for number, queue in self.queues.items()
            if queue.quarantined
        )
        return list(itertools.islice(heapq.merge(*queues), limit))

    def first_row_seq(self) -> int | None:
        """Return the seq of the oldest row that must stay, quarantined ones included; O(lanes)."""
        quarantined = (queue.quarantined[0] for queue in self.queues.values() if queue.quarantined)
        return min((seq for seq in (self.first_seq(), min(quarantined, default=None)) if seq is not None), default=None)

    def first_seq(self) -> int | None:
        """The oldest pending event's; O(lanes)."""
        return min((seq for queue in self.queues.values() if (seq := queue.first_seq) is not None), default=None)

    def oldest_droppable(self, body_bytes: int) -> int | None:
        """Up to which seq to drop what is not in flight, to free `body_bytes` or all there is; None if nothing is."""
        last, freed = None, 0
        for seq, size in heapq.merge(*(queue.droppable() for queue in self.queues.values() if len(queue))):
            last = seq
            freed += size
            if freed >= body_bytes:
                break
        return last

"""The in-memory index of pending events: all device queues, by id and by device.

Rules: a queue is a StoredQueue only while it has several pending events, an event in flight or quarantined events. Each
other one is quiet (see `quiet_queues`), because a relay may remember a million of them. `queue` makes a queue a
StoredQueue, and `calm` makes it quiet again. This module uses neither disks nor clocks.
"""

from __future__ import annotations

import heapq
import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence

from relay.event.reader import DeviceKey
from relay.outbox import Backlog
from relay.outbox.engine.quiet_queues import QuietQueues
from relay.outbox.engine.stored_queue import StoredQueue


class Index:
    """All device queues of the outbox."""

    def __init__(self) -> None:
        self.by_key: dict[DeviceKey, int] = {}
        self.next_queue_id = 1
        self._quiet = QuietQueues()
        self._stored: dict[int, StoredQueue] = {}

    def __len__(self) -> int:
        return len(self.by_key)

    def __contains__(self, queue_id: int) -> bool:
        return self.key_of(queue_id) is not None

    def __iter__(self) -> Iterator[Backlog]:
        """Return the backlog of each queue."""
        for queue_id in self.by_key.values():  # Callers that store an id share the object.
            backlog = self.backlog(queue_id)
            assert backlog is not None, queue_id
            yield backlog

    # -- queues --------------------------------------------------------------------------------------

    def add(self, queue_id: int, key: DeviceKey) -> None:
        """Add an empty queue. Its id is larger than all ids before."""
        self.by_key[key] = queue_id
        self._quiet.add(queue_id, key)
        self.reserve(queue_id + 1)

    def reserve(self, next_queue_id: int) -> None:
        """Assign no id below this one to a new queue."""
        self.next_queue_id = max(self.next_queue_id, next_queue_id)

    def forget(self, queue_id: int) -> None:
        assert queue_id not in self._stored, queue_id
        del self.by_key[self._quiet.remove(queue_id)]

    def key_of(self, queue_id: int) -> DeviceKey | None:
        return self._quiet.key_of(queue_id)

    def find(self, queue_id: int) -> StoredQueue | None:
        """Return a queue, so that the caller may change it; None if it does not exist. `calm` must follow."""
        queue = self._stored.get(queue_id)
        if queue is None and (taken := self._quiet.take(queue_id)) is not None:
            key, event = taken
            queue = self._stored[queue_id] = StoredQueue(key)
            if event is not None:
                queue.append(*event)
        return queue

    def queue(self, queue_id: int) -> StoredQueue:
        """Return a queue that exists, see `find`."""
        queue = self.find(queue_id)
        assert queue is not None, queue_id
        return queue

    def calm(self, queue_id: int) -> None:
        """Store a queue in the compact form if it is quiet."""
        queue = self._stored.get(queue_id)
        if queue is not None and queue.is_quiet:
            for seq, body_bytes in zip(queue.seqs(1), queue.sizes(1), strict=True):
                self._quiet.append(queue_id, seq, body_bytes)
            del self._stored[queue_id]

    def append(self, seqs: Iterable[int], numbers: Sequence[int], sizes: Sequence[int]) -> None:
        """Append events, given by seq, queue id and body size of each."""
        stored, quiet = self._stored, self._quiet
        for seq, number, size in zip(seqs, numbers, sizes, strict=True):
            if (queue := stored.get(number)) is not None:
                queue.append(seq, size)
            elif not quiet.append(number, seq, size):
                self.queue(number).append(seq, size)

    # -- what a queue contains -----------------------------------------------------------------------

    def is_idle(self, queue_id: int) -> bool:
        """Return whether a queue exists, has no pending events, and none is in flight or quarantined."""
        queue = self._stored.get(queue_id)
        if queue is not None:
            return not len(queue) and queue.in_flight is None and not queue.quarantined
        return queue_id in self and self._quiet.event_of(queue_id) is None

    def is_pending(self, queue_id: int, seq: int) -> bool:
        """Return whether an event is pending, quarantined ones included."""
        queue = self._stored.get(queue_id)
        if queue is not None:
            return seq in queue or queue.is_quarantined(seq)
        event = self._quiet.event_of(queue_id)
        return event is not None and event.seq == seq

    def backlog(self, queue_id: int) -> Backlog | None:
        """Return the backlog of a queue; None if it does not exist."""
        queue = self._stored.get(queue_id)
        return self._quiet.backlog(queue_id) if queue is None else (queue_id, queue.key, len(queue), queue.body_bytes)

    def sizes(self, queue_id: int, limit: int) -> Sequence[int]:
        """Return the body sizes of the first `limit` pending events of a queue, in bytes."""
        queue = self._stored.get(queue_id)
        if queue is not None:
            return queue.sizes(limit)
        event = self._quiet.event_of(queue_id)
        return () if event is None or not limit else (event.body_bytes,)

    # -- all queues ----------------------------------------------------------------------------------

    def in_flight(self) -> dict[int, StoredQueue]:
        """Return the queues with events in flight, by id."""
        return {number: queue for number, queue in self._stored.items() if queue.in_flight is not None}

    def is_busy(self) -> bool:
        """Whether any event is in flight."""
        return any(queue.in_flight is not None for queue in self._stored.values())

    def quarantined(self) -> int:
        """Return the number of quarantined events."""
        return sum(len(queue.quarantined) for queue in self._stored.values())

    def first_quarantined(self, limit: int) -> list[tuple[int, int]]:
        """Return (seq, queue id) of the oldest quarantined events, at most `limit`."""
        queues = (
            [(seq, number) for seq in queue.quarantined[:limit]]
            for number, queue in self._stored.items()
            if queue.quarantined
        )
        return list(itertools.islice(heapq.merge(*queues), limit))

    def first_row_seq(self) -> int | None:
        """Return the seq of the oldest row that must stay, quarantined ones included; O(queues)."""
        quarantined = (queue.quarantined[0] for queue in self._stored.values() if queue.quarantined)
        return min((seq for seq in (self.first_seq(), min(quarantined, default=None)) if seq is not None), default=None)

    def first_seq(self) -> int | None:
        """Return the seq of the oldest pending event; O(queues)."""
        seqs = (self._quiet.first_seq(), *(queue.first_seq for queue in self._stored.values()))
        return min((seq for seq in seqs if seq is not None), default=None)

    def pending_to(self, last_seq: int) -> Iterator[tuple[int, array[int], array[int]]]:
        """Return (queue id, seqs in flight, later seqs) of the queues with pending events up to `last_seq`."""
        for number, queue in self._stored.items():
            in_flight = queue.in_flight.seqs if queue.in_flight is not None else array("Q")
            events = queue.count_to(last_seq) - len(in_flight)
            if in_flight or events > 0:
                yield number, in_flight, queue.seqs(max(events, 0), len(in_flight))
        for number, event in self._quiet.events(0, last_seq):
            yield number, array("Q"), array("Q", [event.seq])

    def oldest_droppable(self, body_bytes: int) -> int | None:
        """Return the last seq to drop, so that events that are not in flight free `body_bytes`, or
        as much as possible.

        None if every event is in flight.
        """
        last, freed = None, 0
        queues = (queue.droppable() for queue in self._stored.values() if len(queue))
        for seq, size in heapq.merge(self._quiet.in_order(), *queues):
            last = seq
            freed += size
            if freed >= body_bytes:
                break
        return last

"""The queue of expensive datagrams, which are read in steps.

Rules:
1.  Each call of `read_step` runs one step of the oldest datagram, so expensive datagrams delay other work by at most
    one step.
2.  The queue is bounded. A datagram that does not fit is dropped and counted.
3.  An exception affects only the datagram that causes it.

Independent of the content of a datagram.
"""

from __future__ import annotations

from collections import deque

from relay.event.reader import Reading, Rejection
from relay.ingest.udp.outcomes import Outcomes
from relay.ingest.udp.read_batch import ReadBatch, ReceivedDatagram

_OVERHEAD_BYTES = 512
"""Memory that a queued datagram uses in addition to its data. The kernel counts the same for its buffer."""


class ExpensiveDatagrams:
    """The queued datagrams with their readings, oldest first."""

    def __init__(self, max_bytes: int, outcomes: Outcomes) -> None:
        """`max_bytes` limits the size of the queue. One datagram fits into every queue."""
        self._max_bytes = max_bytes
        self._outcomes = outcomes
        self._queue: deque[tuple[ReceivedDatagram, Reading]] = deque()
        self._queue_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    def add(self, received: ReceivedDatagram, reading: Reading) -> None:
        """Add a datagram. `reading` returns its events in steps."""
        size_bytes = len(received.data) + _OVERHEAD_BYTES
        if self._queue and self._queue_bytes + size_bytes > self._max_bytes:
            self._outcomes.dropped("backlog", received.sender)
            return
        self._queue.append((received, reading))
        self._queue_bytes += size_bytes

    def read_step(self) -> ReadBatch | None:
        """Run one step of the first datagram; return its events if it was the last step. The queue is not empty."""
        received, reading = self._queue[0]
        try:
            next(reading)
            return None
        except StopIteration as done:
            events = done.value
        except Exception as bug:
            self._remove_first()
            self._outcomes.failed(bug, received)
            return None
        self._remove_first()
        if isinstance(events, Rejection):
            self._outcomes.rejected(events, received)
            return None
        return ReadBatch(events, [len(events)], [len(received.data)], [received.sender], received.receiver)

    def drop_all(self) -> None:
        """Drop and count all datagrams."""
        while self._queue:
            self._outcomes.dropped("backlog", self._remove_first().sender)

    def _remove_first(self) -> ReceivedDatagram:
        received, _ = self._queue.popleft()
        self._queue_bytes -= len(received.data) + _OVERHEAD_BYTES
        assert (self._queue_bytes > 0) == bool(self._queue), "the size of the queue is wrong"
        return received

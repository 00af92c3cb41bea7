"""The queue of expensive datagrams, which are read in steps.

Rules:
1.  Each call of `read_step` runs one step of the oldest datagram, so expensive datagrams delay other work by at most
    one step.
2.  The queue is bounded. A datagram that does not fit is dropped and counted.
3.  A datagram inflates to at most `MAX_INFLATED_BYTES`, and is read up to its first error.
"""

from __future__ import annotations

from collections import deque

from relay.event.reader import Reader, Reading, Rejection
from relay.http.content_coding import GZIP_MAGIC, InflateError, inflating
from relay.ingest.udp.outcomes import Outcomes
from relay.ingest.udp.read_batch import DatagramSummary, ReadBatch, ReceivedDatagram

MAX_INFLATED_BYTES = 256 << 10
NUL = b"\0"
_OVERHEAD_BYTES = 512
"""Memory that a queued datagram uses in addition to its data. The kernel counts the same for its buffer."""


class ExpensiveDatagrams:
    """The queued datagrams, oldest first."""

    def __init__(self, max_bytes: int, max_datagram_bytes: int, outcomes: Outcomes) -> None:
        """`max_bytes` limits the size of the queue. One datagram fits into every queue."""
        self._max_bytes = max_bytes
        self._max_inflated_bytes = min(max_datagram_bytes, MAX_INFLATED_BYTES)
        self._outcomes = outcomes
        self._queue: deque[ReceivedDatagram] = deque()
        self._queue_bytes = 0
        self._reading: Reading | None = None
        """Reads the first datagram of the queue."""

    def __bool__(self) -> bool:
        return bool(self._queue)

    def add(self, received: ReceivedDatagram) -> None:
        size_bytes = len(received.data) + _OVERHEAD_BYTES
        if self._queue and self._queue_bytes + size_bytes > self._max_bytes:
            self._outcomes.dropped("backlog", received.sender)
            return
        self._queue.append(received)
        self._queue_bytes += size_bytes

    def read_step(self, reader: Reader) -> ReadBatch | None:
        """Run one step of the first datagram; return its events if it was the last step. The queue is not empty."""
        received = self._queue[0]
        if self._reading is None:
            self._reading = self._read_in_steps(received.data, reader)
        try:
            next(self._reading)
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
        return ReadBatch(events, [DatagramSummary(len(events), len(received.data), received.sender)], received.receiver)

    def drop_all(self) -> None:
        """Drop and count all datagrams."""
        while self._queue:
            self._outcomes.dropped("backlog", self._remove_first().sender)

    def _remove_first(self) -> ReceivedDatagram:
        self._reading = None
        removed = self._queue.popleft()
        self._queue_bytes -= len(removed.data) + _OVERHEAD_BYTES
        assert (self._queue_bytes > 0) == bool(self._queue), "the size of the queue is wrong"
        return removed

    def _read_in_steps(self, data: bytes, reader: Reader) -> Reading:
        if data[:2] == GZIP_MAGIC:
            body = yield from inflating(data, "gzip", self._max_inflated_bytes, padded=True)
            if not isinstance(body, bytes):
                return not_inflated(body, self._max_inflated_bytes)
            data = body
        return (yield from reader.reading(data.rstrip(NUL), "datagram"))


def not_inflated(error: InflateError, max_bytes: int) -> Rejection:
    """Return the rejection of a datagram whose gzip cannot be inflated to at most `max_bytes`."""
    if error == "malformed":
        return Rejection(error, "The datagram's gzip is truncated or corrupt.")
    return Rejection(error, f"The datagram inflates to more than {max_bytes} bytes.")

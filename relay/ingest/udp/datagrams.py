"""Convert datagrams to events: small datagrams at once, expensive ones later and in steps.

Rules:
1.  A datagram is small if it has at most `SMALL_BYTES`, or inflates to at most `SMALL_INFLATED_BYTES` in one step. Any
    other datagram is expensive and is added to a backlog. Each call of `read_step` takes one step of one expensive
    datagram, so expensive datagrams delay a small one by at most one step.
2.  The backlog is bounded. When it is full, expensive datagrams are dropped and counted, and small ones are still read.
3.  A datagram inflates to at most `MAX_INFLATED_BYTES`, and is read up to its first error. NUL bytes at its end are
    ignored.
4.  An exception affects only the datagram that causes it.

Independent of the outbox and of responses. Datagrams without valid events are reported to `RejectedDatagrams`.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Generator
from typing import Any, NamedTuple, Protocol

from relay.event.reader import Event, Reader, Reading, Rejection
from relay.http.content_coding import GZIP_MAGIC, InflateError, inflate_at_once, inflating
from relay.http.guard import Networks
from relay.ingest.udp.read_batch import DatagramSummary, ReadBatch
from relay.ingest.udp.recvmmsg import Datagram

SMALL_BYTES = 8_192
SMALL_INFLATED_BYTES = 2_048
"""Less than `SMALL_BYTES`, because a compressed datagram is cheap for its sender."""
MAX_INFLATED_BYTES = 256 << 10
_BYTES_PER_CALL = 65_536
"""Limit for one call that reads datagrams together: about 1 ms of work."""
_BYTES_EACH = 32_768
"""Limit for one call that reads datagrams one by one: 3 ms of work at most."""
_OVERHEAD_BYTES = 512
"""Memory that a datagram in the backlog uses in addition to its data. The kernel counts the same for its buffer."""

NUL = b"\0"


class ReceivedDatagram(NamedTuple):
    """A datagram, its sender and the socket that received it."""

    data: bytes
    sender: Any
    receiver: socket.socket


class RejectedDatagrams(Protocol):
    """Handles datagrams that were not read as events."""

    def dropped(self, reason: str, sender: Any) -> None: ...

    def rejected(self, rejection: Rejection, received: ReceivedDatagram) -> None: ...

    def failed(self, bug: Exception, received: ReceivedDatagram) -> None: ...

    def reading_together_failed(self, bug: Exception) -> None: ...


class Datagrams:
    """Reads the datagrams of one or more sockets."""

    def __init__(
        self,
        reader: Reader,
        max_datagram_bytes: int,
        max_backlog_bytes: int,
        networks: Networks,
        outcomes: RejectedDatagrams,
    ) -> None:
        self.reader = reader
        """A reload of the configuration may replace the reader."""
        self.max_backlog_bytes = max_backlog_bytes
        self._max_datagram_bytes = max_datagram_bytes
        self._max_inflated_bytes = min(max_datagram_bytes, MAX_INFLATED_BYTES)
        self._networks = networks
        self._outcomes = outcomes
        self._backlog: deque[ReceivedDatagram] = deque()
        """Expensive datagrams, oldest first. If `_reading` is set, it reads the first one."""
        self._backlog_bytes = 0
        self._reading: Reading | None = None

    @property
    def has_backlog(self) -> bool:
        """Whether expensive datagrams are pending."""
        return bool(self._backlog)

    def read_small(self, unread: deque[Datagram], receiver: socket.socket) -> ReadBatch:
        """Read datagrams of one socket up to the limit of a call, and remove them from `unread`."""
        try:
            batch = self._read_together(unread, receiver)
        except Exception as bug:  # Reading the datagrams one by one shows which one causes the exception.
            self._outcomes.reading_together_failed(bug)
            batch = None
        return batch or self._read_each(unread, receiver)

    def read_step(self) -> ReadBatch | None:
        """Run one step of the first datagram of the backlog; return its events if it was the last step."""
        received = self._backlog[0]
        self._reading = self._reading or self._reading_expensive(received.data)
        try:
            next(self._reading)
            return None
        except StopIteration as done:
            self._end_reading(received)
            return self._batch_of(done.value, received)
        except Exception as bug:
            self._end_reading(received)
            self._outcomes.failed(bug, received)
            return None

    def drop_backlog(self) -> None:
        """Drop and count the datagrams of the backlog."""
        self._reading = None
        self._backlog_bytes = 0
        while self._backlog:
            self._outcomes.dropped("backlog", self._backlog.popleft().sender)

    def _read_together(self, unread: deque[Datagram], receiver: socket.socket) -> ReadBatch | None:
        """Read all datagrams if each is one small proven event from an allowed network; else return None."""
        if len(unread) < 2:
            return None
        bodies = [data.rstrip(NUL) for data, _ in unread]
        sizes = [len(data) for data, _ in unread]
        if sum(sizes) > _BYTES_PER_CALL or max(sizes) > min(SMALL_BYTES, self._max_datagram_bytes):
            return None
        senders = [sender for _, sender in unread]
        if not all(self._networks.allows(sender[0]) for sender in set(senders)):
            return None
        events = self.reader.read_singles(bodies)
        if events is None:
            return None
        datagrams = [DatagramSummary(1, size, sender) for size, sender in zip(sizes, senders, strict=True)]
        unread.clear()
        return ReadBatch(events, datagrams, receiver)

    def _read_each(self, unread: deque[Datagram], receiver: socket.socket) -> ReadBatch:
        """Read datagrams one by one. Expensive ones are added to the backlog."""
        batch = ReadBatch([], [], receiver)
        read_bytes = 0
        while unread and read_bytes < _BYTES_EACH:
            received = ReceivedDatagram(*unread.popleft(), receiver)
            try:
                read_bytes += self._read_one(received, batch)
            except Exception as bug:
                self._outcomes.failed(bug, received)
                break  # The failed read may have taken long.
        return batch

    def _read_one(self, received: ReceivedDatagram, batch: ReadBatch) -> int:
        """Read one datagram into `batch`; return the number of processed bytes, inflated."""
        data, sender, _ = received
        if not self._networks.allows(sender[0]):
            self._outcomes.dropped("network", sender)
            return 0
        if len(data) > self._max_datagram_bytes:
            self._outcomes.dropped("truncated", sender)
            return 0
        body: bytes | InflateError | None = data
        if data[:2] == GZIP_MAGIC:
            body = None
            if len(data) <= SMALL_BYTES:
                body = inflate_at_once(data, "gzip", SMALL_INFLATED_BYTES, padded=True)
        if body == "malformed":
            self._outcomes.rejected(self._not_inflated(body), received)
            return len(data)
        if not isinstance(body, bytes) or len(body) > SMALL_BYTES:
            self._defer(received)
            return len(data)
        events = self.reader.read(body.rstrip(NUL), "datagram")
        if isinstance(events, Rejection):
            self._outcomes.rejected(events, received)
        else:
            batch.events.extend(events)
            batch.datagrams.append(DatagramSummary(len(events), len(data), sender))
        return len(body)

    def _defer(self, received: ReceivedDatagram) -> None:
        size_bytes = len(received.data) + _OVERHEAD_BYTES
        if self._backlog and self._backlog_bytes + size_bytes > self.max_backlog_bytes:
            self._outcomes.dropped("backlog", received.sender)
            return
        self._backlog.append(received)
        self._backlog_bytes += size_bytes

    def _reading_expensive(self, data: bytes) -> Generator[None, None, list[Event] | Rejection]:
        if data[:2] == GZIP_MAGIC:
            body = yield from inflating(data, "gzip", self._max_inflated_bytes, padded=True)
            if not isinstance(body, bytes):
                return self._not_inflated(body)
            data = body
        return (yield from self.reader.reading(data.rstrip(NUL), "datagram"))

    def _not_inflated(self, fault: InflateError) -> Rejection:
        if fault == "malformed":
            return Rejection(fault, "The datagram's gzip is truncated or corrupt.")
        return Rejection(fault, f"The datagram inflates to more than {self._max_inflated_bytes} bytes.")

    def _end_reading(self, received: ReceivedDatagram) -> None:
        self._reading = None
        self._backlog.popleft()
        self._backlog_bytes -= len(received.data) + _OVERHEAD_BYTES

    def _batch_of(self, events: list[Event] | Rejection, received: ReceivedDatagram) -> ReadBatch | None:
        if isinstance(events, Rejection):
            self._outcomes.rejected(events, received)
            return None
        return ReadBatch(events, [DatagramSummary(len(events), len(received.data), received.sender)], received.receiver)

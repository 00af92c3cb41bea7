"""Convert datagrams to events: small datagrams at once, expensive ones later and in steps.

Rules:
1.  A datagram is small if it has at most `SMALL_BYTES`, or inflates to at most `SMALL_INFLATED_BYTES` in one step. Any
    other datagram is expensive and is queued (`expensive`).
2.  A datagram inflates to at most `MAX_INFLATED_BYTES`, and is read up to its first error. NUL bytes at its end are
    ignored.
3.  An exception affects only the datagram that causes it.
"""

from __future__ import annotations

import socket
from collections import deque

from relay.event.reader import Reader, Reading, Rejection
from relay.http.content_coding import GZIP_MAGIC, InflateError, inflate_at_once, inflating
from relay.http.guard import Networks
from relay.ingest.udp.expensive import ExpensiveDatagrams
from relay.ingest.udp.outcomes import Outcomes
from relay.ingest.udp.read_batch import ReadBatch, ReceivedDatagram
from relay.ingest.udp.recvmmsg import Datagram

SMALL_BYTES = 8_192
SMALL_INFLATED_BYTES = 2_048
"""Less than `SMALL_BYTES`, because a compressed datagram is cheap for its sender."""
MAX_INFLATED_BYTES = 256 << 10
_NUL = b"\0"
_BYTES_PER_CALL = 65_536
"""Limit for one call that reads datagrams together: about 1 ms of work."""
_BYTES_EACH = 32_768
"""Limit for one call that reads datagrams one by one: 3 ms of work at most."""


class Datagrams:
    """Reads the datagrams of one or more sockets."""

    def __init__(
        self,
        reader: Reader,
        max_datagram_bytes: int,
        networks: Networks,
        outcomes: Outcomes,
        expensive: ExpensiveDatagrams,
    ) -> None:
        self._reader = reader
        self._max_datagram_bytes = max_datagram_bytes
        self._max_inflated_bytes = min(max_datagram_bytes, MAX_INFLATED_BYTES)
        self._networks = networks
        self._outcomes = outcomes
        self._expensive = expensive

    def use_reader(self, reader: Reader) -> None:
        """Read with another reader, after a reload of the configuration."""
        self._reader = reader

    def read_small(self, unprocessed: deque[Datagram], receiver: socket.socket) -> ReadBatch:
        """Read datagrams of one socket up to the limit of a call, and remove them from `unprocessed`."""
        try:
            batch = self._read_together(unprocessed, receiver)
        except Exception as bug:  # Reading the datagrams one by one shows which one causes the exception.
            self._outcomes.reading_together_failed(bug)
            batch = None
        return batch or self._read_each(unprocessed, receiver)

    def _read_together(self, unprocessed: deque[Datagram], receiver: socket.socket) -> ReadBatch | None:
        """Read all datagrams if each is one small proven event from an allowed network; else return None."""
        if len(unprocessed) < 2:
            return None
        sizes = [len(data) for data, _ in unprocessed]
        if sum(sizes) > _BYTES_PER_CALL or max(sizes) > min(SMALL_BYTES, self._max_datagram_bytes):
            return None
        senders = [sender for _, sender in unprocessed]
        if not all(self._networks.allows(sender[0]) for sender in set(senders)):
            return None
        events = self._reader.read_singles([data.rstrip(_NUL) for data, _ in unprocessed])
        if events is None:
            return None
        unprocessed.clear()
        return ReadBatch(events, [1] * len(events), sizes, senders, receiver)

    def _read_each(self, unprocessed: deque[Datagram], receiver: socket.socket) -> ReadBatch:
        """Read datagrams one by one. Expensive ones are queued."""
        batch = ReadBatch([], [], [], [], receiver)
        read_bytes = 0
        while unprocessed and read_bytes < _BYTES_EACH:
            received = ReceivedDatagram(*unprocessed.popleft(), receiver)
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
            self._expensive.add(received, self._read_in_steps(data, self._reader))
            return len(data)
        events = self._reader.read(body.rstrip(_NUL), "datagram")
        if isinstance(events, Rejection):
            self._outcomes.rejected(events, received)
        else:
            batch.events.extend(events)
            batch.event_counts.append(len(events))
            batch.sizes.append(len(data))
            batch.senders.append(sender)
        return len(body)

    def _read_in_steps(self, data: bytes, reader: Reader) -> Reading:
        if data[:2] == GZIP_MAGIC:
            body = yield from inflating(data, "gzip", self._max_inflated_bytes, padded=True)
            if not isinstance(body, bytes):
                return self._not_inflated(body)
            data = body
        return (yield from reader.reading(data.rstrip(_NUL), "datagram"))

    def _not_inflated(self, error: InflateError) -> Rejection:
        if error == "malformed":
            return Rejection(error, "The datagram's gzip is truncated or corrupt.")
        return Rejection(error, f"The datagram inflates to more than {self._max_inflated_bytes} bytes.")

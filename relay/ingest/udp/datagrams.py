"""Convert datagrams to events: small datagrams at once, expensive ones later and in steps.

Rules:
1.  A datagram is small if it has at most `SMALL_BYTES`, or inflates to at most `SMALL_INFLATED_BYTES` in one step. Any
    other datagram is expensive and is queued (`expensive`). Small datagrams are read before expensive ones.
2.  NUL bytes at the end of a datagram are ignored.
3.  An exception affects only the datagram that causes it.
"""

from __future__ import annotations

import socket
from collections import deque

from relay.event.reader import Reader, Rejection
from relay.http.content_coding import GZIP_MAGIC, InflateError, inflate_at_once
from relay.http.guard import Networks
from relay.ingest.udp.expensive import NUL, ExpensiveDatagrams, not_inflated
from relay.ingest.udp.outcomes import Outcomes
from relay.ingest.udp.read_batch import DatagramSummary, ReadBatch, ReceivedDatagram
from relay.ingest.udp.recvmmsg import Datagram

SMALL_BYTES = 8_192
SMALL_INFLATED_BYTES = 2_048
"""Less than `SMALL_BYTES`, because a compressed datagram is cheap for its sender."""
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
        max_backlog_bytes: int,
        networks: Networks,
        outcomes: Outcomes,
    ) -> None:
        self._reader = reader
        self._max_datagram_bytes = max_datagram_bytes
        self._networks = networks
        self._outcomes = outcomes
        self._expensive = ExpensiveDatagrams(max_backlog_bytes, max_datagram_bytes, outcomes)

    def use_reader(self, reader: Reader) -> None:
        """Read with another reader, after a reload of the configuration."""
        self._reader = reader

    @property
    def has_backlog(self) -> bool:
        """Whether expensive datagrams are pending."""
        return bool(self._expensive)

    def read_small(self, unprocessed: deque[Datagram], receiver: socket.socket) -> ReadBatch:
        """Read datagrams of one socket up to the limit of a call, and remove them from `unprocessed`."""
        try:
            batch = self._read_together(unprocessed, receiver)
        except Exception as bug:  # Reading the datagrams one by one shows which one causes the exception.
            self._outcomes.reading_together_failed(bug)
            batch = None
        return batch or self._read_each(unprocessed, receiver)

    def read_step(self) -> ReadBatch | None:
        """Run one step of the first datagram of the backlog; return its events if it was the last step."""
        return self._expensive.read_step(self._reader)

    def drop_backlog(self) -> None:
        """Drop and count the datagrams of the backlog."""
        self._expensive.drop_all()

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
        events = self._reader.read_singles([data.rstrip(NUL) for data, _ in unprocessed])
        if events is None:
            return None
        datagrams = [DatagramSummary(1, size, sender) for size, sender in zip(sizes, senders, strict=True)]
        unprocessed.clear()
        return ReadBatch(events, datagrams, receiver)

    def _read_each(self, unprocessed: deque[Datagram], receiver: socket.socket) -> ReadBatch:
        """Read datagrams one by one. Expensive ones are added to the backlog."""
        batch = ReadBatch([], [], receiver)
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
            self._outcomes.rejected(not_inflated(body, SMALL_INFLATED_BYTES), received)
            return len(data)
        if not isinstance(body, bytes) or len(body) > SMALL_BYTES:
            self._expensive.add(received)
            return len(data)
        events = self._reader.read(body.rstrip(NUL), "datagram")
        if isinstance(events, Rejection):
            self._outcomes.rejected(events, received)
        else:
            batch.events.extend(events)
            batch.datagrams.append(DatagramSummary(len(events), len(data), sender))
        return len(body)

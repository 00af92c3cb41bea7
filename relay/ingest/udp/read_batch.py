"""Received datagrams, and the events that were read from them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from relay.event.reader import Event


class ReceivedDatagram(NamedTuple):
    """A datagram, its sender and the socket that received it."""

    data: bytes
    sender: Any
    """Address as `socket.recvfrom` returns it."""
    receiver: socket.socket


class DatagramSummary(NamedTuple):
    """A datagram whose events are in a batch."""

    event_count: int
    size_bytes: int
    """Size as received."""
    sender: Any


class ReadBatch(NamedTuple):
    """Events that are appended to the outbox in one call."""

    events: list[Event]
    datagrams: list[DatagramSummary]
    receiver: socket.socket
    """The socket that received the datagrams. It also sends the responses."""

    def per_datagram(self) -> Iterator[ReadBatch]:
        """Yield one batch per datagram."""
        start = 0
        for datagram in self.datagrams:
            yield ReadBatch(self.events[start : start + datagram.event_count], [datagram], self.receiver)
            start += datagram.event_count

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


class ReadBatch(NamedTuple):
    """Events that are appended to the outbox in one call, and their datagrams by column."""

    events: list[Event]
    event_counts: list[int]
    """Number of events of each datagram, in their order."""
    sizes: list[int]
    """Size of each datagram as received, in bytes."""
    senders: list[Any]
    receiver: socket.socket
    """The socket that received the datagrams. It also sends the responses."""

    def per_datagram(self) -> Iterator[ReadBatch]:
        """Yield one batch per datagram."""
        start = 0
        for count, size, sender in zip(self.event_counts, self.sizes, self.senders, strict=True):
            yield ReadBatch(self.events[start : start + count], [count], [size], [sender], self.receiver)
            start += count

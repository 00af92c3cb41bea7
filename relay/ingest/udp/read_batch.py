"""What one wake of the UDP listener read from one socket: events, and the datagrams that contained them.

Knows nothing of reading.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from relay.event.reader import Event


class DatagramSummary(NamedTuple):
    """A datagram that was read."""

    event_count: int
    size_bytes: int
    sender: Any


class ReadBatch(NamedTuple):
    """What is appended in one call."""

    events: list[Event]
    datagrams: list[DatagramSummary]
    receiver: socket.socket
    """Received the datagrams, and sends the responses."""

    def per_datagram(self) -> Iterator[ReadBatch]:
        """Each datagram's events by themselves."""
        start = 0
        for datagram in self.datagrams:
            yield ReadBatch(self.events[start : start + datagram.event_count], [datagram], self.receiver)
            start += datagram.event_count

"""What one wake of the UDP listener read from one socket: events, and the datagrams that contained them.

Knows nothing of reading.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from relay.event.reader import Event


class Origin(NamedTuple):
    """A datagram that was read."""

    events: int
    size_bytes: int
    sender: Any


class Wake(NamedTuple):
    """What is appended in one call."""

    events: list[Event]
    origins: list[Origin]
    through: socket.socket
    """Received the datagrams, and sends the responses."""

    def apart(self) -> Iterator[Wake]:
        """Each datagram's events by themselves."""
        start = 0
        for origin in self.origins:
            yield Wake(self.events[start : start + origin.events], [origin], self.through)
            start += origin.events

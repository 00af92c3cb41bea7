"""What one wake of the UDP listener read: events, and the datagrams they came in.

Knows nothing of sockets and of reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from relay.event import Event


class Origin(NamedTuple):
    """A datagram that was read."""

    events: int
    size_bytes: int
    sender: Any


class Wake(NamedTuple):
    """What is appended in one call."""

    events: list[Event]
    origins: list[Origin]

    def apart(self) -> Iterator[Wake]:
        """Each datagram's events by themselves."""
        start = 0
        for origin in self.origins:
            yield Wake(self.events[start : start + origin.events], [origin])
            start += origin.events

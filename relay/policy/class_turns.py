"""The classes of devices, and the class that the next request is for (G6).

Rules:
- Classes are served in their order, but none waits for more than six requests of the others, so that each gets more
  than one eighth of the requests while it has some.
- The first two classes are the quiet devices: known devices with less than one batch. Those with a small part of a
  batch are first, so that a few events do not wait for the batches of a thousand busier devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

_MAX_WAIT = 6
"""Requests of other classes for which a class waits. Contract G6 permits seven."""
SPARSE_PART = 32
"""A sparse device has at most one such part of a batch, so that a request has room for as many devices."""


class DeviceClass(IntEnum):
    """In the order of service."""

    SPARSE = 0
    """Known, with at most one event or one `SPARSE_PART`th of a batch."""
    QUIET = 1
    """Known, with less than one batch."""
    BACKLOG = 2
    """Known, with at least one batch."""
    NEW = 3
    """No event was delivered yet."""
    IN_DOUBT = 4
    """The latest request failed, and so may the next one. Its requests are trials, see `request_slots`."""


CLASSES: Sequence[DeviceClass] = tuple(DeviceClass)


class ClassTurns:
    """Which class the next request is for."""

    __slots__ = ("_latest", "_requests")

    def __init__(self) -> None:
        self._requests = 0
        self._latest = [0] * len(CLASSES)  # The number of the latest request of each class.

    def __repr__(self) -> str:
        waited = {each.name: self._requests - self._latest[each] for each in CLASSES}
        return f"ClassTurns({waited})"

    def choose(self, ready: Sequence[DeviceClass]) -> DeviceClass:
        """Return the class of the next request among the classes in `ready`, which are in order."""
        if len(ready) > 1:
            longest = sorted(ready, key=self._latest.__getitem__)
            for requests_before, each in enumerate(longest):
                if self._requests - self._latest[each] + requests_before >= _MAX_WAIT:
                    return longest[0]
        return ready[0]

    def served(self, device_class: DeviceClass) -> None:
        """Record a request of a class."""
        self._requests += 1
        self._latest[device_class] = self._requests

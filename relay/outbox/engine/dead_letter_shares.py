"""Which dead letters to delete at a limit: the oldest of the device whose dead letters use the most.

A dead letter uses a part of both limits of the dead letters, their number and the size of their bodies. Rule: a device
that uses at most an equal part of the limits loses no dead letter, whatever other devices do. An addition and a removal
cost O(log devices), and a dead letter takes 12 bytes. This module does not use the disk.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Hashable
from typing import NamedTuple

_SLACK = 64
"""Removed dead letters of a device, and outdated entries of the heap, that may stay in memory."""


class _Use(NamedTuple):
    """The present use of a device, ordered so that the device to lose a dead letter is first."""

    negative_use: int
    oldest_id: int
    device: Hashable


class _Letters:
    """The dead letters of a device, oldest first."""

    __slots__ = ("_gone", "_ids", "_sizes", "body_bytes")

    def __init__(self) -> None:
        self._ids: array[int] = array("Q")
        self._sizes: array[int] = array("I")
        self._gone = 0
        self.body_bytes = 0

    def __len__(self) -> int:
        return len(self._ids) - self._gone

    @property
    def oldest_id(self) -> int:
        return self._ids[self._gone]

    def add(self, letter_id: int, body_bytes: int) -> None:
        self._ids.append(letter_id)
        self._sizes.append(body_bytes)
        self.body_bytes += body_bytes

    def remove_oldest(self) -> tuple[int, int]:
        removed = self._ids[self._gone], self._sizes[self._gone]
        self._gone += 1
        self.body_bytes -= removed[1]
        if self._gone > _SLACK and self._gone * 2 > len(self._ids):
            del self._ids[: self._gone], self._sizes[: self._gone]
            self._gone = 0
        return removed


class DeadLetterShares:
    """The dead letters by device. Add them in the order of their ids."""

    def __init__(self, max_letters: int, max_body_bytes: int) -> None:
        self.limits = (max_letters, max_body_bytes)
        self.last_id = 0
        self._devices: dict[Hashable, _Letters] = {}
        self._uses: list[_Use] = []
        """A heap: the present use of each device, and outdated entries."""

    def __repr__(self) -> str:
        return f"<DeadLetterShares: {len(self._devices)} devices, to id {self.last_id}>"

    def add(self, letter_id: int, device: Hashable, body_bytes: int) -> None:
        assert letter_id > self.last_id, "dead letters are out of order"
        self.last_id = letter_id
        self._devices.setdefault(device, _Letters()).add(letter_id, body_bytes)
        if len(self._uses) > 2 * len(self._devices) + _SLACK:
            self._uses = [self._use(each) for each in self._devices]
            heapq.heapify(self._uses)
        else:
            heapq.heappush(self._uses, self._use(device))

    def remove_next(self) -> tuple[int, int] | None:
        """Remove the next dead letter to delete, and return its id and the size of its body; None if there is none."""
        while self._uses:
            device = self._uses[0].device
            letters = self._devices.get(device)
            if letters is None or self._uses[0] != self._use(device):
                heapq.heappop(self._uses)
                continue
            removed = letters.remove_oldest()
            if len(letters):
                heapq.heapreplace(self._uses, self._use(device))
            else:
                heapq.heappop(self._uses)
                del self._devices[device]
            return removed
        return None

    def remove_excess(self, letters: int, body_bytes: int) -> tuple[list[int], int]:
        """Remove dead letters until the rest is within the limits. Return their ids, and the bytes of their bodies.

        `letters`, `body_bytes`: the totals of all dead letters. If the disk has changed them, all may be removed.
        """
        removed: list[int] = []
        removed_bytes = 0
        max_letters, max_body_bytes = self.limits
        while letters - len(removed) > max_letters or body_bytes - removed_bytes > max_body_bytes:
            oldest = self.remove_next()
            if oldest is None:
                break
            removed.append(oldest[0])
            removed_bytes += oldest[1]
        return removed, removed_bytes

    def _use(self, device: Hashable) -> _Use:
        letters = self._devices[device]
        max_letters, max_body_bytes = self.limits
        use = len(letters) * max_body_bytes + letters.body_bytes * max_letters
        return _Use(-use, letters.oldest_id, device)

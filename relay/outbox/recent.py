"""The dedupe window: the ids of the last events appended, and what became of the unlucky ones.

Owns the answer to "was this event_id here lately?". Rules: one slot per seq, slot = seq modulo
window, so that an id leads to its seq and its lane without an object per event (about 85 bytes an
id at most, half of it the set); only what differs from "appended, then delivered in its turn" is
marked. Knows nothing of disks; the outbox keeps `packed` slices of it and feeds them back.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

ID_BYTES = 16
DEAD, DROPPED = 1, 2
"""Marks; 0 is neither."""


class Found(NamedTuple):
    seq: int
    lane: int
    mark: int


class Recent:
    """The ids of the seqs in (last - window, last]; `extend` moves `last`."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.known: set[bytes] = set()
        self._more: dict[bytes, int] = {}
        """Ids with several slots (requeued ones): how many besides the first."""
        self._ids = bytearray(window * ID_BYTES)
        self._lanes = array("I", bytes(window * 4))
        self._marks = bytearray(window)
        self._last = 0

    def extend(self, first_seq: int, ids: Sequence[bytes], lanes: Sequence[int]) -> None:
        """Remember the ids of first_seq, first_seq + 1, ...; what falls out of the window is forgotten."""
        if self.window == 0 or not ids:
            return
        assert self._last in (0, first_seq - 1), "seqs have no gaps"
        if len(ids) > self.window:
            first_seq += len(ids) - self.window
            ids, lanes = ids[-self.window :], lanes[-self.window :]
        done = 0
        while done < len(ids):
            slot = (first_seq + done) % self.window
            count = min(len(ids) - done, self.window - slot)
            self._clear(slot, count)
            piece = ids[done : done + count]
            self._count_again(piece)
            self._ids[slot * ID_BYTES : (slot + count) * ID_BYTES] = b"".join(piece)
            self._lanes[slot : slot + count] = array("I", lanes[done : done + count])
            done += count
        self._last = first_seq + len(ids) - 1
        self.known.discard(_NO_ID)
        self._more.pop(_NO_ID, None)

    def mark(self, seq: int, mark: int) -> None:
        """Note that this event was not delivered; nothing if it is out of the window."""
        if self._holds(seq):
            self._marks[seq % self.window] = mark

    def find(self, event_id: bytes) -> Found | None:
        """The latest slot of an id. Scans the ring: for people and single questions, not per event."""
        if event_id not in self.known:
            return None
        next_slot = (self._last + 1) % self.window
        for low, high in ((0, next_slot), (next_slot, self.window)):
            at = self._rfind(event_id, low, high)
            if at is not None:
                seq = self._last - (self._last - at) % self.window
                return Found(seq, self._lanes[at], self._marks[at])
        raise AssertionError("an id that is known has a slot")

    def packed(self, first_seq: int, last_seq: int) -> tuple[int, bytes, bytes]:
        """What the window holds of a range: (its first seq, ids, marks), to be kept on disk."""
        first_seq = max(first_seq, self._last - self.window + 1)
        if self.window == 0:
            return first_seq, b"", b""
        ids, marks = bytearray(), bytearray()
        seq = first_seq
        while seq <= last_seq:
            slot = seq % self.window
            count = min(last_seq - seq + 1, self.window - slot)
            ids += self._ids[slot * ID_BYTES : (slot + count) * ID_BYTES]
            marks += self._marks[slot : slot + count]
            seq += count
        return first_seq, bytes(ids), bytes(marks)

    def _holds(self, seq: int) -> bool:
        return self._last - self.window < seq <= self._last

    def _clear(self, slot: int, count: int) -> None:
        old = bytes(self._ids[slot * ID_BYTES : (slot + count) * ID_BYTES])
        if old.count(0) != len(old):
            gone = split_ids(old)
            if self._more:
                gone = [event_id for event_id in gone if not self._was_one_of_several(event_id)]
            self.known.difference_update(gone)
            self._ids[slot * ID_BYTES : (slot + count) * ID_BYTES] = bytes(len(old))
        self._marks[slot : slot + count] = bytes(count)

    def _count_again(self, piece: Sequence[bytes]) -> None:
        """Make ids known; those that were, or come twice, have one slot more."""
        fresh = set(piece)
        again = list(self.known.intersection(fresh))
        if len(fresh) < len(piece):
            again += (Counter(piece) - Counter(fresh)).elements()
        for event_id in again:
            self._more[event_id] = self._more.get(event_id, 0) + 1
        self.known |= fresh

    def _was_one_of_several(self, event_id: bytes) -> bool:
        more = self._more.get(event_id)
        if more is None:
            return False
        if more == 1:
            del self._more[event_id]
        else:
            self._more[event_id] = more - 1
        return True

    def _rfind(self, event_id: bytes, low_slot: int, high_slot: int) -> int | None:
        end = high_slot * ID_BYTES
        while (at := self._ids.rfind(event_id, low_slot * ID_BYTES, end)) >= 0:
            if at % ID_BYTES == 0:
                return at // ID_BYTES
            end = at + ID_BYTES - 1
        return None


_NO_ID = bytes(ID_BYTES)
"""An empty slot. As an event_id (the nil UUID is no v4) it would only not be remembered."""


def split_ids(packed: bytes) -> list[bytes]:
    return [packed[at : at + ID_BYTES] for at in range(0, len(packed), ID_BYTES)]

"""The dedupe window: the ids of the last events appended, what became of the unlucky ones, and what their bytes were.

Owns the answer to "was this event_id here lately?". Rules: one slot per seq, slot = seq modulo
window, so that an id leads to its seq, its lane and its check without an object per event (about 135 bytes
an id at most, most of it the set); only what differs from "appended, then delivered in its turn" is marked.
An id is found by the chain of the seqs in its bucket, the latest first. A chain ends at the first seq that is
no longer in the window, so that nothing has to be taken out of it.
Knows nothing of disks; the outbox keeps `packed` slices of the window and feeds them back.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ID_BYTES = 16
CHECK_BYTES = 4
REMEMBERED_BYTES = ID_BYTES + CHECK_BYTES + 1
"""What an id takes on the disk once its row is deleted."""
DEAD, DROPPED = 1, 2
"""Marks; 0 is neither."""


class Found(NamedTuple):
    seq: int
    queue_id: int
    mark: int
    check: int
    """The CRC-32 of the event as received; 0 if it is not known."""


class Packed(NamedTuple):
    """What the window holds of a range of seqs, to be kept on disk."""

    first_seq: int
    ids: bytes
    """ID_BYTES a seq."""
    marks: bytes
    """A byte a seq."""
    checks: bytes
    """CHECK_BYTES a seq, in this machine's byte order."""


class DedupeWindow:
    """The ids of the seqs in (last - window, last]; `extend` moves `last`."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.known: set[bytes] = set()
        """Ids whose event is not stored again: all in the window but those of dropped events."""
        self._more: dict[bytes, int] = {}
        """Ids with several slots (requeued ones): how many besides the first."""
        self._ids = bytearray(window * ID_BYTES)
        self._queues = array("I", bytes(window * 4))
        self._marks = bytearray(window)
        self._checks = array("I", bytes(window * CHECK_BYTES))
        self._mask = (1 << window.bit_length()) - 1
        self._heads = array("Q", bytes(8 * (self._mask + 1)))
        """By bucket of an id's hash: the latest seq; 0 if there is none."""
        self._older = array("Q", bytes(8 * window))
        """By slot: the seq before it in its bucket; 0 if there is none."""
        self._last = 0

    def extend(
        self, first_seq: int, ids: Sequence[bytes], queue_ids: Sequence[int], checks: Sequence[int] | None = None
    ) -> None:
        """Remember the ids of first_seq, first_seq + 1, ...; what falls out of the window is forgotten.

        A check that is 0 is not known. An id that comes again without a check has the check it had.
        """
        if self.window == 0 or not ids:
            return
        assert self._last in (0, first_seq - 1), "seqs have no gaps"
        checks = [0] * len(ids) if checks is None else checks
        if len(ids) > self.window:
            self._clear(0, self.window)
            first_seq += len(ids) - self.window
            ids, queue_ids, checks = ids[-self.window :], queue_ids[-self.window :], checks[-self.window :]
        done = 0
        while done < len(ids):
            seq = first_seq + done
            slot = seq % self.window
            count = min(len(ids) - done, self.window - slot)
            self._clear(slot, count)
            self._last = seq + count - 1  # From here on no chain leads to the slots that are written anew.
            piece, piece_checks = ids[done : done + count], array("I", checks[done : done + count])
            self._count_again(piece, piece_checks)
            self._link(seq, slot, piece)
            self._ids[slot * ID_BYTES : (slot + count) * ID_BYTES] = b"".join(piece)
            self._queues[slot : slot + count] = array("I", queue_ids[done : done + count])
            self._checks[slot : slot + count] = piece_checks
            self.known.discard(_NO_ID)
            self._more.pop(_NO_ID, None)
            done += count

    def mark(self, seq: int, mark: int) -> None:
        """Note that this event was not delivered; nothing if it is out of the window.

        The id of a dropped event is no longer known: if the event is sent again, it is stored.
        """
        if not self._holds(seq):
            return
        if mark == DROPPED:
            self._mark_dropped(seq)
        self._marks[seq % self.window] = mark

    def find(self, event_id: bytes) -> Found | None:
        """Return the latest slot of an id, also of one that was dropped."""
        slot = next(self._slots_of(event_id), None)
        if slot is None:
            return None
        seq = self._last - (self._last - slot) % self.window
        return Found(seq, self._queues[slot], self._marks[slot], self._checks[slot])

    def packed(self, first_seq: int, last_seq: int) -> Packed:
        """Return what the window holds of a range; it may begin later."""
        first_seq = max(first_seq, self._last - self.window + 1)
        if self.window == 0:
            return Packed(first_seq, b"", b"", b"")
        ids, marks, checks = bytearray(), bytearray(), bytearray()
        seq = first_seq
        while seq <= last_seq:
            slot = seq % self.window
            count = min(last_seq - seq + 1, self.window - slot)
            ids += self._ids[slot * ID_BYTES : (slot + count) * ID_BYTES]
            marks += self._marks[slot : slot + count]
            checks += self._checks[slot : slot + count].tobytes()
            seq += count
        return Packed(first_seq, bytes(ids), bytes(marks), bytes(checks))

    def _holds(self, seq: int) -> bool:
        return self._last - self.window < seq <= self._last

    def _slots_of(self, event_id: bytes) -> Iterator[int]:
        """Yield the slots of an id, the latest first."""
        seq = self._heads[hash(event_id) & self._mask]
        while seq > max(self._last - self.window, 0):
            slot = seq % self.window
            if self._ids[slot * ID_BYTES : (slot + 1) * ID_BYTES] == event_id:
                yield slot
            seq = self._older[slot]

    def _mark_dropped(self, seq: int) -> None:
        """Make an id unknown, unless the event was stored again after this seq: then only this slot is dropped.

        Earlier slots of the id (it was a dead letter and then requeued) are dropped with its latest one.
        """
        slot = seq % self.window
        event_id = bytes(self._ids[slot * ID_BYTES : (slot + 1) * ID_BYTES])
        if self._marks[slot] == DROPPED or event_id == _NO_ID:
            return
        slots = list(self._slots_of(event_id))
        if slots[0] != slot:
            self._was_one_of_several(event_id)
            return
        for each in slots:
            self._marks[each] = DROPPED
        self.known.discard(event_id)
        self._more.pop(event_id, None)

    def _clear(self, slot: int, count: int) -> None:
        old = bytes(self._ids[slot * ID_BYTES : (slot + count) * ID_BYTES])
        if old.count(0) != len(old):
            gone = split_ids(old)
            marks = self._marks[slot : slot + count]
            if DROPPED in marks:
                gone = [event_id for event_id, mark in zip(gone, marks, strict=True) if mark != DROPPED]
            if self._more:
                gone = [event_id for event_id in gone if not self._was_one_of_several(event_id)]
            self.known.difference_update(gone)
            self._ids[slot * ID_BYTES : (slot + count) * ID_BYTES] = bytes(len(old))
        self._marks[slot : slot + count] = bytes(count)

    def _count_again(self, piece: Sequence[bytes], checks: array[int]) -> None:
        """Make ids known; those that were, or come twice, have one slot more, and the check they had."""
        fresh = set(piece)
        again = list(self.known.intersection(fresh))
        if again:
            for at, event_id in enumerate(piece):
                if not checks[at] and (found := self.find(event_id)) is not None:
                    checks[at] = found.check
        if len(fresh) < len(piece):
            again += (Counter(piece) - Counter(fresh)).elements()
        for event_id in again:
            self._more[event_id] = self._more.get(event_id, 0) + 1
        self.known |= fresh

    def _link(self, seq: int, slot: int, piece: Sequence[bytes]) -> None:
        """Put the ids of seq, seq + 1, ... before the others of their buckets."""
        heads, older, mask = self._heads, self._older, self._mask
        has_empty = _NO_ID in self.known
        for at, event_id in enumerate(piece):
            if has_empty and event_id == _NO_ID:
                continue  # A chain of all of them would be long.
            bucket = hash(event_id) & mask
            older[slot + at] = heads[bucket]
            heads[bucket] = seq + at

    def _was_one_of_several(self, event_id: bytes) -> bool:
        more = self._more.get(event_id)
        if more is None:
            return False
        if more == 1:
            del self._more[event_id]
        else:
            self._more[event_id] = more - 1
        return True


_NO_ID = bytes(ID_BYTES)
"""An empty slot. As an event_id (the nil UUID is no v4) it would only not be remembered."""


def split_ids(packed: bytes) -> list[bytes]:
    return [packed[at : at + ID_BYTES] for at in range(0, len(packed), ID_BYTES)]


def pack_check(check: int) -> bytes:
    return check.to_bytes(CHECK_BYTES, sys.byteorder)

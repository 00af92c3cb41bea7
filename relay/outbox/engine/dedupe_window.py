"""The dedupe window: the ids of the last appended events, with a mark and a checksum for each.

Rules: each seq has one slot, slot = seq modulo window, so that an id leads to its seq, its queue
and its check without an object per event (about 136 bytes per id, mostly for the set). Only
dead letters and dropped events have a mark. An id is found by a hash table with chains of seqs, the
latest first. A chain ends at the first seq that is no longer in the window, so that no seq has to
be removed from a chain. This module does not use the disk; the outbox stores `packed` slices of the
window and restores them.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

ID_BYTES = 16
CHECK_BYTES = 4
REMEMBERED_BYTES = ID_BYTES + CHECK_BYTES + 1
"""Size of an id on disk after its row was deleted."""
DEAD, DROPPED = 1, 2
"""Marks of a dead letter and of a dropped event; 0 otherwise."""


class Found(NamedTuple):
    seq: int
    queue_id: int
    mark: int
    check: int
    """The CRC-32 of the event as received; 0 if it is not known."""


class Packed(NamedTuple):
    """The content of the window for a range of seqs, to be stored on disk."""

    first_seq: int
    ids: bytes
    """ID_BYTES per seq."""
    marks: bytes
    """One byte per seq."""
    checks: bytes
    """CHECK_BYTES per seq, in the byte order of this machine."""


class IdSlice(NamedTuple):
    """What a store knows of consecutive events, by column; None: a column is not known."""

    first_seq: int
    ids: bytes
    """ID_BYTES per seq."""
    queue_ids: Sequence[int] | None = None
    marks: bytes | None = None
    checks: Sequence[int] | None = None


class DedupeWindow:
    """The ids of the seqs in (last - window, last]; `extend` moves `last`."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.known: set[bytes] = set()
        """Ids of events that are not stored again: all ids in the window except those of dropped events."""
        self._more: dict[bytes, int] = {}
        """By id with several slots (a requeued event): the number of slots after the first."""
        self._ids = bytearray(window * ID_BYTES)
        self._queues = array("I", bytes(window * 4))
        self._marks = bytearray(window)
        self._checks = array("I", bytes(window * CHECK_BYTES))
        self._mask = (1 << window.bit_length()) - 1
        self._heads = array("Q", bytes(8 * (self._mask + 1)))
        """By bucket of the ids' hash: the latest seq; 0 if the bucket is empty."""
        self._older = array("Q", bytes(8 * window))
        """By slot: the previous seq in the same bucket; 0 if there is none."""
        self._last = 0

    @classmethod
    def restored(cls, window: int, last_seq: int, slices: Iterable[IdSlice]) -> DedupeWindow:
        """Return a window that ends at `last_seq`. A later slice replaces the columns of an earlier one."""
        restored, before = cls(window), max(last_seq - window, 0)
        events = last_seq - before
        ids, marks = bytearray(events * ID_BYTES), bytearray(events)
        queue_ids, checks = array("I", bytes(4 * events)), array("I", bytes(CHECK_BYTES * events))
        for first_seq, some_ids, some_queue_ids, some_marks, some_checks in slices:
            skip, start = max(before + 1 - first_seq, 0), max(first_seq - before - 1, 0)
            end = start + max(len(some_ids) // ID_BYTES - skip, 0)
            assert end <= events
            ids[start * ID_BYTES : end * ID_BYTES] = some_ids[skip * ID_BYTES :]
            if some_queue_ids is not None:
                queue_ids[start:end] = array("I", some_queue_ids[skip:])
            if some_marks is not None:
                marks[start:end] = some_marks[skip:]
            if some_checks is not None:
                checks[start:end] = array("I", some_checks[skip:])
        restored.extend(before + 1, split_ids(bytes(ids)), queue_ids, checks)
        for at, mark in enumerate(marks):
            if mark:
                restored.mark(before + 1 + at, mark)
        return restored

    def extend(
        self, first_seq: int, ids: Sequence[bytes], queue_ids: Sequence[int], checks: Sequence[int] | None = None
    ) -> None:
        """Add the ids of first_seq, first_seq + 1, ..., and forget the ids that are no longer in
        the window.

        A check of 0 is unknown. An id that is added again without a check keeps its check.
        """
        if self.window == 0 or not ids:
            return
        assert self._last in (0, first_seq - 1), "a gap in the seqs"
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
            self._last = seq + count - 1  # No chain leads to the slots below from here on.
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
        """Mark an event as DEAD or DROPPED, if it is in the window.

        The id of a dropped event is no longer known: if an app sends the event again, the outbox
        stores it.
        """
        if not self._holds(seq):
            return
        if mark == DROPPED:
            self._mark_dropped(seq)
        self._marks[seq % self.window] = mark

    def find(self, event_id: bytes) -> Found | None:
        """Return the latest slot of an id, also of a dropped event; None if the id is not in the window."""
        slot = next(self._slots_of(event_id), None)
        if slot is None:
            return None
        seq = self._last - (self._last - slot) % self.window
        return Found(seq, self._queues[slot], self._marks[slot], self._checks[slot])

    def packed(self, first_seq: int, last_seq: int) -> Packed:
        """Return the content for a range of seqs; it begins later if the range begins before the window."""
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
        """Make an id unknown. If the event was stored again after this seq, only this slot is
        dropped.

        Earlier slots of the id (a dead letter that was requeued) are dropped with its latest one.
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
        """Make ids known. Count one more slot for an id that is known or repeated, and keep its check."""
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
        """Put the ids of seq, seq + 1, ... at the head of the chains of their buckets."""
        heads, older, mask = self._heads, self._older, self._mask
        has_empty = _NO_ID in self.known
        for at, event_id in enumerate(piece):
            if has_empty and event_id == _NO_ID:
                continue  # All empty slots would be in one long chain.
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
"""The content of an empty slot, and the id of a row with an unreadable id. The window does not contain it."""


def split_ids(packed: bytes) -> list[bytes]:
    return [packed[at : at + ID_BYTES] for at in range(0, len(packed), ID_BYTES)]


def pack_check(check: int) -> bytes:
    return check.to_bytes(CHECK_BYTES, sys.byteorder)

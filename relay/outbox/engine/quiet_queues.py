"""Every device queue in compact form: its device, and its pending event if it has at most one.

Rules: a queue takes 24 bytes beside its key, and no object. The queues are in blocks in the order of their ids, so
that an id is found by bisection, and a removal moves few entries. A queue with more to remember is a StoredQueue in the
index; its entry here has no event.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from relay.event.reader import DeviceKey
from relay.outbox import Backlog

_BLOCK_QUEUES = 512
_NO_SEQ = (1 << 64) - 1


class PendingEvent(NamedTuple):
    seq: int
    body_bytes: int


class _Block:
    __slots__ = ("ids", "keys", "seqs", "sizes")

    def __init__(self) -> None:
        self.ids = array("I")
        self.keys: list[DeviceKey] = []
        self.seqs = array("Q")
        self.sizes = array("I")


class QuietQueues:
    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._first_ids: list[int] = []

    def __repr__(self) -> str:
        return f"<QuietQueues: {sum(len(block.ids) for block in self._blocks)} in {len(self._blocks)} blocks>"

    def add(self, queue_id: int, key: DeviceKey) -> None:
        """Add an empty queue. Its id is larger than all ids before."""
        if not self._blocks or len(self._blocks[-1].ids) >= _BLOCK_QUEUES:
            self._blocks.append(_Block())
            self._first_ids.append(queue_id)
        block = self._blocks[-1]
        assert not block.ids or block.ids[-1] < queue_id, queue_id
        block.ids.append(queue_id)
        block.keys.append(key)
        block.seqs.append(_NO_SEQ)
        block.sizes.append(0)

    def remove(self, queue_id: int) -> DeviceKey:
        """Remove a queue, and return its device."""
        at = bisect_right(self._first_ids, queue_id) - 1
        block = self._blocks[at]
        slot = bisect_left(block.ids, queue_id)
        assert block.ids[slot] == queue_id
        key = block.keys[slot]
        for column in (block.ids, block.keys, block.seqs, block.sizes):
            del column[slot]
        if not block.ids:
            del self._blocks[at], self._first_ids[at]
        return key

    def key_of(self, queue_id: int) -> DeviceKey | None:
        found = self._find(queue_id)
        return None if found is None else found[0].keys[found[1]]

    def event_of(self, queue_id: int) -> PendingEvent | None:
        """Return the pending event of a queue; None if it has none here, or does not exist."""
        found = self._find(queue_id)
        if found is None or found[0].seqs[found[1]] == _NO_SEQ:
            return None
        block, slot = found
        return PendingEvent(block.seqs[slot], block.sizes[slot])

    def backlog(self, queue_id: int) -> Backlog | None:
        """Return the backlog of a queue; None if it does not exist."""
        found = self._find(queue_id)
        if found is None:
            return None
        block, slot = found
        return queue_id, block.keys[slot], int(block.seqs[slot] != _NO_SEQ), block.sizes[slot]

    def append(self, queue_id: int, seq: int, body_bytes: int) -> bool:
        """Set the pending event of a queue. Return False, without a change, if the queue has one."""
        found = self._find(queue_id)
        assert found is not None, queue_id
        block, slot = found
        if block.seqs[slot] != _NO_SEQ:
            return False
        block.seqs[slot], block.sizes[slot] = seq, body_bytes
        return True

    def take(self, queue_id: int) -> tuple[DeviceKey, PendingEvent | None] | None:
        """Return the device of a queue, and remove and return its pending event; None if the queue does not exist."""
        found = self._find(queue_id)
        if found is None:
            return None
        block, slot = found
        if block.seqs[slot] == _NO_SEQ:
            return block.keys[slot], None
        event = PendingEvent(block.seqs[slot], block.sizes[slot])
        block.seqs[slot], block.sizes[slot] = _NO_SEQ, 0
        return block.keys[slot], event

    def first_seq(self) -> int | None:
        """Return the seq of the oldest event; O(queues), 25 ns each."""
        first = min((min(block.seqs) for block in self._blocks), default=_NO_SEQ)
        return None if first == _NO_SEQ else first

    def in_order(self) -> Iterator[PendingEvent]:
        """Return every event, oldest first. Events far behind the last one taken are not touched."""
        low, seqs = self.first_seq(), 1024
        while low is not None:
            high = low + seqs
            yield from sorted(event for _, event in self.events(low, high - 1))
            later = [min((seq for seq in block.seqs if seq >= high), default=_NO_SEQ) for block in self._blocks]
            low, seqs = min(later, default=_NO_SEQ), 4 * seqs
            if low == _NO_SEQ:
                return

    def events(self, first_seq: int, last_seq: int) -> Iterator[tuple[int, PendingEvent]]:
        """Return (queue id, event) of each event with a seq in this range."""
        for block in self._blocks:
            if min(block.seqs) <= last_seq:
                for queue_id, seq, size in zip(block.ids, block.seqs, block.sizes, strict=True):
                    if first_seq <= seq <= last_seq:
                        yield queue_id, PendingEvent(seq, size)

    def _find(self, queue_id: int) -> tuple[_Block, int] | None:
        at = bisect_right(self._first_ids, queue_id) - 1
        if at < 0:
            return None
        block = self._blocks[at]
        slot = bisect_left(block.ids, queue_id)
        return (block, slot) if slot < len(block.ids) and block.ids[slot] == queue_id else None

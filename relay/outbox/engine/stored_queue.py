"""The pending events of one device in memory: the seqs, and the size of each body.

Rules: an event takes 12 bytes and no object (1,000,000 pending events take 12 MB). The seqs of a
queue only grow, so the array is in order. The events in flight are the first events of the queue,
and are pending.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from relay.event.reader import DeviceKey
from relay.outbox import NOTHING_OMITTED, Dead

_MESSAGES_CHARS = 8192
"""Maximum sum of the stored messages, so that a journal entry fits into the space that is reserved for it."""
_SLACK_EVENTS = 1024
"""The removed front of a queue's arrays is deleted when it has this many events and is half of the array."""


class Flight(NamedTuple):
    """The events of one device queue that are in flight. The request contains all of them but the omitted ones."""

    seqs: array[int]
    omitted: Mapping[int, Dead | None] = NOTHING_OMITTED
    """See ClaimPart."""

    @property
    def sent(self) -> Sequence[int]:
        """The seqs of the events in the request."""
        return [seq for seq in self.seqs if seq not in self.omitted] if self.omitted else self.seqs


class StoredQueue:
    """The pending events of one device, oldest first."""

    __slots__ = ("_head", "_seqs", "_sizes", "body_bytes", "in_flight", "is_restored", "key", "quarantined", "shift_ms")

    def __init__(self, key: DeviceKey) -> None:
        self.key = key
        self.body_bytes = 0
        self.in_flight: Flight | None = None
        """The events that are claimed, or that `load` returned; the first pending events. None if none is in flight."""
        self.is_restored = False
        """Whether `load` returned the events in flight, and they were not claimed since."""
        self.shift_ms: int | None = None
        """Outbox time to true time, of a request that the upstream may have accepted (see
        Outbox.claim); 0: unknown.

        None if there was no such request.
        """
        self.quarantined: array[int] = array("Q")
        """The seqs of events that another machine stored, oldest first; they are not part of the queue."""
        self._seqs: array[int] = array("Q")
        self._sizes: array[int] = array("I")
        self._head = 0

    def __len__(self) -> int:
        return len(self._seqs) - self._head

    def __contains__(self, seq: int) -> bool:
        return _contains(self._seqs, seq, self._head)

    def __repr__(self) -> str:
        flight = 0 if self.in_flight is None else len(self.in_flight.seqs)
        return f"<StoredQueue {self.key}: {len(self)} pending, {flight} in flight, {len(self.quarantined)} quarantined>"

    @property
    def first_seq(self) -> int | None:
        return self._seqs[self._head] if len(self) else None

    def claim(self, flight: Flight, shift_ms: int) -> None:
        """Record that the first pending events are in flight; without seqs: none is."""
        assert not flight.seqs or flight.seqs[0] == self.first_seq
        self.in_flight, self.shift_ms = (flight, shift_ms) if flight.seqs else (None, None)
        self.is_restored = False

    def restore(self, flight: Flight, shift_ms: int | None) -> None:
        """Record that the journal contains a request with these events."""
        if self.in_flight is None:
            self.in_flight, self.shift_ms = flight, shift_ms
        self.is_restored = True

    def inherit(self, old: StoredQueue) -> None:
        """Record that the events in flight of the queue before a failure are in flight."""
        if old.in_flight is not None:
            self.in_flight, self.shift_ms, self.is_restored = old.in_flight, old.shift_ms, old.is_restored

    def release(self, *, perhaps_delivered: bool = False) -> None:
        """Record that no event is in flight."""
        self.in_flight, self.is_restored = None, False
        if not perhaps_delivered:
            self.shift_ms = None

    def is_quarantined(self, seq: int) -> bool:
        return _contains(self.quarantined, seq)

    def quarantine(self, seqs: array[int]) -> None:
        self.quarantined = seqs

    def forget_quarantined(self, events: int) -> None:
        """Remove the oldest quarantined events."""
        del self.quarantined[:events]

    @property
    def is_quiet(self) -> bool:
        """Whether the queue has at most one pending event, and nothing else to remember."""
        return (
            len(self) <= 1
            and self.in_flight is None
            and self.shift_ms is None
            and not (self.is_restored or self.quarantined)
        )

    def append(self, seq: int, size: int) -> None:
        self._seqs.append(seq)
        self._sizes.append(size)
        self.body_bytes += size

    def seqs(self, limit: int, skip: int = 0) -> array[int]:
        """Return the seqs of `limit` pending events, after the first `skip` events."""
        start = self._head + skip
        return self._seqs[start : start + limit]

    def sizes(self, limit: int, skip: int = 0) -> array[int]:
        """Return the body sizes of the same events, in bytes."""
        start = self._head + skip
        return self._sizes[start : start + limit]

    def count_to(self, last_seq: int) -> int:
        """Return the number of pending events with seq <= last_seq."""
        return bisect_right(self._seqs, last_seq, self._head) - self._head

    def remove(self, start: int, events: int) -> None:
        """Remove `events` events, beginning with the pending event at index `start`."""
        low = self._head + start
        high = low + events
        assert high <= len(self._seqs)
        self.body_bytes -= sum(self._sizes[low:high])
        if start:
            del self._seqs[low:high]
            del self._sizes[low:high]
            return
        self._head = high
        if high == len(self._seqs) or (high >= _SLACK_EVENTS and high * 2 >= len(self._seqs)):
            del self._seqs[:high]
            del self._sizes[:high]
            self._head = 0

    def remove_seq(self, seq: int) -> bool:
        """Remove one event from any position. Return False if it is not pending."""
        at = bisect_left(self._seqs, seq, self._head)
        if at == len(self._seqs) or self._seqs[at] != seq:
            return False
        self.remove(at - self._head, 1)
        return True

    def droppable(self) -> Iterator[tuple[int, int]]:
        """Return (seq, body bytes) of each event that is not in flight, oldest first."""
        start = self._head + (len(self.in_flight.seqs) if self.in_flight is not None else 0)
        return ((self._seqs[at], self._sizes[at]) for at in range(start, len(self._seqs)))


def _contains(seqs: array[int], seq: int, start: int = 0) -> bool:
    """Return whether a sorted array contains a seq at `start` or later."""
    at = bisect_left(seqs, seq, start)
    return at < len(seqs) and seqs[at] == seq


def packed(omitted: Mapping[int, Dead | None]) -> bytes:
    """Return omitted events for the journal. Messages are cut if they are long together."""
    if not omitted:
        return b""
    most = _MESSAGES_CHARS // len(omitted)
    rows = [(seq, *dead[:2], dead.message[:most]) if dead else (seq,) for seq, dead in omitted.items()]
    return msgspec.json.encode(rows)


def unpacked(stored: bytes) -> Mapping[int, Dead | None]:
    """Return the omitted events of a journal entry; none if the disk has changed it."""
    try:
        rows: list[list[Any]] = msgspec.json.decode(stored, type=list[list[Any]]) if stored else []
        return {int(seq): msgspec.convert(dead, Dead) if dead else None for seq, *dead in rows}
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, TypeError):
        return NOTHING_OMITTED

"""The pending events of the device queues that this replica holds, in the order in which it discovered them.

A lower seq may be discovered after a higher one of another replica. A request is a prefix of the order of discovery,
sorted by seq: so the vector of last seqs by replica describes it, and the next holder sends exactly the same events.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator

from relay.event.reader import DeviceKey
from relay.outbox.engine.stored_queue import Flight

_SLACK_EVENTS = 1024
"""The removed front of a queue's arrays is deleted when it has this many events and is half of the array."""


class Held:
    """The sums over all queues. Each append needs them."""

    __slots__ = ("body_bytes", "events")

    def __init__(self) -> None:
        self.events = 0
        self.body_bytes = 0


class HeldQueue:
    """The pending events of one device."""

    __slots__ = (
        "_head",
        "_held",
        "_seqs",
        "_sizes",
        "body_bytes",
        "cursors",
        "in_flight",
        "is_busy",
        "is_restored",
        "key",
        "shift_ms",
    )

    def __init__(self, key: DeviceKey, cursors: dict[int, int], held: Held) -> None:
        self.key = key
        self._held = held
        self.cursors = cursors
        """By appending replica: the events are done up to this seq."""
        self.body_bytes = 0
        self.in_flight: Flight | None = None
        """The first pending events, if they are claimed or were claimed by the last holder."""
        self.is_restored = False
        """Whether the last holder claimed the events in flight, and this replica did not."""
        self.is_busy = False
        """Whether a statement with events of this queue is running or waiting."""
        self.shift_ms: int | None = None
        """Outbox time to true time, of a request that the upstream may have accepted; 0: unknown."""
        self._seqs: array[int] = array("q")
        self._sizes: array[int] = array("I")
        self._head = 0

    def __len__(self) -> int:
        return len(self._seqs) - self._head

    def __repr__(self) -> str:
        flight = 0 if self.in_flight is None else len(self.in_flight.seqs)
        return f"<HeldQueue {self.key}: {len(self)} pending, {flight} in flight>"

    def append(self, seq: int, size: int) -> None:
        self._seqs.append(seq)
        self._sizes.append(size)
        self._count(1, size)

    @property
    def is_releasable(self) -> bool:
        """Whether this replica has no request and no statement with events of this queue."""
        return not self.is_busy and (self.in_flight is None or self.is_restored)

    def seqs(self) -> array[int]:
        return self._seqs[self._head :]

    def sizes(self, limit: int) -> array[int]:
        return self._sizes[self._head : self._head + limit]

    def first_seq(self) -> int | None:
        return self._seqs[self._head] if len(self) else None

    def front(self, events: int) -> array[int]:
        """Sort the first events by seq, and return their seqs."""
        head, end = self._head, self._head + events
        pairs = sorted(zip(self._seqs[head:end], self._sizes[head:end], strict=True))
        self._seqs[head:end] = array("q", [seq for seq, _ in pairs])
        self._sizes[head:end] = array("I", [size for _, size in pairs])
        return self._seqs[head:end]

    def restore(self, flight: Flight, shift_ms: int) -> None:
        """Record a request of the last holder."""
        self.claim(flight, shift_ms)
        self.is_restored = True

    def claim(self, flight: Flight, shift_ms: int) -> None:
        self.in_flight, self.shift_ms = (flight, shift_ms) if flight.seqs else (None, None)
        self.is_restored = False

    def release(self, *, perhaps_delivered: bool = False) -> None:
        self.in_flight, self.is_restored = None, False
        if not perhaps_delivered:
            self.shift_ms = None

    def advance(self, last_seqs: dict[int, int]) -> None:
        """Record that the events of these replicas are done up to these seqs."""
        for replica, seq in last_seqs.items():
            self.cursors[replica] = max(seq, self.cursors.get(replica, 0))

    def remove(self, done: Collection[int]) -> None:
        """Remove events from any position."""
        gone = set(done)
        head, before = self._head, len(self)
        while self._head < len(self._seqs) and self._seqs[self._head] in gone:
            self._head += 1
        body_bytes = sum(self._sizes[head : self._head])
        if self._head - head < len(gone):
            kept = [at for at in range(self._head, len(self._seqs)) if self._seqs[at] not in gone]
            body_bytes += sum(self._sizes[self._head :]) - sum(self._sizes[at] for at in kept)
            self._seqs = array("q", [self._seqs[at] for at in kept])
            self._sizes = array("I", [self._sizes[at] for at in kept])
            self._head = 0
        elif self._head == len(self._seqs) or (self._head >= _SLACK_EVENTS and self._head * 2 >= len(self._seqs)):
            del self._seqs[: self._head]
            del self._sizes[: self._head]
            self._head = 0
        self._count(len(self) - before, -body_bytes)

    def leave(self) -> None:
        """Subtract the events from the sums. The queue is not used any more."""
        self._count(-len(self), -self.body_bytes)

    def _count(self, events: int, body_bytes: int) -> None:
        self.body_bytes += body_bytes
        self._held.events += events
        self._held.body_bytes += body_bytes

    def droppable(self) -> Iterator[tuple[int, int]]:
        """Yield (seq, body bytes) of each event that is not in flight, in order."""
        start = self._head + (len(self.in_flight.seqs) if self.in_flight is not None else 0)
        return ((self._seqs[at], self._sizes[at]) for at in range(start, len(self._seqs)))

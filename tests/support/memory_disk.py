"""What the outbox in memory keeps through a crash: its disk, as plain lists and dictionaries.

Owns the rows and the ledger, and changes them together; when to change them is `memory_outbox`'s.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from relay.event.reader import DeviceKey, Event
from relay.outbox import DeadLetter, EventState, Ledger, Selection
from relay.outbox.engine.outbox_clock import Anchor

ROW_BYTES = 64
"""What an event costs besides its body."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as it is kept; `crc` is the checksum of the body it was appended with."""

    seq: int
    event: Event
    at_ms: int
    crc: int
    is_requeued: bool = False
    """Whether `at_ms` is the time at which a dead letter was queued again."""


@dataclass(slots=True)
class MemoryQueue:
    key: DeviceKey
    pending: deque[Stored] = field(default_factory=deque)
    body_bytes: int = 0
    window: bytes = b""
    boot_id: str = ""
    journal: tuple[int, int, list[int], int] | None = None
    """(request, which part of it, the seqs it holds, by how much its stamps were shifted or 0)."""


@dataclass(slots=True)
class Disk:
    """What a crash does not take."""

    queues: dict[int, MemoryQueue] = field(default_factory=dict)
    by_key: dict[DeviceKey, int] = field(default_factory=dict)
    used_bytes: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    dead: dict[int, tuple[DeadLetter, Stored]] = field(default_factory=dict)
    dead_bytes: int = 0
    states: OrderedDict[bytes, tuple[int, EventState]] = field(default_factory=OrderedDict)
    """The dedupe window: seq and state by event_id, oldest first. (A plain dict's first is behind all that left.)"""
    received: dict[bytes, tuple[int, DeviceKey]] = field(default_factory=dict)
    """Check and device of each event in the dedupe window."""
    anchor: Anchor | None = None
    boot_from_ms: int = 0
    next_seq: int = 1
    next_queue_id: int = 1
    next_dead: int = 1
    next_request: int = 1

    def copy(self) -> Disk:
        return replace(
            self,
            queues={number: replace(queue, pending=queue.pending.copy()) for number, queue in self.queues.items()},
            by_key=self.by_key.copy(),
            dead=self.dead.copy(),
            states=self.states.copy(),
            received=self.received.copy(),
        )

    def store(self, event: Event, crc: int, at_ms: int, *, is_requeued: bool = False) -> None:
        number = self.by_key.get(event.device_key)
        if number is None:
            number, self.next_queue_id = self.next_queue_id, self.next_queue_id + 1
            self.queues[number] = MemoryQueue(event.device_key)
            self.by_key[event.device_key] = number
        self.used_bytes += len(event.body) + ROW_BYTES
        self.queues[number].pending.append(Stored(self.next_seq, event, at_ms, crc, is_requeued))
        self.queues[number].body_bytes += len(event.body)
        self.states.pop(event.event_id, None)
        self.states[event.event_id] = (self.next_seq, "pending")
        self.received[event.event_id] = (event.check, event.device_key)
        self.next_seq += 1

    def knows(self, event_id: bytes) -> bool:
        """Whether an event with this id is not stored again. One that was dropped is."""
        return self.states.get(event_id, (0, "dropped"))[1] != "dropped"

    def forget_ids(self, window: int) -> None:
        """The dedupe window moves once a commit."""
        states = self.states
        while states and next(iter(states.values()))[0] < self.next_seq - window:
            event_id, _ = states.popitem(last=False)
            del self.received[event_id]

    def remove(self, number: int, seqs: Iterable[int], state: EventState) -> None:
        gone = set(seqs)
        queue = self.queues[number]
        kept: list[Stored] = []
        self.count(pending=-len(gone))
        while gone:
            stored = queue.pending.popleft()
            if stored.seq not in gone:
                kept.append(stored)
                continue
            gone.remove(stored.seq)
            queue.body_bytes -= len(stored.event.body)
            self.used_bytes -= len(stored.event.body) + ROW_BYTES
            if self.states.get(stored.event.event_id, (0, None))[0] == stored.seq:
                self.states[stored.event.event_id] = (stored.seq, state)
        queue.pending.extendleft(reversed(kept))

    def count(self, **by: int) -> None:
        ledger = self.ledger
        self.ledger = ledger._replace(**{name: getattr(ledger, name) + more for name, more in by.items()})

    def lay_out(self, letter: DeadLetter, stored: Stored) -> None:
        self.dead[letter.id] = (letter, stored)
        self.dead_bytes += len(letter.body) + ROW_BYTES
        self.next_dead += 1

    def take_out(self, dead: int) -> Stored:
        letter, stored = self.dead.pop(dead)
        self.dead_bytes -= len(letter.body) + ROW_BYTES
        return stored

    def size_bytes(self) -> int:
        return self.used_bytes + self.dead_bytes

    def selected(self, selection: Selection) -> Iterable[DeadLetter]:
        named = bool(selection.ids) or selection.device_id is not None or selection.reason is not None
        for letter, _ in list(self.dead.values()):
            if (
                (named or selection.all)
                and (not selection.ids or letter.id in selection.ids)
                and selection.device_id in (None, letter.device_key[2])
                and selection.reason in (None, letter.reason)
            ):
                yield letter

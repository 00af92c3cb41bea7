"""The simulated disk of the outbox in memory: rows and ledger, in lists and dictionaries.

A crash does not change it. `memory_outbox` decides when to change it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from relay.event.reader import DeviceKey, Event
from relay.outbox import Dead, DeadLetter, EventState, Ledger, Selection
from relay.outbox.engine.outbox_clock import Anchor

ROW_BYTES = 64
"""Size of an event without its body."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored event. `crc` is the checksum of the appended body."""

    seq: int
    event: Event
    at_ms: int
    crc: int
    is_requeued: bool = False
    """Whether `at_ms` is the time when a dead letter was requeued."""


@dataclass(slots=True)
class MemoryQueue:
    key: DeviceKey
    pending: deque[Stored] = field(default_factory=deque)
    body_bytes: int = 0
    window: bytes = b""
    boot_id: str = ""
    journal: tuple[int, int, list[int], int, Mapping[int, Dead | None]] | None = None
    """(request, position in the request, seqs, true time minus outbox time or 0, see ClaimPart.omitted); None if
    nothing is journalled."""


@dataclass(slots=True)
class Disk:
    """The data that survives a crash."""

    queues: dict[int, MemoryQueue] = field(default_factory=dict)
    by_key: dict[DeviceKey, int] = field(default_factory=dict)
    used_bytes: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    dead: dict[int, tuple[DeadLetter, Stored]] = field(default_factory=dict)
    dead_bytes: int = 0
    max_dead_bytes: int = 1 << 62
    """Maximum size of the bodies of all dead letters."""
    states: OrderedDict[bytes, tuple[int, EventState]] = field(default_factory=OrderedDict)
    """The dedupe window: seq and state by event_id, oldest first. (The first key of a dict is slow after deletions.)"""
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
        """Return whether an event with this id would be a duplicate. A dropped event would not."""
        return self.states.get(event_id, (0, "dropped"))[1] != "dropped"

    def forget_ids(self, window: int) -> None:
        """Remove ids outside the dedupe window. Called once per commit."""
        states = self.states
        while states and next(iter(states.values()))[0] < self.next_seq - window:
            event_id, _ = states.popitem(last=False)
            del self.received[event_id]

    def remove(self, number: int, seqs: Iterable[int], state: EventState) -> None:
        removed = set(seqs)
        queue = self.queues[number]
        remaining: list[Stored] = []
        self.count(pending=-len(removed))
        while removed:
            stored = queue.pending.popleft()
            if stored.seq not in removed:
                remaining.append(stored)
                continue
            removed.remove(stored.seq)
            queue.body_bytes -= len(stored.event.body)
            self.used_bytes -= len(stored.event.body) + ROW_BYTES
            if self.states.get(stored.event.event_id, (0, None))[0] == stored.seq:
                self.states[stored.event.event_id] = (stored.seq, state)
        queue.pending.extendleft(reversed(remaining))

    def count(self, **by: int) -> None:
        ledger = self.ledger
        self.ledger = ledger._replace(**{name: getattr(ledger, name) + more for name, more in by.items()})

    def add_dead_letter(self, letter: DeadLetter, stored: Stored) -> None:
        self.dead[letter.id] = (letter, stored)
        self.dead_bytes += len(letter.body) + ROW_BYTES
        self.next_dead += 1

    def remove_dead_letter(self, dead: int) -> Stored:
        letter, stored = self.dead.pop(dead)
        self.dead_bytes -= len(letter.body) + ROW_BYTES
        return stored

    def limit_dead_letters(self, max_letters: int) -> int:
        """Delete dead letters until the rest is within the limits. Return their number.

        Each time, the device that uses the most of both limits loses its oldest one.
        """
        deleted = 0
        while len(self.dead) > max_letters or self._dead_body_bytes() > self.max_dead_bytes:
            used: Counter[DeviceKey] = Counter()
            for letter, _ in self.dead.values():
                used[letter.device_key] += self.max_dead_bytes + max_letters * len(letter.body)
            most = max(used.values())
            letters = ((number, letter) for number, (letter, _) in self.dead.items())
            self.remove_dead_letter(next(number for number, letter in letters if used[letter.device_key] == most))
            deleted += 1
        return deleted

    def _dead_body_bytes(self) -> int:
        return sum(len(letter.body) for letter, _ in self.dead.values())

    def size_bytes(self) -> int:
        return self.used_bytes + self.dead_bytes

    def selected(self, selection: Selection) -> Iterable[DeadLetter]:
        named = bool(selection.ids) or {selection.device_id, selection.reason, selection.event_id} != {None}
        for letter, _ in list(self.dead.values()):
            if (
                (named or selection.all)
                and (not selection.ids or letter.id in selection.ids)
                and selection.device_id in (None, letter.device_key[2])
                and selection.reason in (None, letter.reason)
                and selection.event_id in (None, UUID(letter.event_id).bytes)
            ):
                yield letter

"""The plan of one commit: it translates waiting calls into commands for the store.

Order in a commit: deletions that make space, new device queues, new events, then the other calls in
the order of their arrival. Rules: planning changes only the draft, so that a failed commit has no
effect. The draft contains everything that a call may know about earlier calls of the same commit. A
call that needs more waits for the next commit.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from relay.event.reader import DeviceKey, Event
from relay.outbox import AppendResult, TooManyDevices
from relay.outbox.engine.checksum import checksums
from relay.outbox.engine.commands import AddQueues, Command, InsertEvents
from relay.outbox.engine.conflicts import Conflict
from relay.outbox.engine.outbox_state import OutboxState
from relay.outbox.engine.storage import Committed

T = TypeVar("T")

EVENT_MEMORY_BYTES = 320
"""Memory of an event without its body: the object, its id and its device key."""


class Op(ABC, Generic[T]):
    """A call that waits for its commit."""

    patient = False
    """Whether the commit may be delayed by some milliseconds, see `commit_delay`."""
    is_expensive = False
    """Whether it writes blocks that it frees, which a later cleanup would not write. Set by `plan`."""

    def __init__(self) -> None:
        self.result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    @abstractmethod
    def plan(self, draft: Draft) -> bool:
        """Add a command to the draft. Return False, without a change, if the call has to wait for the next commit."""

    @abstractmethod
    def apply(self, state: OutboxState, result: Any) -> T:
        """Change the state as the commit changed the store. Return the result for the caller."""

    def reject(self, error: Exception) -> None:
        """Fail the call, unless its caller has cancelled it."""
        if not self.result.done():
            self.result.set_exception(error)


class Append:
    """A call of `append`: its events, and the future for its result."""

    __slots__ = ("body_bytes", "callers", "cost_bytes", "duplicates", "events", "memory_bytes", "result")

    def __init__(
        self,
        events: Sequence[Event],
        result: asyncio.Future[AppendResult],
        callers: int,
        cost_bytes: Callable[[Sequence[int]], int],
    ) -> None:
        """`cost_bytes`: see Storage.cost_bytes."""
        sizes = [len(event.body) for event in events]
        self.events = events
        self.callers = callers
        """Number of callers that wait for the result."""
        self.body_bytes = sum(sizes)
        self.memory_bytes = self.body_bytes + EVENT_MEMORY_BYTES * len(sizes)
        self.cost_bytes = cost_bytes(sizes)
        """Maximum growth of the used space."""
        self.result = result
        self.duplicates = 0


class Draft:
    """The plan of the next commit."""

    def __init__(self, state: OutboxState) -> None:
        self.state = state
        self.now_ms = state.time.now_ms()
        self.next_seq = state.next_seq
        self.appends: list[Append] = []
        self.skipped: dict[int, int] = {}
        """By queue id: the number of its first events that an earlier settle of this commit removes."""
        self.unclear: set[int] = set()
        """Ids of queues whose content after this commit is unknown to later calls."""
        self.dropped: set[int] = set()
        """Seqs of the events that this commit drops before it appends."""
        self._insert: InsertEvents | None = None
        self._checks: Sequence[int] = ()
        self._requests = 0
        self.conflicts: list[Conflict] = []
        """Events that are not stored because an event with the same id and other bytes is stored."""
        self._new_queue_ids: dict[DeviceKey, int] = {}
        self._before: list[tuple[Op[Any], Command]] = []
        self._after: list[tuple[Op[Any], Command]] = []

    def __bool__(self) -> bool:
        return bool(self.appends or self._before or self._after)

    @property
    def is_expensive(self) -> bool:
        """Whether it deletes rows before pending rows: then it writes each block that it frees."""
        return any(op.is_expensive for op in self.ops)

    @property
    def ops(self) -> Sequence[Op[Any]]:
        return [op for op, _ in (*self._before, *self._after)]

    def add(self, op: Op[Any], command: Command) -> None:
        self._after.append((op, command))

    def add_before(self, op: Op[Any], command: Command) -> None:
        """Add a command that makes space for the events of this commit."""
        self._before.append((op, command))

    def take_request(self) -> int:
        """Return the number of a new request."""
        self._requests += 1
        return self.state.next_request + self._requests - 1

    def append(self, appends: Sequence[Append]) -> None:
        """Plan rows for the events that are not duplicates. Called once."""
        self.appends += appends
        events = self._unknown(appends)
        if not events:
            return
        # By columns, because a call per event and column would cost more than the rest of this function.
        ids, keys, bodies, has_inserted_time, received, _ = zip(*events, strict=True)
        by_key, new_queue = self.state.index.by_key, self.queue_id
        queues = [by_key.get(key) or new_queue(key) for key in keys]
        crcs = checksums(bodies, has_inserted_time)
        self._checks = [new or old for new, old in zip(received, crcs, strict=True)] if any(received) else crcs
        sizes = list(map(len, bodies))
        self._insert = InsertEvents(self.next_seq, self.now_ms, queues, ids, crcs, received, bodies, sizes)
        self.next_seq += len(events)

    def _unknown(self, appends: Sequence[Append]) -> Sequence[Event]:
        """Return the events to store, and set the number of duplicates of each append."""
        window = self.state.dedupe_window
        events = [event for append in appends for event in append.events]
        ids = {event.event_id for event in events}
        if len(ids) == len(events) and window.known.isdisjoint(ids):
            return events
        fresh: dict[bytes, Event] = {}
        for append in appends:
            before = len(fresh)
            for event in append.events:
                conflict = None
                found = window.find(event.event_id) if event.event_id in window.known else None
                if found is not None and found.seq not in self.dropped:
                    conflict = self.state.conflict_of(event)
                elif (first := fresh.setdefault(event.event_id, event)).check != event.check:
                    conflict = Conflict(event, first.device_key)
                if conflict is not None:
                    self.conflicts.append(conflict)
            append.duplicates = len(append.events) - (len(fresh) - before)
        return list(fresh.values())

    def queue_id(self, key: DeviceKey) -> int:
        """Return the queue id of a device, a new one if the device has no queue."""
        queue_id = self.state.index.by_key.get(key) or self._new_queue_ids.get(key)
        if queue_id is None:
            queue_id = self._new_queue_ids[key] = self.state.index.next_queue_id + len(self._new_queue_ids)
        return queue_id

    def beyond_max_devices(self, keys: Iterable[DeviceKey]) -> TooManyDevices | None:
        """Return the error if these devices cannot all have a queue after this commit."""
        by_key, max_devices = self.state.index.by_key, self.state.limits.settings.max_devices
        further = {key for key in keys if key not in by_key and key not in self._new_queue_ids}
        if further and len(by_key) + len(self._new_queue_ids) + len(further) > max_devices:
            return TooManyDevices(min(further), max_devices)
        return None

    def appended_to(self) -> set[int]:
        """Return the ids of the queues to which this commit appends events."""
        return set() if self._insert is None else set(self._insert.queue_ids)

    def stored(self) -> Sequence[bytes]:
        """Return the bodies of the events that this commit stores."""
        return () if self._insert is None else self._insert.bodies

    def commands(self) -> list[Command]:
        commands = [command for _, command in self._before]
        if self._new_queue_ids:
            queues = [(queue_id, key) for key, queue_id in self._new_queue_ids.items()]
            commands.append(AddQueues(queues, self.state.next_seq - 1))
        if self._insert is not None:
            commands.append(self._insert)
        return commands + [command for _, command in self._after]

    def apply(self, committed: Committed) -> None:
        """Change the state after the commit, and set the results of all calls."""
        state, results = self.state, list(committed.results)
        state.measure(committed.space)
        before = results[: len(self._before)]
        after = results[len(results) - len(self._after) :]
        for (op, _), result in zip(self._before, before, strict=True):
            _set_result(op.result, op.apply(state, result))
        state.add_queues(self._new_queue_ids)
        if self._insert is not None:
            _, at_ms, queue_ids, ids, _, _, _, sizes = self._insert
            state.append(queue_ids, sizes, ids, self._checks, at_ms)
        for (op, _), result in zip(self._after, after, strict=True):
            _set_result(op.result, op.apply(state, result))
        durability = state.limits.settings.durability
        for append in self.appends:
            _set_result(append.result, AppendResult(append.duplicates, durability))

    def fail(self, error: Exception) -> None:
        """Fail all calls of a failed commit. Whether their events are on disk is unknown."""
        for result in (*(append.result for append in self.appends), *(op.result for op in self.ops)):
            if not result.done():
                result.set_exception(error)


def _set_result(future: asyncio.Future[T], value: T) -> None:
    """Set the result of a call, unless its caller has cancelled the future."""
    if not future.done():
        future.set_result(value)

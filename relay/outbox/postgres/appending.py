"""The task that stores events: one transaction at a time, shared by the calls that arrive meanwhile."""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

from relay.event.reader import DeviceKey, Event
from relay.outbox import AppendResult, OutboxError, OutboxLost, OutboxUnavailable, Selection
from relay.outbox.engine.checksum import checksums
from relay.outbox.engine.commit_delay import Bell
from relay.outbox.engine.conflicts import Conflict, Conflicts
from relay.outbox.engine.dedupe_window import split_ids
from relay.outbox.postgres.database import (
    MAX_PART_EVENTS,
    AppendTotals,
    AppendTransaction,
    CommitRow,
    NewPart,
    RequeueTransaction,
    SharedDatabase,
    queue_id_of,
)
from relay.outbox.postgres.reconnect import Reconnect
from relay.outbox.postgres.state import ROW_BYTES, ReplicaState
from relay.runtime.clock import Clock

_MAX_COMMIT_EVENTS = 2_000
_MAX_COMMIT_BYTES = 1 << 20
_CALLER_WAIT_MS = 8_000
"""Callers get an error after this time, which means that the outcome is unknown."""
_LOOK_S = 0.5
_ANNOUNCE_AGAIN_MS = 12 * 3_600_000


class WaitingAppend:
    """A call of `append`, and the future for its result."""

    def __init__(self, events: Sequence[Event], result: asyncio.Future[AppendResult], since_ms: int) -> None:
        self.events = events
        self.result = result
        self.since_ms = since_ms
        self.body_bytes = sum(len(event.body) for event in events)
        self.cost_bytes = self.body_bytes + ROW_BYTES * len(events)


class Appending:
    def __init__(
        self,
        database: SharedDatabase,
        state: ReplicaState,
        clock: Clock,
        conflicts: Conflicts,
        reconnect: Reconnect,
        make_room: Callable[[int], Awaitable[OutboxError | None]],
        committed: Callable[[int, Sequence[Event]], None],
    ) -> None:
        """`committed` is called after each commit with its duration in milliseconds and the events that apps sent."""
        self._database = database
        self._state = state
        self._clock = clock
        self._conflicts = conflicts
        self._reconnect = reconnect
        self._make_room = make_room
        self._notify = committed
        self._waiting: deque[WaitingAppend] = deque()
        self._taken: list[WaitingAppend] = []
        """The calls that are being committed."""
        self._bell = Bell()
        self._lock = asyncio.Lock()
        """Held during a transaction, whose number must follow the last one's."""
        self._number = 0
        self._announced: dict[int, int] = {}
        """By queue id: monotonic time of its last announcement. At most about as many as outbox.max_devices."""
        self.cost_bytes = 0
        """Sum over the calls that wait or are being committed."""
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<Appending: {len(self._waiting)} calls wait after transaction {self._number}>"

    def enqueue(self, append: WaitingAppend) -> None:
        self._waiting.append(append)
        self.cost_bytes += append.cost_bytes
        self._bell.ring()

    def close(self) -> None:
        """`run` commits the waiting calls, and ends. The caller adds no more."""
        self._is_closing = True
        self._bell.ring()

    async def run(self) -> None:
        try:
            while self._waiting or not self._is_closing:
                if not self._waiting:
                    await self._bell.wait(None)
                    continue
                async with self._lock:
                    self._taken = self._take()
                    await self._commit(self._taken)
        finally:
            self._fail([*self._waiting], OutboxUnavailable("the outbox is closed"))
            self._waiting.clear()

    async def limit_waits(self) -> None:
        """Let callers wait no longer than `_CALLER_WAIT_MS`, also while a statement hangs. Never returns."""
        while True:
            await asyncio.sleep(_LOOK_S)
            late_ms = self._clock.monotonic_ms() - _CALLER_WAIT_MS
            for append in (*self._taken, *self._waiting):
                if append.since_ms <= late_ms and not append.result.done():
                    unknown = OutboxUnavailable(
                        "the database does not respond: whether the events were stored is unknown"
                    )
                    append.result.set_exception(self._reconnect.failure or unknown)

    def _take(self) -> list[WaitingAppend]:
        taken: list[WaitingAppend] = []
        events = body_bytes = 0
        while self._waiting and events < _MAX_COMMIT_EVENTS and body_bytes < _MAX_COMMIT_BYTES:
            append = self._waiting.popleft()
            taken.append(append)
            events, body_bytes = events + len(append.events), body_bytes + append.body_bytes
        return taken

    async def _commit(self, appends: list[WaitingAppend]) -> None:
        try:
            full = await self._make_room(sum(append.cost_bytes for append in appends))
            if full is not None:
                self._fail(appends, full)
                return
            if foreign := self._state.foreign(event.event_id for append in appends for event in append.events):
                self._state.commits.mark(await self._database.outcomes(foreign))  # A dropped event is stored again.
            await self._reject_devices(appends)
            fresh, duplicates = self._fresh(appends)
            if fresh:
                began_ms = self._clock.monotonic_ms()
                self._add(await self._committed(self._transaction(fresh)), began_ms, fresh)
            if (unreplicated := self._state.unreplicated()) is not None:  # The events are stored, also duplicates.
                self._fail(appends, unreplicated)
                return
        except OutboxError as error:
            self._fail(appends, error)
            if isinstance(error, OutboxLost):
                raise
            return
        except BaseException:
            self._fail(appends, OutboxUnavailable("the outbox is closed"))
            raise
        for append, count in zip(appends, duplicates, strict=True):
            self.cost_bytes -= append.cost_bytes
            if not append.result.done():
                append.result.set_result(AppendResult(count, self._state.durability))

    def _fail(self, appends: Sequence[WaitingAppend], error: OutboxError) -> None:
        for append in appends:
            self.cost_bytes -= append.cost_bytes
            if not append.result.done():
                append.result.set_exception(error)

    async def _reject_devices(self, appends: list[WaitingAppend]) -> None:
        """Reject and remove appends of more devices than outbox.max_devices."""
        keys = [self.new_keys(append.events) for append in appends]
        new = self._state.elsewhere(queue_id_of(key) for each in keys for key in each)
        devices = len(self._state.queues) + self._state.others.devices()
        if new and devices + len(new) > self._state.settings.max_devices:
            new.difference_update(await self._database.remembered([*new]))
        errors = self._state.beyond_max_devices(keys, new)
        for at, error in reversed(errors.items()):
            self._fail([appends.pop(at)], error)

    def new_keys(self, events: Sequence[Event]) -> list[DeviceKey]:
        """Return the devices of the events that are no duplicates."""
        known = self._state.commits.known
        return [event.device_key for event in events if event.event_id not in known]

    def _fresh(self, appends: Sequence[WaitingAppend]) -> tuple[list[Event], list[int]]:
        """Return the events to store, and the number of duplicates of each append."""
        known, fresh = self._state.commits.known, dict[bytes, Event]()
        duplicates, conflicts = [], []
        for append in appends:
            before = len(fresh)
            for event in append.events:
                conflict = None
                if event.event_id in known:
                    conflict = self._state.conflict_of(event)
                elif (first := fresh.setdefault(event.event_id, event)).check != event.check:
                    conflict = Conflict(event, first.device_key)
                if conflict is not None:
                    conflicts.append(conflict)
            duplicates.append(len(append.events) - (len(fresh) - before))
        self._conflicts.report(conflicts)
        return list(fresh.values()), duplicates

    def _transaction(self, events: Sequence[Event]) -> AppendTransaction:
        now = self._clock.monotonic_ms()
        new = {}
        for key in {event.device_key for event in events}:
            queue_id = queue_id_of(key)
            if now - self._announced.get(queue_id, now - _ANNOUNCE_AGAIN_MS) >= _ANNOUNCE_AGAIN_MS:
                new[queue_id] = key
        rest, parts = iter(events), []
        while piece := list(islice(rest, MAX_PART_EVENTS)):
            crcs = checksums([event.body for event in piece], [event.has_inserted_time for event in piece])
            checks = array("I", [event.received_crc or crc for event, crc in zip(piece, crcs, strict=True)])
            queue_ids = array("q", [queue_id_of(event.device_key) for event in piece])
            ids, bodies = [event.event_id for event in piece], [event.body for event in piece]
            parts.append(NewPart(queue_ids, ids, crcs, checks, bodies))
        accepted, requeued = self._state.appended
        at_ms = self._state.now_ms()
        return AppendTransaction(self._number + 1, accepted + len(events), requeued, at_ms, sorted(new.items()), parts)

    async def _committed(self, append: AppendTransaction) -> Sequence[CommitRow]:
        """Execute a transaction until its outcome is known and it was committed. Return its rows."""
        attempt = 0
        while True:
            try:
                if attempt:
                    number, self._state.durability, rows = await self._database.last_append(self._state.replica)
                    if number == append.number:
                        break
                ids, self._state.durability, segment = await self._database.append(self._state.replica, append)
                parts = zip(ids, append.parts, strict=True)
                rows = [self._row(append, number, part, segment) for number, part in parts]
                break
            except OutboxUnavailable as error:
                if isinstance(error, OutboxLost) or self._is_closing:
                    raise
                await self._reconnect.wait(attempt, error)
                attempt += 1
        self._reconnect.succeeded()
        self._number = append.number
        now = self._clock.monotonic_ms()
        if len(self._announced) > self._state.settings.max_devices:
            self._announced.clear()
        self._announced.update((queue_id, now) for queue_id, _ in append.new_queues)
        self._state.others.announced(len(self._state.elsewhere(queue_id for queue_id, _ in append.new_queues)))
        return rows

    async def _outcome(self, number: int, error: OutboxUnavailable) -> CommitRow:
        """Return the row of a transaction whose outcome is unknown, once it is known. Raise if it did not happen."""
        attempt = 0
        while not (isinstance(error, OutboxLost) or self._is_closing):
            await self._reconnect.wait(attempt, error)
            attempt += 1
            try:
                last, _, rows = await self._database.last_append(self._state.replica)
            except OutboxUnavailable as again:
                error = again
                continue
            if last == number:
                return rows[0]
            break
        raise error

    def _row(self, append: AppendTransaction, number: int, part: NewPart, segment: int | None) -> CommitRow:
        head = (self._state.replica, number, append.at_ms, False, append.accepted, append.requeued)
        sizes = array("I", map(len, part.bodies))
        return CommitRow(*head, part.queue_ids, sizes, b"".join(part.ids), part.checks, segment)

    def _add(self, rows: Sequence[CommitRow], began_ms: int, events: Sequence[Event]) -> None:
        state = self._state
        for row in rows:
            state.appended = AppendTotals(row.accepted, row.requeued)
            state.commits.unseen[row.id] = row
            state.commits.add(row)
        self._notify(self._clock.monotonic_ms() - began_ms, events)

    async def requeue(self, selection: Selection, limit: int) -> int:
        """Append dead letters again. Return their number."""
        async with self._lock:
            letters = await self._database.letters(selection, limit, 0)
            if not letters:
                return 0
            for error in self._state.beyond_max_devices([[letter.device_key for letter in letters]]).values():
                raise error
            began_ms = self._clock.monotonic_ms()
            accepted, requeued = self._state.appended
            transaction = RequeueTransaction(
                self._number + 1, accepted, requeued, self._state.now_ms(), [letter.id for letter in letters]
            )
            try:
                row = await self._database.requeue(self._state.replica, transaction)
            except OutboxUnavailable as error:
                row = await self._outcome(transaction.number, error)
            if row is None:
                return 0
            self._number += 1
            known = self._state.commits.known
            checks = [
                check or (self._state.commits.check(known[event_id]) if event_id in known else 0)
                for event_id, check in zip(split_ids(row.ids), row.checks, strict=True)
            ]
            self._add([row._replace(checks=array("I", checks))], began_ms, ())
            self._state.remove_letters(len(row.sizes), sum(row.sizes))
            return len(row.sizes)

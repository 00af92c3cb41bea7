"""The implementation of relay.outbox.Outbox on a database that several replicas share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress

from relay.config import OutboxSettings
from relay.event.reader import DeviceKey, Event
from relay.outbox import (
    AppendResult,
    Claimed,
    ClaimPart,
    DeadLetter,
    Durability,
    EventState,
    Gauges,
    Holder,
    Ledger,
    MayForget,
    OutboxError,
    OutboxFull,
    OutboxLost,
    OutboxUnavailable,
    Selection,
    Settled,
)
from relay.outbox.engine.conflicts import Conflicts
from relay.outbox.engine.limits import limited
from relay.outbox.postgres.appending import Appending, WaitingAppend
from relay.outbox.postgres.database import Mark, SharedDatabase
from relay.outbox.postgres.forwarding import Forwarding
from relay.outbox.postgres.moves import BuryCall, ClaimCall, ForgetCall, RemoveCall, SettleCall
from relay.outbox.postgres.reconnect import Reconnect
from relay.outbox.postgres.state import ROW_BYTES, ReplicaState
from relay.outbox.postgres.watching import DatabaseWatch
from relay.runtime.clock import Clock
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks

_MAX_WAITING_BYTES = 36 << 20
"""Maximum memory of events that wait for a commit. One larger append is allowed if no other append waits."""
_COMMON_EVENT_BYTES = 1024
_EVENTS_AT_ONCE = 1_000
"""Maximum number of events that one transaction removes."""


class SharedOutbox:
    """See relay.outbox.Outbox."""

    def __init__(
        self,
        settings: OutboxSettings,
        clock: Clock,
        metrics: Metrics,
        tasks: Tasks,
        database: SharedDatabase,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._tasks = tasks
        self._database = database
        self._own_tasks = Tasks()
        """Tasks that `tasks.cancel_all` does not cancel, so that transactions at shutdown complete."""
        self._parts: ReplicaParts | None = None
        """None until the replica is registered, and after `close`."""
        self._opening: asyncio.Task[ReplicaParts] | None = None
        self._is_closing = False
        self._forgets_idle = False

    def __repr__(self) -> str:
        return f"<SharedOutbox {self._settings.replica_name}: {self._parts!r}>"

    # -- life ----------------------------------------------------------------------------------------

    async def open(self, may_forget: MayForget | None = None) -> None:
        """Register a replica. While the database is unavailable, the outbox tries again in the background."""
        self._forgets_idle = may_forget is not None  # Other replicas' times cannot be compared before a claim.
        self._tasks.start("outbox watch", self._watch())
        try:
            self._begin(await self._register())
        except OutboxUnavailable as error:
            self._opening = self._own_tasks.start("outbox opening", self._register_later(error))

    async def _register(self) -> ReplicaParts:
        registered = await self._database.register(self._settings.replica_name)
        state = ReplicaState(self._settings, self._clock, registered, forgets_idle=self._forgets_idle)
        parts = ReplicaParts(state, self._database, self._clock, self._metrics, self._make_room)
        await parts.watching.poll()  # Appends need the dedupe window, and a claim of queue groups needs every row.
        return parts

    async def _register_later(self, error: OutboxUnavailable) -> ReplicaParts:
        reconnect, attempt = Reconnect(self._clock, self._settings.timeout_ms, self._settings.lease_ms), 0
        while True:
            await reconnect.wait(attempt, error)
            attempt += 1
            with suppress(OutboxUnavailable):
                parts = await self._register()
                self._begin(parts)
                return parts

    def _begin(self, parts: ReplicaParts) -> None:
        self._parts = parts
        for name, work in (
            ("append", parts.appending.run()),
            ("waits", parts.appending.limit_waits()),
            ("forward", parts.forwarding.run()),
            ("poll", parts.watching.run()),
            ("beat", parts.watching.pace()),
            ("cleanup", parts.watching.clean()),
        ):
            parts.running[name] = self._own_tasks.start(f"outbox {name}", work)

    async def _watch(self) -> None:
        """Raise the exception of a failed task, so that the service stops. A fenced replica starts as a new one."""
        raise await asyncio.shield(self._own_tasks.failure)

    async def load(self, holder: Holder) -> None:
        if self._opening is not None:
            await asyncio.shield(self._opening)
        parts = self._known
        parts.state.holder = holder
        parts.watching.ring()
        await asyncio.shield(parts.watching.granted)

    def configure(self, settings: OutboxSettings) -> None:
        self._settings = limited(self._settings, settings)
        if self._parts is not None:
            self._parts.state.settings = self._settings

    async def close(self) -> None:
        self._is_closing = True
        parts = self._parts
        if parts is not None:
            for name, part in (("append", parts.appending), ("forward", parts.forwarding)):
                part.close()
                await asyncio.wait((parts.running[name],))
            self._parts = None
        await self._own_tasks.cancel_all()
        if parts is not None:
            with suppress(OutboxError):
                await self._database.leave(parts.state.replica, parts.state.anchor())
        await self._database.close()

    @property
    def _known(self) -> ReplicaParts:
        if self._parts is None:
            raise OutboxUnavailable("the outbox is closed, or its database does not respond")
        return self._parts

    def send_until_ms(self) -> int | None:
        return 0 if self._parts is None else self._parts.watching.lease.until_ms

    # -- ingest --------------------------------------------------------------------------------------

    def append(self, events: Sequence[Event], *, callers: int = 1) -> asyncio.Future[AppendResult]:
        result: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()
        append = WaitingAppend(events, result, self._clock.monotonic_ms())
        rejection = self._rejection(append.cost_bytes, {event.device_key for event in events})
        if rejection is None and self._parts is not None:
            keys = self._parts.appending.new_keys(events)
            rejection = self._parts.state.beyond_max_devices([keys]).get(0)
        parts = self._parts
        is_known = parts is not None and isinstance(rejection, OutboxFull | None) and self._knows(parts, events)
        if parts is not None and is_known and not parts.state.foreign(event.event_id for event in events):
            parts.conflicts.report([found for event in events if (found := parts.state.conflict_of(event)) is not None])
            result.set_result(AppendResult(len(events), parts.state.durability))
        elif parts is None or (rejection is not None and not is_known):
            result.set_exception(rejection or OutboxUnavailable("the outbox is closed"))
        else:
            parts.appending.enqueue(append)
        return result

    def _knows(self, parts: ReplicaParts, events: Sequence[Event]) -> bool:
        return all(event.event_id in parts.state.commits.known for event in events)

    def _rejection(self, cost_bytes: int, keys: Collection[DeviceKey] = ()) -> OutboxError | None:
        """Return why events of these devices cannot be appended now; None if they can."""
        parts = self._parts
        if self._is_closing or parts is None:
            return OutboxUnavailable("the outbox is closed, or its database does not respond")
        if self._own_tasks.failure.done():
            return OutboxLost("the outbox has ended: the relay starts again")
        if (failure := parts.reconnect.lasting_failure()) is not None:
            return failure
        if (unreplicated := parts.state.unreplicated()) is not None:
            return unreplicated
        waiting_bytes = parts.appending.cost_bytes
        if waiting_bytes and waiting_bytes + cost_bytes > _MAX_WAITING_BYTES:
            return OutboxFull("more events are waiting for the database than memory may hold")
        max_bytes = self._settings.max_size_bytes
        rejects = self._settings.when_full == "reject"
        room_bytes = max_bytes - parts.state.used_bytes() - waiting_bytes if rejects else max_bytes
        if cost_bytes > room_bytes:
            return OutboxFull("the outbox is full (outbox.max_size)")
        return parts.state.device_problem(room_bytes, keys)

    async def _make_room(self, cost_bytes: int) -> OutboxError | None:
        """Drop the oldest events that are not in flight, if `when_full` is "drop_oldest"."""
        if self._settings.when_full != "drop_oldest":
            return None
        parts = self._known
        while (missing := parts.state.used_bytes() + cost_bytes - self._settings.max_size_bytes) > 0:
            oldest = sorted(
                (seq, queue_id, size)
                for queue_id, queue in parts.state.queues.items()
                for seq, size in queue.droppable()
            )
            marks = []
            for seq, queue_id, size in oldest[:_EVENTS_AT_ONCE]:
                if missing > 0:
                    marks.append(Mark(seq, queue_id, "dropped"))
                    missing -= size + ROW_BYTES
            if not marks or not await parts.forwarding.submit(RemoveCall(marks, "size", self._metrics)):
                return OutboxFull("the outbox is full, and every event in it is in flight: append again later")
        return None

    def room(self) -> bool:
        return self._rejection(_COMMON_EVENT_BYTES + ROW_BYTES) is None

    # -- forwarding ----------------------------------------------------------------------------------

    def sizes(self, queue_id: int, limit: int) -> Sequence[int]:
        queue = None if self._parts is None else self._parts.state.queues.get(queue_id)
        return () if queue is None else queue.sizes(limit)

    async def claim(self, parts: Sequence[ClaimPart], true_ms: int | None = None) -> Sequence[Claimed]:
        forwarding = self._known.forwarding
        call = ClaimCall(parts, true_ms, forwarding.next_request())
        claimed = await forwarding.submit(call)
        if call.corrupt:
            windows = {part.queue_id: part.window for part in parts}
            await forwarding.submit(BuryCall(call.corrupt, windows, self._metrics))
        return claimed

    async def settle(self, settled: Sequence[Settled]) -> None:
        await self._known.forwarding.submit(SettleCall(settled, self._metrics))

    def release(self, queue_ids: Sequence[int], *, perhaps_delivered: bool = False) -> None:
        for queue_id in queue_ids:
            queue = None if self._parts is None else self._parts.state.queues.get(queue_id)
            if queue is not None:
                queue.release(perhaps_delivered=perhaps_delivered)

    async def forget(self, queue_ids: Sequence[int]) -> None:
        await self._known.forwarding.submit(ForgetCall(queue_ids))

    async def expire(self) -> int:
        parts, dropped = self._known, 0
        while marks := self._expired(parts.state):
            events = await parts.forwarding.submit(RemoveCall(marks, "age", self._metrics))
            if not events:
                break
            dropped += events
        return dropped

    def _expired(self, state: ReplicaState) -> list[Mark]:
        before_ms, marks = state.now_ms() - self._settings.max_age_ms, list[Mark]()
        for queue_id, queue in state.queues.items():
            first = queue.first_seq()
            if first is None or state.commits.row_of(first).at_ms >= before_ms:
                continue
            for seq, _ in queue.droppable():
                if len(marks) == _EVENTS_AT_ONCE or state.commits.row_of(seq).at_ms >= before_ms:
                    break
                marks.append(Mark(seq, queue_id, "dropped"))
        return marks

    # -- watching ------------------------------------------------------------------------------------

    def ledger(self) -> Ledger:
        return Ledger() if self._parts is None else self._parts.state.ledger()

    def gauges(self) -> Gauges:
        rejection = self._rejection(_COMMON_EVENT_BYTES + ROW_BYTES)
        parts, max_bytes = self._parts, self._settings.max_size_bytes
        if parts is None:
            return Gauges(0, max_bytes, 0, False, 0, str(rejection), 0, self._settings.max_devices)
        used_bytes = parts.state.used_bytes()
        problem = rejection or parts.state.device_problem(max_bytes - used_bytes - parts.appending.cost_bytes)
        return Gauges(
            bytes=used_bytes,
            max_bytes=max_bytes,
            oldest_age_ms=parts.state.oldest_age_ms(),
            writable=problem is None,
            dead_letters=parts.state.letters.number,
            problem="" if problem is None else str(problem),
            devices=len(parts.state.queues),
            max_devices=self._settings.max_devices,
            replicas=parts.state.replicas(parts.watching.observer.ages_ms(self._clock.monotonic_ms())),
            owed=sum(parts.state.owed.values()),
        )

    @property
    def durability(self) -> Durability:
        return "normal" if self._parts is None else self._parts.state.durability

    async def check(self) -> None:
        """Do nothing: the poll detects a database that does not respond."""

    async def find(self, event_id: bytes) -> EventState | None:
        if self._parts is None:
            return None
        state = self._parts.state
        while (foreign := state.foreign([event_id])) and (marks := await self._database.outcomes(foreign)):
            state.commits.mark(marks)  # If this copy of the event is not sent, the next turn finds the one that is.
        return state.state_of(event_id)

    # -- dead letters --------------------------------------------------------------------------------

    async def dead_letters(self, selection: Selection, limit: int, after: int = 0) -> Sequence[DeadLetter]:
        self._known  # noqa: B018 - raises if the outbox is closed
        return await self._database.letters(selection, limit, after)

    async def requeue(self, selection: Selection, limit: int) -> int:
        moved = 0
        while moved < limit and (events := await self._known.appending.requeue(selection, limit - moved)):
            moved += events
            self._metrics.events_requeued.inc(events)
        return moved

    async def discard(self, selection: Selection, limit: int) -> int:
        removed, body_bytes = await self._database.discard(selection, limit)
        self._known.state.remove_letters(removed, body_bytes)
        return removed

    # -- cloned installations: events of a database do not belong to a machine -----------------------

    was_moved = False

    async def adopt(self, limit: int) -> int:
        return 0

    async def discard_quarantined(self, limit: int) -> int:
        return 0


class ReplicaParts:
    """The parts of a registered replica."""

    def __init__(
        self,
        state: ReplicaState,
        database: SharedDatabase,
        clock: Clock,
        metrics: Metrics,
        make_room: Callable[[int], Awaitable[OutboxError | None]],
    ) -> None:
        self.state = state
        self.reconnect = Reconnect(clock, state.settings.timeout_ms, state.settings.lease_ms)
        self.conflicts = Conflicts(clock, metrics)
        self.forwarding = Forwarding(database, state, clock, self.reconnect)
        self.watching = DatabaseWatch(database, state, clock, metrics, self.reconnect, self.forwarding)
        self.appending = Appending(database, state, clock, self.conflicts, self.reconnect, make_room, self._committed)
        self.running: dict[str, asyncio.Task[None]] = {}
        self._metrics = metrics

    def _committed(self, duration_ms: int, events: Sequence[Event]) -> None:
        """Count and report a commit of events, and discover them soon."""
        self._metrics.feed.changed("stored", (event.body for event in events))
        self._metrics.outbox_commits.inc()
        self._metrics.outbox_commit_duration_seconds.observe(duration_ms / 1000)
        self.watching.ring()

    def __repr__(self) -> str:
        return f"{self.state!r}, {self.appending!r}, {self.forwarding!r}, {self.watching!r}"

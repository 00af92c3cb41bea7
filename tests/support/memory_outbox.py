"""The outbox in memory: the reference for tests, and the outbox of simulations.

It has all guarantees of relay.outbox except durability. `crashed` returns the outbox that a restart
finds, so that a simulation can kill a relay. It uses no threads and no files. A commit takes one
iteration of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from uuid import UUID

from relay.config import OutboxSettings
from relay.event.reader import DeviceKey, Event
from relay.outbox import (
    AppendResult,
    Claimed,
    ClaimPart,
    Dead,
    DeadLetter,
    DropReason,
    Durability,
    EventState,
    Gauges,
    Holder,
    Ledger,
    MayForget,
    OutboxFull,
    OutboxShareUsed,
    OutboxUnavailable,
    RestoredQueue,
    RestoredState,
    Selection,
    Settled,
    Timestamp,
    TooManyDevices,
)
from relay.outbox.engine.checksum import checksum, has_inserted_time
from relay.outbox.engine.conflicts import Conflict, Conflicts
from relay.outbox.engine.fair_share import over_share
from relay.outbox.engine.limits import limited
from relay.outbox.engine.outbox_clock import OutboxTime
from relay.outbox.engine.stored_queue import packed, unpacked
from relay.runtime.clock import Clock, rfc3339
from relay.runtime.metrics import Metrics

from tests.support.letter_pages import page
from tests.support.memory_disk import ROW_BYTES, Disk, Stored


class MemoryOutbox:
    """See relay.outbox.Outbox."""

    def __init__(
        self, settings: OutboxSettings, clock: Clock, metrics: Metrics | None = None, disk: Disk | None = None
    ) -> None:
        self.disk = disk or Disk()
        self._settings = settings
        self._clock = clock
        self._metrics = metrics or Metrics()
        self._conflicts = Conflicts(clock, self._metrics)
        self._time: OutboxTime | None = None
        self._pending_calls: list[tuple[Sequence[Event], asyncio.Future[AppendResult]]] = []
        self._in_flight: dict[int, list[int]] = {}
        self._omitted: dict[int, Mapping[int, Dead | None]] = {}
        """By queue id, for queues with events in flight, see ClaimPart."""
        self._shift_ms: dict[int, int] = {}
        """By queue id, if the upstream may have accepted the last request: true time minus outbox time."""
        self._holder: Holder | None = None
        self._open = False

    def crashed(self) -> MemoryOutbox:
        """Kill this outbox. Return the outbox that a restart finds."""
        self._open = False
        self._reject_pending_calls()
        return MemoryOutbox(self._settings, self._clock, disk=self.disk.copy())

    async def open(self, may_forget: MayForget | None = None) -> None:
        self._open = True
        for number, queue in list(self.disk.queues.items()):
            is_idle = not queue.pending and queue.journal is None
            same_boot = queue.boot_id == self._clock.boot_id
            if may_forget is not None and is_idle and (not queue.window or (same_boot and may_forget(queue.window))):
                del self.disk.by_key[self.disk.queues.pop(number).key]
        self._time = OutboxTime(self._clock, self.disk.anchor)
        if self.disk.anchor is None or self.disk.anchor.boot_id != self._clock.boot_id:
            self.disk.boot_from_ms = self._now_ms()
        self._save_time()

    async def load(self, holder: Holder) -> None:
        await self._commit_turn()
        self._holder = holder
        requests: dict[int, list[tuple[int, ClaimPart]]] = {}
        queues = []
        for number, queue in self.disk.queues.items():
            shift_ms = 0 if queue.boot_id == self._clock.boot_id else None
            queues.append(RestoredQueue(number, queue.key, queue.window, shift_ms))
            if queue.journal is not None:
                request, ordinal, seqs, sent_ms, omitted = queue.journal
                if seqs == [stored.seq for stored in islice(queue.pending, len(seqs))]:
                    self._in_flight[number] = seqs
                    self._omitted[number] = omitted
                    self._shift_ms[number] = sent_ms
                    part = ClaimPart(number, len(seqs), omitted=omitted)
                    requests.setdefault(request, []).append((ordinal, part))
            if queue.pending:
                self._report(number)
        unsettled = [[part for _, part in sorted(requests[request])] for request in sorted(requests)]
        holder.granted(RestoredState(queues, unsettled))

    def append(self, events: Sequence[Event], *, callers: int = 1) -> asyncio.Future[AppendResult]:
        result: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()
        new_bytes = sum(len(event.body) + ROW_BYTES for event in events)
        waiting_calls = sum(len(event.body) + ROW_BYTES for waiting, _ in self._pending_calls for event in waiting)
        excess = self.disk.size_bytes() + waiting_calls + new_bytes - self._settings.max_size_bytes
        known = all(self.disk.knows(event.event_id) for event in events)
        if not self._open:
            result.set_exception(OutboxUnavailable("the outbox is closed"))
        elif known:
            self._report_conflicts(events)
            result.set_result(AppendResult(len(events), self.durability))
        elif excess > 0 and (self._settings.when_full == "reject" or new_bytes > self._settings.max_size_bytes):
            result.set_exception(OutboxFull("the outbox is full (outbox.max_size)"))
        elif self._over_share(new_bytes - excess, {event.device_key for event in events}):
            result.set_exception(OutboxShareUsed())
        elif (rejection := self._beyond_max_devices(events)) is not None:
            result.set_exception(rejection)
        else:
            self._pending_calls.append((events, result))
            asyncio.get_running_loop().call_soon(self._commit_pending_calls)
        return result

    def room(self) -> bool:
        full = self.disk.size_bytes() >= self._settings.max_size_bytes
        return self._open and not (full and self._settings.when_full == "reject")

    def _over_share(self, room_bytes: int, keys: Iterable[DeviceKey]) -> bool:
        queues = [self.disk.queues[number] for key in keys if (number := self.disk.by_key.get(key)) is not None]
        used_bytes = [queue.body_bytes + ROW_BYTES * len(queue.pending) for queue in queues]
        return self._settings.when_full == "reject" and any(over_share(each, room_bytes) for each in used_bytes)

    def _beyond_max_devices(self, events: Iterable[Event]) -> TooManyDevices | None:
        further = {event.device_key for event in events if not self.disk.knows(event.event_id)} - set(self.disk.by_key)
        max_devices = self._settings.max_devices
        if further and len(self.disk.by_key) + len(further) > max_devices:
            return TooManyDevices(min(further), max_devices)
        return None

    def sizes(self, queue_id: int, limit: int) -> Sequence[int]:
        known = self.disk.queues.get(queue_id)
        return [] if known is None else [len(stored.event.body) for stored in islice(known.pending, limit)]

    def send_until_ms(self) -> int | None:
        return None

    async def claim(self, parts: Sequence[ClaimPart], true_ms: int | None = None) -> Sequence[Claimed]:
        await self._commit_turn()
        shift_now_ms = 0 if true_ms is None else true_ms - self._now_ms()
        request, self.disk.next_request = self.disk.next_request, self.disk.next_request + 1
        claimed = []
        for ordinal, (number, events, window, all_omitted) in enumerate(parts):
            queue = self.disk.queues.get(number)
            if queue is None:
                claimed.append(Claimed(number, []))
                continue
            first = list(islice(queue.pending, events))
            omitted = {stored.seq: all_omitted[stored.seq] for stored in first if stored.seq in all_omitted}
            wanted = [stored for stored in first if stored.seq not in omitted]
            corrupt = [stored for stored in wanted if has_inserted_time(stored.event.body, stored.crc) is None]
            for stored in corrupt:
                self._insert_dead_letters(number, stored, Dead("corrupt", None, "checksum does not match"))
            good = [stored for stored in wanted if stored not in corrupt]
            seqs = [stored.seq for stored in first if stored not in corrupt]
            shift_ms = self._shift_ms.pop(number, shift_now_ms)
            queue.journal = (request, ordinal, seqs, shift_ms, unpacked(packed(omitted))) if seqs else None
            queue.window, queue.boot_id = window, self._clock.boot_id
            self._in_flight.pop(number, None)
            if seqs:
                self._in_flight[number] = seqs
                self._omitted[number] = omitted
                self._shift_ms[number] = shift_ms
            if corrupt:
                self._report(number)
            timestamps = {
                index: Timestamp(
                    stored.at_ms + shift_ms, not stored.is_requeued and stored.at_ms >= self.disk.boot_from_ms
                )
                for index, stored in enumerate(good)
                if shift_ms and has_inserted_time(stored.event.body, stored.crc)
            }
            bodies, sent = [stored.event.body for stored in good], [stored.seq for stored in good]
            claimed.append(Claimed(number, bodies, sent, timestamps))
        self._limit_dead_letters()
        return claimed

    async def settle(self, settled: Sequence[Settled]) -> None:
        await self._commit_turn()
        for number, delivered, dead, window in settled:
            queue = self.disk.queues.get(number)
            if queue is None:
                continue
            seqs = self._in_flight.pop(number, [])
            self._shift_ms.pop(number, None)
            omitted = self._omitted.pop(number, {})
            by_seq = {stored.seq: stored for stored in islice(queue.pending, len(seqs))}
            sent = [seq for seq in seqs if seq not in omitted]
            why_dead = {sent[index]: why for index, why in dead.items()}
            if delivered:
                why_dead |= {seq: why for seq, why in omitted.items() if why is not None}
            for seq, why in why_dead.items():
                self._insert_dead_letters(number, by_seq[seq], why)
            if delivered:
                rest = [seq for seq in sent if seq not in why_dead]
                self.disk.remove(number, rest, "delivered")
                self.disk.count(delivered=len(rest))
                self._metrics.events_delivered.inc(len(rest))
            queue.journal = None
            queue.window, queue.boot_id = window, self._clock.boot_id
            if delivered or dead:
                self._report(number)
        self._limit_dead_letters()

    def release(self, queue_ids: Sequence[int], *, perhaps_delivered: bool = False) -> None:
        for number in queue_ids:
            self._in_flight.pop(number, None)
            if not perhaps_delivered:
                self._shift_ms.pop(number, None)

    async def forget(self, queue_ids: Sequence[int]) -> None:
        await self._commit_turn()
        for number in queue_ids:
            queue = self.disk.queues.get(number)
            if queue is not None and not queue.pending and number not in self._in_flight:
                del self.disk.by_key[self.disk.queues.pop(number).key]

    async def expire(self) -> int:
        await self._commit_turn()
        oldest_ms = self._now_ms() - self._settings.max_age_ms
        unwanted = [(number, stored) for number, stored in self._droppable() if stored.at_ms < oldest_ms]
        self._drop("age", unwanted)
        return len(unwanted)

    was_moved = False

    @property
    def durability(self) -> Durability:
        return self._settings.durability

    def ledger(self) -> Ledger:
        return self.disk.ledger

    def gauges(self) -> Gauges:
        room_bytes = self._settings.max_size_bytes - self.disk.size_bytes()
        writable = self.room() and not self._over_share(room_bytes, self.disk.by_key)
        oldest = min((queue.pending[0].at_ms for queue in self.disk.queues.values() if queue.pending), default=None)
        return Gauges(
            bytes=self.disk.size_bytes(),
            max_bytes=self._settings.max_size_bytes,
            oldest_age_ms=0 if oldest is None else self._now_ms() - oldest,
            writable=writable,
            dead_letters=len(self.disk.dead),
            problem="" if writable else "the outbox is full, nearly full, or closed",
            devices=len(self.disk.by_key),
            max_devices=self._settings.max_devices,
        )

    async def check(self) -> None:
        self._save_time()

    async def find(self, event_id: bytes) -> EventState | None:
        return self.state_of(event_id)

    def state_of(self, event_id: bytes) -> EventState | None:
        found = self.disk.states.get(event_id)
        return None if found is None else found[1]

    async def dead_letters(self, selection: Selection, limit: int, after: int = 0) -> Sequence[DeadLetter]:
        await self._commit_turn()
        found = page(
            [(each.id, each) for each in self.disk.selected(selection)], after, newest_first=selection.newest_first
        )
        return [letter for _, letter in found][:limit]

    async def requeue(self, selection: Selection, limit: int) -> int:
        await self._commit_turn()
        chosen = list(self.disk.selected(selection))[:limit]
        further = {letter.device_key for letter in chosen} - set(self.disk.by_key)
        if further and len(self.disk.by_key) + len(further) > self._settings.max_devices:
            raise TooManyDevices(min(further), self._settings.max_devices)
        for letter in chosen:
            stored = self.disk.remove_dead_letter(letter.id)
            self.disk.store(stored.event, stored.crc, self._now_ms(), is_requeued=True)
        self.disk.forget_ids(self._settings.dedupe_window)
        self.disk.count(requeued=len(chosen), pending=len(chosen))
        self._metrics.events_requeued.inc(len(chosen))
        self._report_all({letter.device_key for letter in chosen})
        return len(chosen)

    async def discard(self, selection: Selection, limit: int) -> int:
        await self._commit_turn()
        chosen = list(self.disk.selected(selection))[:limit]
        for letter in chosen:
            self.disk.remove_dead_letter(letter.id)
        return len(chosen)

    async def adopt(self, limit: int) -> int:
        """Return 0: there are no quarantined events in memory."""
        return 0

    async def discard_quarantined(self, limit: int) -> int:
        return 0

    def configure(self, settings: OutboxSettings) -> None:
        self._settings = limited(self._settings, settings)

    async def close(self) -> None:
        if self._open:
            await self._commit_turn()
            self._save_time()
        self._open = False
        self._reject_pending_calls()

    # -- commits ------------------------------------------------------------------------------

    async def _commit_turn(self) -> None:
        """Commit after one iteration of the event loop, so that other tasks run as during a write to disk."""
        await asyncio.sleep(0)
        if not self._open:
            raise OutboxUnavailable("the outbox is closed")
        self._commit_pending_calls()

    def _commit_pending_calls(self) -> None:
        waiting_calls, self._pending_calls = self._pending_calls, []
        for events, result in waiting_calls:
            if (rejection := self._beyond_max_devices(events)) is not None:
                if not result.done():
                    result.set_exception(rejection)
                continue
            new_bytes = sum(len(event.body) + ROW_BYTES for event in events)
            if not self._make_room(new_bytes):
                if not result.done():
                    result.set_exception(
                        OutboxFull(
                            "the outbox is full, and every event in it is in flight or quarantined: append again later"
                        )
                    )
                continue
            fresh: list[Event] = []
            repeated: list[Event] = []
            for event in events:
                if self.disk.knows(event.event_id):
                    repeated.append(event)
                else:
                    self.disk.store(event, checksum(event.body, event.has_inserted_time), self._now_ms())
                    fresh.append(event)
            self._report_conflicts(repeated)
            self.disk.count(accepted=len(fresh), pending=len(fresh))
            if not result.done():
                result.set_result(AppendResult(len(events) - len(fresh), self.durability))
            self._report_all({event.device_key for event in fresh})
        self.disk.forget_ids(self._settings.dedupe_window)

    def _report_conflicts(self, repeated: Sequence[Event]) -> None:
        stored = [self.disk.received[event.event_id] for event in repeated]
        pairs = zip(repeated, stored, strict=True)
        self._conflicts.report([Conflict(event, key) for event, (check, key) in pairs if check != event.check])

    def _reject_pending_calls(self) -> None:
        for _, result in self._pending_calls:
            if not result.done():
                result.set_exception(OutboxUnavailable("the outbox is closed"))
        self._pending_calls = []

    def _insert_dead_letters(self, number: int, stored: Stored, why: Dead) -> None:
        disk = self.disk
        event = stored.event
        letter = DeadLetter(
            disk.next_dead,
            str(UUID(bytes=event.event_id)),
            event.device_key,
            why.reason,
            why.status,
            why.message,
            rfc3339(self._clock.wall_ms()),
            event.body,
        )
        disk.add_dead_letter(letter, stored)
        self.disk.remove(number, [stored.seq], "dead_lettered")
        self.disk.count(dead_lettered=1)
        self._metrics.events_dead_lettered.labels(why.reason).inc()

    def _limit_dead_letters(self) -> None:
        self._metrics.dead_letters_discarded.inc(self.disk.limit_dead_letters(self._settings.max_dead_letters))

    def _make_room(self, new_bytes: int) -> bool:
        excess = self.disk.size_bytes() + new_bytes - self._settings.max_size_bytes
        if excess <= 0:
            return True
        unwanted: list[tuple[int, Stored]] = []
        for number, stored in sorted(self._droppable(), key=lambda each: each[1].seq):
            if excess <= 0:
                break
            excess -= len(stored.event.body) + ROW_BYTES
            unwanted.append((number, stored))
        self._drop("size", unwanted)
        return excess <= 0

    def _droppable(self) -> Iterable[tuple[int, Stored]]:
        """Return (queue id, event) of each pending event that is not in flight."""
        for number, queue in self.disk.queues.items():
            for stored in islice(queue.pending, len(self._in_flight.get(number, ())), None):
                yield number, stored

    def _drop(self, reason: DropReason, unwanted: Sequence[tuple[int, Stored]]) -> None:
        for number in {number for number, _ in unwanted}:
            self.disk.remove(number, [stored.seq for queue_id, stored in unwanted if queue_id == number], "dropped")
            self._report(number)
        self.disk.count(dropped=len(unwanted))
        self._metrics.events_dropped.labels(reason).inc(len(unwanted))

    def _save_time(self) -> None:
        assert self._time is not None
        self.disk.anchor = self._time.anchor()

    def _now_ms(self) -> int:
        assert self._time is not None, "the outbox is not open"
        return self._time.now_ms()

    def _report_all(self, keys: Iterable[DeviceKey]) -> None:
        for key in sorted(set(keys)):
            self._report(self.disk.by_key[key])

    def _report(self, number: int) -> None:
        queue = self.disk.queues[number]
        if self._holder is not None:
            self._holder.pending([(number, queue.key, len(queue.pending), queue.body_bytes)])

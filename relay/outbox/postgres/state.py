"""What one replica knows as of its last poll and its own commits: its queue groups, pending events, and totals.

Rule: the state changes after a transaction that was committed, or after a poll. Only the event loop uses it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from relay.config import OutboxSettings
from relay.event.reader import DeviceKey, Event
from relay.outbox import (
    ClaimPart,
    Durability,
    EventState,
    Holder,
    Ledger,
    OutboxError,
    OutboxShareUsed,
    OutboxUnavailable,
    ReplicaView,
    RestoredQueue,
    RestoredState,
    TooManyDevices,
)
from relay.outbox.engine.conflicts import Conflict
from relay.outbox.engine.fair_share import is_crowded, over_share
from relay.outbox.engine.outbox_clock import Anchor, OutboxTime
from relay.outbox.engine.stored_queue import Flight, unpacked
from relay.outbox.postgres.commits import Commits
from relay.outbox.postgres.database import (
    AppendTotals,
    CommitRow,
    ForwardTotals,
    Grant,
    Letters,
    Mark,
    Registered,
    SharedQueue,
    View,
    group_of,
    queue_id_of,
)
from relay.outbox.postgres.others import Others
from relay.outbox.postgres.queues import Held, HeldQueue
from relay.runtime.clock import Clock

ROW_BYTES = 120
"""Size of a stored event without its body."""
_NO_VIEW = View((), {}, {}, {}, Letters(), 0, (), "normal")


class ReplicaState:
    """The state of one replica."""

    def __init__(
        self, settings: OutboxSettings, clock: Clock, registered: Registered, *, forgets_idle: bool = False
    ) -> None:
        """`forgets_idle`: whether device queues without pending events and rate window are not restored."""
        self.settings = settings
        self.replica = registered.replica
        self.commits = Commits(settings.dedupe_window)
        self.commits.mark(registered.marks)
        self.queues: dict[int, HeldQueue] = {}
        self._held = Held()
        self.groups: set[int] = set()
        """Queue groups that this replica holds, those that it is about to release included."""
        self.leaving: set[int] = set()
        self.appended = AppendTotals()
        self.durability: Durability = "normal"
        """Of the last commit; at first of the last beat."""
        self.moved = ForwardTotals()
        self.view = _NO_VIEW
        self.letters = Letters()
        self.letter_changes = 0
        """Number of own transactions that changed the dead letters. A beat that was sent before does not know them."""
        self.holder: Holder | None = None
        self.changed: set[int] = set()
        """Ids of queues whose changes have not been reported to the holder."""
        self.owed: dict[int, int] = {}
        """By queue id: the number of requests of earlier holders that may still reach the upstream."""
        self.others = Others()
        self._ended: set[tuple[int, int]] = set()
        self.duplicates: list[Mark] = []
        """Discovered copies of events that another replica stored at the same time."""
        self._clock = clock
        self._forgets_idle = forgets_idle
        self._time, self.boot_from_ms = _resumed(clock, registered)

    def __repr__(self) -> str:
        return f"<ReplicaState {self.replica}: {len(self.groups)} groups, {len(self.queues)} queues, {self.commits}>"

    # -- time ----------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Return outbox time."""
        return self._time.now_ms()

    def anchor(self) -> Anchor:
        return self._time.anchor()

    def replicas(self, beat_ages_ms: Mapping[int, int]) -> list[ReplicaView]:
        """Return the live replicas. `beat_ages_ms`: by replica, the time since its last beat."""
        groups = Counter(self.view.holders.values())
        groups[self.replica] = len(self.groups)
        return [
            ReplicaView(
                other.name,
                groups[other.replica],
                self.held()[0] if other.replica == self.replica else other.events,
                beat_ages_ms.get(other.replica, 0),
                other.replica == self.replica,
            )
            for other in sorted(self.view.replicas)
            if other.beat  # A command does not beat.
        ]

    # -- totals --------------------------------------------------------------------------------------

    def ledger(self) -> Ledger:
        appended = {**self.view.appended, self.replica: self.appended}
        moved = {**self.view.moved, self.replica: self.moved}
        accepted = sum(each.accepted for each in appended.values()) - sum(each.duplicates for each in moved.values())
        requeued = sum(each.requeued for each in appended.values())
        delivered, dead_lettered, dropped, _ = (sum(column) for column in zip(*moved.values(), strict=True))
        pending = accepted + requeued - delivered - dead_lettered - dropped
        return Ledger(accepted, requeued, delivered, dead_lettered, dropped, pending)

    def held(self) -> tuple[int, int]:
        """Return the number and the body bytes of the pending events of the held groups."""
        unseen = self.commits.unseen.values()
        events = self._held.events + sum(len(row.sizes) for row in unseen)
        return events, self._held.body_bytes + sum(sum(row.sizes) for row in unseen)

    def used_bytes(self) -> int:
        """Return the size of all stored events and dead letters, at least as much as other replicas last published."""
        events, body_bytes = map(sum, zip(self.held(), self.others.totals(), strict=True))
        return body_bytes + self.letters.body_bytes + (events + self.letters.number) * ROW_BYTES

    def oldest_age_ms(self) -> int:
        """Return the age of the oldest pending event of the held groups."""
        firsts = [seq for queue in self.queues.values() if (seq := queue.first_seq()) is not None]
        return max(self.now_ms() - self.commits.row_of(min(firsts)).at_ms, 0) if firsts else 0

    def count_letters(self, letters: Letters) -> None:
        """Record the dead letters after an own transaction."""
        self.letters = letters
        self.letter_changes += 1

    def remove_letters(self, count: int, body_bytes: int) -> None:
        self.count_letters(Letters(self.letters.number - count, self.letters.body_bytes - body_bytes))

    def elsewhere(self, queue_ids: Iterable[int]) -> set[int]:
        """Return the device queues that other replicas hold."""
        return {queue_id for queue_id in queue_ids if group_of(queue_id) not in self.groups}

    def beyond_max_devices(
        self, appends: Sequence[Iterable[DeviceKey]], new_elsewhere: Collection[int] = ()
    ) -> dict[int, TooManyDevices]:
        """Return by index the errors of appends with too many further devices, of held groups or in `new_elsewhere`."""
        max_devices, commits = self.settings.max_devices, self.commits.unseen.values()
        unseen = {queue_id for row in commits for queue_id in row.queue_ids if queue_id not in self.queues}
        unseen -= self.elsewhere(unseen)
        errors: dict[int, TooManyDevices] = {}
        for at, keys in enumerate(appends):
            ids = {queue_id_of(key): key for key in keys}
            further = {
                queue_id: key
                for queue_id, key in ids.items()
                if queue_id not in self.queues
                and queue_id not in unseen
                and (group_of(queue_id) in self.groups or queue_id in new_elsewhere)
            }
            if further and self.others.devices() + len(self.queues) + len(unseen) + len(further) > max_devices:
                errors[at] = TooManyDevices(min(further.values()), max_devices)
            else:
                unseen |= further.keys()
        return errors

    def unreplicated(self) -> OutboxUnavailable | None:
        """Return why the last commit is not sufficient for outbox.require_replicated, None if it is."""
        if not self.settings.require_replicated or self.durability == "replicated":
            return None
        return OutboxUnavailable(
            "no synchronous standby confirms the commits of the database (outbox.require_replicated): set "
            "synchronous_standby_names on its server"
        )

    def device_problem(self, room_bytes: int, keys: Iterable[DeviceKey] | None = None) -> OutboxError | None:
        """Return why one of these devices (None: of all) may not append although there is room for others."""
        settings = self.settings
        if settings.when_full != "reject" or not is_crowded(room_bytes, settings.max_size_bytes):
            return None
        numbers = self.queues if keys is None else [queue_id_of(key) for key in keys]
        queues = [self.queues[number] for number in numbers if number in self.queues]
        used = (queue.body_bytes + ROW_BYTES * len(queue) for queue in queues)
        return OutboxShareUsed() if any(over_share(each, room_bytes) for each in used) else None

    def see(self, view: View, letter_changes: int) -> None:
        """Record what a beat returned. `letter_changes`: when it was sent."""
        if letter_changes == self.letter_changes:
            self.letters = view.letters
        self.durability = view.durability
        polled = {replica: totals for replica, totals in self.view.appended.items() if replica in view.appended}
        self.view = view._replace(
            appended={
                replica: max(totals, polled.get(replica, AppendTotals())) for replica, totals in view.appended.items()
            }
        )
        others = [each for each in view.replicas if each.replica != self.replica]
        self.others.see(others, self.ledger().pending - self.held()[0])
        if view.outbox_ms > self.now_ms():
            clock = self._clock
            now = Anchor(view.outbox_ms, clock.monotonic_ms(), clock.wall_ms(), clock.boot_id)
            self._time = OutboxTime(clock, now)

    def take_ended(self) -> list[tuple[int, int]]:
        """Return the owed requests that are over and were not returned before, and are in groups that stay here."""
        here = self.groups - self.leaving
        new = [each for each in self.view.ended if each not in self._ended and group_of(each[0]) in here]
        self._ended = {*self._ended.intersection(self.view.ended), *new}
        return new

    # -- events --------------------------------------------------------------------------------------

    def state_of(self, event_id: bytes) -> EventState | None:
        seq = self.commits.known.get(event_id)
        if seq is None:
            return "dropped" if event_id in self.commits.dropped else None
        why = self.commits.marks.get(seq)
        if why == "duplicate":
            return "pending"  # The copy that is sent was not polled yet.
        if why is not None:
            return "dead_lettered" if why == "dead" else "delivered"
        row, queue_id = self.commits.row_of(seq), self.commits.queue_id(seq)
        if not self.commits.is_polled(row) or group_of(queue_id) not in self.groups:
            return "pending"
        queue = self.queues.get(queue_id)
        return "pending" if queue is not None and seq > queue.cursors.get(row.replica, 0) else "delivered"

    def foreign(self, event_ids: Iterable[bytes]) -> list[tuple[int, int, int]]:
        """Return (seq, queue id, appending replica) of the known events whose outcome only the database knows."""
        commits, found = self.commits, list[tuple[int, int, int]]()
        for event_id in event_ids:
            seq = commits.known.get(event_id)
            if seq is not None and seq not in commits.marks and group_of(commits.queue_id(seq)) not in self.groups:
                found.append((seq, commits.queue_id(seq), commits.row_of(seq).replica))
        return found

    def conflict_of(self, event: Event) -> Conflict | None:
        """Return the conflict if an event with the same id and other bytes is stored."""
        seq = self.commits.known.get(event.event_id)
        if seq is None or self.commits.check(seq) in (0, event.check):
            return None
        queue = self.queues.get(self.commits.queue_id(seq))
        return Conflict(event, None if queue is None else queue.key)

    def discover(self, rows: Sequence[CommitRow], new: Mapping[int, tuple[DeviceKey, Mapping[int, int]]]) -> None:
        """Add polled rows, in order. `new`: device and cursors of the device queues that are not in `queues`."""
        for queue_id, (key, cursors) in new.items():
            self.queues[queue_id] = HeldQueue(key, dict(cursors), self._held)
        for row in rows:
            self.commits.add(row)
            self.commits.polled(row)
            self._count(row)
            for at, (queue_id, size) in enumerate(zip(row.queue_ids, row.sizes, strict=True)):
                if group_of(queue_id) in self.groups:
                    self._discover(row, row.seq(at), queue_id, size)
            sizes = zip(row.queue_ids, row.sizes, strict=True)
            self.others.add([size for queue_id, size in sizes if group_of(queue_id) not in self.groups])

    def _count(self, row: CommitRow) -> None:
        if row.replica != self.replica:
            totals = AppendTotals(row.accepted, row.requeued)
            before = self.view.appended.get(row.replica, AppendTotals())
            self.view = self.view._replace(appended={**self.view.appended, row.replica: max(before, totals)})

    def _discover(self, row: CommitRow, seq: int, queue_id: int, size: int) -> None:
        queue = self.queues[queue_id]
        if seq <= queue.cursors.get(row.replica, 0) or seq in self.commits.marks:
            return
        first = self.commits.known.get(self.commits.event_id(seq), seq)
        is_copy = first != seq and self.commits.marks.get(first) != "duplicate" and not row.is_requeue
        if is_copy and self.commits.queue_id(first) == queue_id:
            self.duplicates.append(Mark(seq, queue_id, "duplicate"))
            return
        queue.append(seq, size)
        self.changed.add(queue_id)

    def report(self) -> None:
        """Report the changed queues to the holder. From a group that is leaving, nothing may be claimed any more."""
        changed, self.changed = self.changed, set()
        for queue_id in changed:
            queue = self.queues.get(queue_id)
            if queue is not None and self.holder is not None:
                is_leaving = group_of(queue_id) in self.leaving
                events, body_bytes = (0, 0) if is_leaving else (len(queue), queue.body_bytes)
                self.holder.pending([(queue_id, queue.key, events, body_bytes)])

    def forget(self, queue_ids: Sequence[int]) -> None:
        """Remove queues without pending events. Their cursors stay in the database."""
        for queue_id in queue_ids:
            del self.queues[queue_id]

    # -- queue groups --------------------------------------------------------------------------------

    def grant(self, grant: Grant) -> RestoredState:
        """Add claimed queue groups: the events in flight at the end of the last holder first, then by seq."""
        self.groups.update(grant.groups)
        self.commits.mark(grant.marks)
        self.owed |= grant.owed
        rows = {row.queue_id: row for row in grant.queues}
        for row in grant.queues:
            self.queues[row.queue_id] = HeldQueue(row.key, dict(row.cursors), self._held)
        in_flight = self._add_pending(rows)
        requests: dict[int, list[tuple[int, ClaimPart]]] = {}
        for row in grant.queues:
            events = in_flight.get(row.queue_id, 0)
            if row.journal is not None and events:
                queue = self.queues[row.queue_id]
                seqs, stored = queue.front(events), unpacked(row.journal.omitted)
                omitted = {seq: stored[seq] for seq in seqs if seq in stored}
                queue.restore(Flight(seqs, omitted), row.journal.shift_ms)
                part = (row.journal.ordinal, ClaimPart(row.queue_id, events, omitted=omitted))
                requests.setdefault(row.journal.request, []).append(part)
        unsettled = [
            [part for _, part in sorted(requests[request], key=lambda each: each[0])] for request in sorted(requests)
        ]
        for row in grant.queues:
            is_idle = self._forgets_idle and not grant.owed.get(row.queue_id) and row.journal is None and not row.window
            if (row.is_forgotten or is_idle) and not len(self.queues[row.queue_id]):
                del self.queues[row.queue_id]
        self.changed.update(rows)
        restored = [row for row in grant.queues if row.queue_id in self.queues]
        return RestoredState([self._restored(row, grant.owed) for row in restored], unsettled)

    def _add_pending(self, rows: Mapping[int, SharedQueue]) -> dict[int, int]:
        """Add the pending events of these queues. Return by queue the number of events that were in flight.

        A copy of a done event, or of an event that is sent earlier, is a duplicate.
        """
        seen: dict[int, set[bytes]] = {queue_id: set() for queue_id in rows}
        pending: list[tuple[bool, int, int, int, bool]] = []
        for seq, queue_id, size, row in self.commits.events():
            if queue_id not in rows:
                continue
            why, journal = self.commits.marks.get(seq), rows[queue_id].journal
            if why is None and seq > self.queues[queue_id].cursors.get(row.replica, 0):
                was_in_flight = journal is not None and seq <= journal.flight.get(row.replica, 0)
                pending.append((not was_in_flight, seq, queue_id, size, row.is_requeue))
            elif why not in ("dropped", "duplicate"):
                seen[queue_id].add(self.commits.event_id(seq))
        in_flight: dict[int, int] = {}
        for is_later, seq, queue_id, size, is_requeue in sorted(pending):
            event_id = self.commits.event_id(seq)
            if event_id in seen[queue_id] and not is_requeue:
                self.duplicates.append(Mark(seq, queue_id, "duplicate"))
                continue
            seen[queue_id].add(event_id)
            self.queues[queue_id].append(seq, size)
            in_flight[queue_id] = in_flight.get(queue_id, 0) + (not is_later)
        return in_flight

    def _restored(self, row: SharedQueue, owed: Mapping[int, int]) -> RestoredQueue:
        shift_ms = self._clock.monotonic_ms() - row.monotonic_ms
        return RestoredQueue(row.queue_id, row.key, row.window, shift_ms, owed.get(row.queue_id, 0))

    def withdraw(self, groups: Iterable[int]) -> None:
        """Begin to release queue groups."""
        self.leaving.update(groups)
        self.changed.update(queue_id for queue_id in self.queues if group_of(queue_id) in self.leaving)
        self.report()

    def releasable(self) -> list[int]:
        """Return the leaving groups without an event in flight or in a running statement."""
        if not self.leaving:
            return []
        busy = {group_of(number) for number, queue in self.queues.items() if not queue.is_releasable}
        busy.update(group_of(mark.queue_id) for mark in self.duplicates)
        return sorted(self.leaving - busy)

    def release(self, groups: Sequence[int]) -> None:
        """Remove released groups."""
        self.groups.difference_update(groups)
        self.leaving.difference_update(groups)
        gone = set(groups)
        for queue_id in [queue_id for queue_id in self.queues if group_of(queue_id) in gone]:
            self.queues.pop(queue_id).leave()
            self.owed.pop(queue_id, None)


def _resumed(clock: Clock, registered: Registered) -> tuple[OutboxTime, int]:
    """Return outbox time, and since when it ran without a gap. The wall clock counts only if no replica ran."""
    anchor = registered.anchor
    if anchor is not None and registered.has_live_replicas:
        anchor = Anchor(anchor.outbox_ms, clock.monotonic_ms(), clock.wall_ms(), clock.boot_id)
    time = OutboxTime(clock, anchor, registered.last_at_ms)
    is_same = anchor is not None and anchor.boot_id == clock.boot_id
    return time, registered.boot_from_ms if is_same else time.now_ms()

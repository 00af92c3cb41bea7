"""The outbox: it stores an event from the relay's 202 to the app until the upstream accepts the event.

This module defines the interface and its guarantees. `engine` implements it on any store, and `factory` chooses the
store. This module does not depend on the kind of storage, and no module outside this package may.

An outbox is a log with a cursor per device queue. A *device queue* contains the pending events of one device. Its id
is a small integer, assigned when the first event of the device is appended. The events of a queue are sent in the
order in which they were appended: `claim` journals and reads the first events, `settle` records their outcome.

Guarantees:

1.  `append` returns after the events are on disk (with the configured durability), never before.
2.  The ledger changes in the same transaction as the events that it counts: accepted + requeued == delivered +
    dead_lettered + dropped + pending, at every commit.
3.  `claim` journals a request before it returns the request's events. After a crash `load` returns the same requests.
4.  `claim` returns the bytes that were appended. An event whose checksum does not match becomes a dead letter (reason
    "corrupt").
5.  An event_id among the last `dedupe_window` ids is not stored twice, also across restarts.
6.  The state of a disk causes no exception other than OutboxError outside this package.

One task drives an outbox. Ingest calls `append`; the forwarder, the service and ops call the other
methods, all on one event loop. Cancelling an await abandons the result, not the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, TypeAlias

from relay.config import OutboxSettings
from relay.event.reader import DeviceKey, Event
from relay.event.shown import shown
from relay.runtime.log import hide_secrets


class OutboxError(Exception):
    """The outbox cannot execute the call now. The message contains the reason and what to do."""

    reason = "unavailable"
    """The label of `relay_events_rejected_total`."""


class OutboxFull(OutboxError):
    """A size limit is reached and `when_full` is "reject", or the disk is full."""

    reason = "full"


class DeviceRejected(OutboxFull):
    """The outbox rejects events of one of these devices. Other devices may append."""


class OutboxShareUsed(DeviceRejected):
    """The outbox is nearly full, and this device uses too much of it (see `fair_share`)."""

    def __init__(self) -> None:
        super().__init__("the outbox is nearly full (outbox.max_size), and the device holds too much of it")


class TooManyDevices(DeviceRejected):
    """The device has no device queue, and `max_devices` device queues exist."""

    reason = "max_devices"

    def __init__(self, key: DeviceKey, max_devices: int) -> None:
        super().__init__(
            f"the device {shown(key[2], hide_secrets)} is new, and the relay remembers as many devices as it may "
            f"(outbox.max_devices = {max_devices}): send again later, or raise outbox.max_devices"
        )


class OutboxUnavailable(OutboxError):
    """The disk fails, or the outbox is closing. The relay does not know whether the events are stored."""


class OutboxLost(OutboxUnavailable):
    """Another relay has taken over the device queues of this outbox.

    The relay must send nothing and store nothing until it opens the outbox again.
    """


class OutboxLocked(OutboxError):
    """Another process has locked this outbox."""


class OutboxUnusable(OutboxError):
    """The relay must not use the path or the file. The message contains the reason and what to do."""


DeadReason = Literal["refused", "too_large", "poison", "corrupt"]
DropReason = Literal["age", "size", "discarded"]
Durability = Literal["normal", "full", "replicated"]


class AppendResult(NamedTuple):
    """What `append` did."""

    duplicates: int
    durability: Durability
    """That of the commit with the events. If all are duplicates, that of the last known commit."""


EventState = Literal["pending", "delivered", "dead_lettered", "dropped"]


class Timestamp(NamedTuple):
    """The true time when an event was appended, calculated from the `true_ms` of `claim`."""

    true_ms: int
    """Unix time. For an event of an earlier boot, the latest possible time."""
    same_boot: bool
    """Whether the event was appended in the present boot of the machine."""


class Claimed(NamedTuple):
    """The events of one ClaimPart, without omitted and corrupt events."""

    queue_id: int
    bodies: Sequence[bytes]
    seqs: Sequence[int] = ()
    """The numbers of the events in the outbox, ascending."""
    timestamps: Mapping[int, Timestamp] = MappingProxyType({})
    """By index in `bodies`, for events whose `occurred_at` the relay inserted; empty if the true time is unknown."""


class Dead(NamedTuple):
    """Why the relay gives up an event. `message` is the upstream's, if its response contains one."""

    reason: DeadReason
    status: int | None
    message: str


NOTHING_OMITTED: Mapping[int, Dead | None] = MappingProxyType({})


class ClaimPart(NamedTuple):
    """One device queue's part of a request: the first `events` pending events of the queue, except omitted ones."""

    queue_id: int
    events: int
    window: bytes = b""
    """The present rate window of the queue, stored with the journal entry. The outbox does not interpret it."""
    omitted: Mapping[int, Dead | None] = NOTHING_OMITTED
    """By seq: events that the request omits, and why `settle` moves them to the dead letters if it is delivered.

    None: the event stays pending at its place. An omitted event is in flight like the events of the request. Seqs that
    are not among the first `events` pending ones are ignored.
    """


class Settled(NamedTuple):
    """The outcome of the events that a device queue had in flight.

    Events that are neither delivered nor dead stay pending, at the front of the queue.
    """

    queue_id: int
    delivered: bool
    """Whether the upstream accepted all events of the request except those in `dead`."""
    dead: Mapping[int, Dead]
    """By index in Claimed.bodies."""
    window: bytes
    """The rate window of the queue, see ClaimPart."""


class RestoredQueue(NamedTuple):
    """A device queue that the outbox stored before the relay started to send from it."""

    queue_id: int
    key: DeviceKey
    window: bytes
    """The last rate window given to `claim` or `settle`; b"" if none."""
    shift_ms: int | None
    """Milliseconds to add to the monotonic times in `window`; None: they cannot be compared with present ones."""
    owed: int = 0
    """Number of requests of earlier holders that may still reach the upstream."""


class RestoredState(NamedTuple):
    queues: Iterable[RestoredQueue]
    unsettled: Sequence[Sequence[ClaimPart]]
    """Requests that were in flight at the crash, oldest first, each as its parts (without rate windows).

    Long messages of omitted events are cut.
    """


class Ledger(NamedTuple):
    """Lifetime totals of events, and the number of pending events."""

    accepted: int = 0
    requeued: int = 0
    delivered: int = 0
    dead_lettered: int = 0
    dropped: int = 0
    pending: int = 0

    @property
    def balanced(self) -> bool:
        return self.accepted + self.requeued == (self.delivered + self.dead_lettered + self.dropped + self.pending)


class ReplicaView(NamedTuple):
    """One of the relays that share an outbox, and the number and pending events of the queue groups that it holds."""

    name: str
    groups: int
    events: int
    beat_age_ms: int
    is_self: bool


class Gauges(NamedTuple):
    """Measurements for operators, as of the last commit. `devices` includes those without pending events."""

    bytes: int
    """Size of the database and the write-ahead log together."""
    max_bytes: int
    oldest_age_ms: int
    """Age of the oldest pending event, measured with the outbox's own clock; 0 if none is pending."""
    writable: bool
    """Whether the outbox can store events of every device; otherwise `problem` is the reason."""
    dead_letters: int
    problem: str
    devices: int
    max_devices: int
    quarantined: int = 0
    """Number of pending events that another machine stored. The relay does not send them until an operator decides."""
    replicas: Sequence[ReplicaView] = ()
    owed: int = 0
    """Number of requests of relays that lost their lease which may still reach the upstream."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    id: int
    event_id: str
    device_key: DeviceKey
    reason: DeadReason
    status: int | None
    message: str
    dead_at: str
    """When it became a dead letter, by the wall clock: UTC, RFC 3339."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice of dead letters: all that match every given field. Without a field, it is empty unless `all` is set."""

    ids: Sequence[int] = field(default=())
    device_id: str | None = None
    reason: str | None = None
    all: bool = False
    event_id: bytes | None = None
    newest_first: bool = False
    """Whether `dead_letters` returns the newest first."""


Backlog: TypeAlias = tuple[int, DeviceKey, int, int]
"""A device queue: its id, its device, and the number and the body bytes of its pending events, those in flight
included."""


class Holder(Protocol):
    """Receives changes of the device queues that this relay may send from, on the event loop."""

    def pending(self, backlogs: Sequence[Backlog]) -> None:
        """Record the pending events of all device queues that a commit changed."""

    def granted(self, restored: RestoredState) -> None:
        """Send from these device queues from now on. Their pending events were recorded before."""

    def owed(self, queue_id: int, requests: int) -> bytes:
        """Record that fewer requests of earlier holders may still reach the upstream. Return the rate window."""


MayForget: TypeAlias = Callable[[bytes], bool]
"""Return whether an idle device queue with this rate window, which was stored in the present boot, may be forgotten."""


class Outbox(Protocol):
    async def open(self, may_forget: MayForget | None = None) -> None:
        """Take the lock, repair or quarantine a broken file, and prepare for appends.

        If `may_forget` is given, forget idle device queues that never sent a request, or for which it
        returns true, so that they use no memory.

        Raises OutboxLocked, or OutboxUnusable if the path must not be used. If the disk fails, the
        outbox opens the file again later, and calls fail until then.
        """

    async def load(self, holder: Holder) -> None:
        """Rebuild the index of device queues, and grant them to the holder. Appends are possible meanwhile."""

    @property
    def durability(self) -> Durability:
        """The present durability of commits, as far as it is known."""

    def append(self, events: Sequence[Event], *, callers: int = 1) -> asyncio.Future[AppendResult]:
        """Store events, all or none. The future's result is set after the commit.

        The future fails with OutboxFull or OutboxUnavailable; not with OutboxFull if every event is stored already.
        Never blocks. `callers`: the number of callers that wait for the result. If it is 0, the outbox may delay the
        commit by some milliseconds, so that more calls share the commit.
        """

    def room(self) -> bool:
        """Return whether the outbox accepts an append of some device now.

        The UDP reader asks before it reads events from its socket, where they can stay.
        """

    def sizes(self, queue_id: int, limit: int) -> Sequence[int]:
        """Return the body sizes in bytes of the first `limit` pending events of a device queue, in order."""

    async def claim(self, parts: Sequence[ClaimPart], true_ms: int | None = None) -> Sequence[Claimed]:
        """Commit one request to the journal, and return its events.

        A device queue can be part of one request at a time. If all its events are corrupt and none is omitted,
        nothing is in flight. `true_ms` is the present Unix time, or None if it is unknown; it determines the
        timestamps. If the upstream may have accepted the last request of a queue, the queue gets the timestamps of
        that request again, also after a restart.
        """

    async def settle(self, settled: Sequence[Settled]) -> None:
        """Commit the outcome of claimed events.

        A later `claim` is committed later or in the same transaction. If this call fails, every
        `claim` fails until this call has raised its error.
        """

    def send_until_ms(self) -> int | None:
        """Return the monotonic time until which claimed events may be on their way to the upstream; None: no limit.

        An outbox that several relays share extends it while it is in contact with its database.
        """

    def release(self, queue_ids: Sequence[int], *, perhaps_delivered: bool = False) -> None:
        """Return the claimed events of these device queues to the front of their queues, without a commit.

        `perhaps_delivered`: whether the upstream may have accepted the events, see `claim`.
        """

    async def forget(self, queue_ids: Sequence[int]) -> None:
        """Delete the rows of device queues that have no pending events and an empty rate window."""

    async def expire(self) -> int:
        """Drop events that are older than max_age and not in flight. Return their number. Called periodically."""

    def ledger(self) -> Ledger:
        """Return the totals as of the last commit."""

    def gauges(self) -> Gauges: ...

    async def check(self) -> None:
        """Detect files that were deleted, replaced or made read-only while open. Called every second."""

    async def find(self, event_id: bytes) -> EventState | None:
        """Return the state of one of the last `dedupe_window` events; None if the id is unknown.

        A dropped event may be appended again.
        """

    async def dead_letters(self, selection: Selection, limit: int, after: int = 0) -> Sequence[DeadLetter]:
        """Return up to `limit` dead letters with id > `after`, sorted by id.

        With `newest_first`: those with a smaller id, in descending order; `after` = 0 begins with the newest.
        """

    async def requeue(self, selection: Selection, limit: int) -> int:
        """Append up to `limit` selected dead letters again, so that they are pending. Return their number."""

    async def discard(self, selection: Selection, limit: int) -> int:
        """Delete up to `limit` selected dead letters. Return their number."""

    @property
    def was_moved(self) -> bool:
        """Whether the outbox belonged to another machine when it was opened."""

    async def adopt(self, limit: int) -> int:
        """Append up to `limit` quarantined events again, oldest first, so that they are sent. Return their number."""

    async def discard_quarantined(self, limit: int) -> int:
        """Drop up to `limit` quarantined events, oldest first. Return their number."""

    def configure(self, settings: OutboxSettings) -> None:
        """Apply `max_size`, `max_devices`, `max_age` and `when_full`. Other settings apply at the next start.

        If the outbox is larger than a lowered limit, it shrinks as events are delivered, or step by
        step with each append if `when_full` is "drop_oldest".
        """

    async def close(self) -> None:
        """Commit appended events, close the file and release the lock. Later appends fail with OutboxUnavailable."""

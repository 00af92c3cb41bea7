"""The outbox: where an event is kept from the app's 202 to the upstream's.

This module is the promise. `sqlite` keeps it, and so does the store in memory that the tests use.
Nothing in here knows how events are stored, and nothing outside this package may.

An outbox is a log with a cursor per lane. A *lane* is one device's queue, known by a small integer
once its first event is appended. Events of a lane leave in the order they were appended, always
from the front: `take` reads and journals the first few, `settle` says what became of them.

Promises:

1.  `append` answers after the events are on disk (as durable as configured), never before.
2.  The ledger changes in the same transaction as what it counts:
    accepted + requeued == delivered + dead_lettered + dropped + pending, at every commit.
3.  What `take` hands out is journalled first: after a crash `load` names the same requests again.
4.  What `take` hands out is byte for byte what was appended: a row whose checksum does not match is
    moved to the dead letters (reason "corrupt") and not handed out.
5.  An event_id among the last `dedupe_window` ones is not stored twice, also across restarts.
6.  An exception other than OutboxError does not leave this package because of a disk's state.

One task owns an outbox and drives it: `append` is called by ingest, everything else by the
forwarder, the service and ops, all on one event loop. No call may be cancelled half way by its
caller; cancelling an await abandons the answer, not the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

from relay.config import OutboxSettings
from relay.event.reader import DeviceKey, Event


class OutboxError(Exception):
    """The outbox cannot do what was asked now; the message says why and what to do."""


class OutboxFull(OutboxError):
    """A size limit is reached and `when_full` is "reject", or the disk is full."""


class OutboxShareUsed(OutboxFull):
    """The outbox is nearly full and this device holds too much of it; others may still append (see share)."""

    def __init__(self) -> None:
        super().__init__("the outbox is nearly full (outbox.max_size), and the device holds too much of it")


class OutboxUnavailable(OutboxError):
    """The disk fails, or the outbox is closing: whether the events were stored is unknown."""


class OutboxLocked(OutboxError):
    """Another relay holds this outbox."""


class OutboxUnusable(OutboxError):
    """The path or what lies there must not be touched; the message says what to do."""


DeadReason = Literal["refused", "too_large", "poison", "corrupt"]
DropReason = Literal["age", "size", "discarded"]
EventState = Literal["pending", "delivered", "dead_lettered", "dropped"]


class ClaimPart(NamedTuple):
    """One lane's share of a request: its first `events` pending events."""

    queue_id: int
    events: int
    window: bytes = b""
    """The lane's rate window as of now, opaque here; kept with the journal entry."""


class Timestamp(NamedTuple):
    """When an event really came, by what `take` was told of the time."""

    true_ms: int
    """Unix time; of another boot's event the latest that it may be."""
    same_boot: bool


class Claimed(NamedTuple):
    """What one ClaimPart became: may be fewer events than asked for (corrupt ones are left out)."""

    queue_id: int
    bodies: Sequence[bytes]
    timestamps: Mapping[int, Timestamp] = MappingProxyType({})
    """By index, of events whose `occurred_at` the relay put in; empty if the time was not known."""


class Dead(NamedTuple):
    """Why an event is given up, in the upstream's words where it said any."""

    reason: DeadReason
    status: int | None
    message: str


class Settled(NamedTuple):
    """What became of what a lane had in flight.

    `dead` maps indexes into Taken.bodies. Events neither delivered nor dead go on waiting, first.
    """

    queue_id: int
    delivered: bool
    """True: all that was taken, but for `dead`, was accepted by the upstream."""
    dead: Mapping[int, Dead]
    window: bytes


class RestoredQueue(NamedTuple):
    """A lane as a restart finds it."""

    queue_id: int
    key: DeviceKey
    window: bytes
    """As last given to take or settle; b"" if none."""
    same_boot: bool
    """Whether monotonic times in `window` can be compared with today's."""


class RestoredState(NamedTuple):
    queues: Sequence[RestoredQueue]
    unsettled: Sequence[Sequence[ClaimPart]]
    """Requests that were in flight at the crash, oldest first, each as its parts (window empty)."""


class Ledger(NamedTuple):
    """Lifetime totals of events, and what waits."""

    accepted: int = 0
    requeued: int = 0
    delivered: int = 0
    dead_lettered: int = 0
    dropped: int = 0
    pending: int = 0

    @property
    def balanced(self) -> bool:
        return self.accepted + self.requeued == (self.delivered + self.dead_lettered + self.dropped + self.pending)


class Gauges(NamedTuple):
    """What an operator watches, as of the last commit."""

    bytes: int
    """Database and write-ahead log together."""
    max_bytes: int
    oldest_age_ms: int
    """Age of the oldest pending event on the outbox's own clock; 0 if none."""
    writable: bool
    """Whether every device's events can be stored."""
    dead_letters: int
    problem: str
    """Why it is not writable, for people; "" if it is."""
    quarantined: int = 0
    """Pending events that another machine stored; they are not sent until an operator decides."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    id: int
    event_id: str
    device_key: DeviceKey
    reason: DeadReason
    status: int | None
    message: str
    dead_at: str
    """Wall clock, UTC, RFC 3339."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters: those that match every given field; `all` must be said, not implied."""

    ids: Sequence[int] = field(default=())
    device_id: str | None = None
    reason: str | None = None
    all: bool = False


class Backlog(Protocol):
    """Told after each commit that changed how much of a lane is pending, in flight included."""

    def __call__(self, queue_id: int, key: DeviceKey, events: int, body_bytes: int) -> None: ...


class Outbox(Protocol):
    async def open(self) -> None:
        """Take the lock, mend or set aside what is broken, and be ready to append.

        Raises OutboxLocked; for any other state of the files it starts all the same.
        """

    async def load(self, backlog: Backlog) -> RestoredState:
        """Rebuild the lane index while appends go on; after it `backlog` is told of every change.

        `backlog` has been told of every lane with pending events when this returns.
        """

    def append(self, events: Sequence[Event], *, callers: int = 1) -> asyncio.Future[int]:
        """Keep events; resolves after the commit to the number that were duplicates.

        All or nothing. The future fails with OutboxFull or OutboxUnavailable; not with OutboxFull if every event is
        known already. Never blocks. `callers`: how many wait for the answer; where nobody does, the commit may be
        put off for some milliseconds, for more to share it.
        """

    def room(self) -> bool:
        """Whether some device's append would be tried now; for those who can leave events where they are instead."""

    def sizes(self, queue_id: int, limit: int) -> Sequence[int]:
        """Body sizes in bytes of the lane's first `limit` pending events, in order."""

    async def claim(self, parts: Sequence[ClaimPart], true_ms: int | None = None) -> Sequence[Claimed]:
        """Journal one request and read it. Committed before it returns.

        A lane may be in one request at a time. If no body is left (all were corrupt) nothing is in flight.
        `true_ms` is the Unix time now, if it is known, for the stamps. A lane whose last request the
        upstream may have taken gets the stamps of that time again, also after a restart.
        """

    async def settle(self, settled: Sequence[Settled]) -> None:
        """Commit what an answer means for what was taken.

        A take that is asked for later is committed later, or with it: if this fails, so does every take until the
        caller has been told.
        """

    def release(self, queue_ids: Sequence[int], *, perhaps_delivered: bool = False) -> None:
        """Nothing was learned: what these lanes had in flight waits again, first. No commit.

        `perhaps_taken`: the upstream may have taken it, see `take`.
        """

    async def forget(self, queue_ids: Sequence[int]) -> None:
        """Drop the rows of lanes that have nothing pending and whose window is empty."""

    async def expire(self) -> int:
        """Drop what is older than max_age and not in flight; returns how many. Called now and then."""

    def ledger(self) -> Ledger:
        """As of the last commit."""

    def gauges(self) -> Gauges: ...

    async def check(self) -> None:
        """Notice files deleted, replaced or turned read-only under us. Called every second."""

    def find(self, event_id: bytes) -> EventState | None:
        """Return what became of one of the last `dedupe_window` events; None if forgotten or unknown.

        A dropped event may be appended again.
        """

    async def dead_letters(self, selection: Selection, limit: int, after: int = 0) -> Sequence[DeadLetter]:
        """Up to `limit` dead letters with id > `after`, by id."""

    async def requeue(self, selection: Selection, limit: int) -> int:
        """Append up to `limit` chosen dead letters again (they are pending then); returns how many."""

    async def discard(self, selection: Selection, limit: int) -> int:
        """Forget up to `limit` chosen dead letters; returns how many."""

    async def adopt(self, limit: int) -> int:
        """Append up to `limit` quarantined events again, oldest first, so that they are sent. Return how many."""

    async def discard_quarantined(self, limit: int) -> int:
        """Drop up to `limit` quarantined events, oldest first. Return how many."""

    def configure(self, settings: OutboxSettings) -> None:
        """Apply `max_size`, `max_age` and `when_full` while it runs; anything else waits for the next start.

        A limit that is lowered below what is kept is reached by draining, or step by step with each append if
        `when_full` is "drop_oldest".
        """

    async def close(self) -> None:
        """Commit what was appended, checkpoint, unlock. Later appends fail with OutboxUnavailable."""

"""What the shared outbox asks of its database: the transactions of one replica, as plain data.

Rules for every transaction that changes events:
-   It checks in the database that the replica is not fenced. Otherwise it changes nothing and raises OutboxLost.
-   It has a number, one more than the last of its role. After OutboxUnavailable its outcome is unknown: `last_append`
    or `last_move` waits until it is decided, and returns the number of the last one that was committed.
-   It contains the new lifetime totals of the replica, so that no row is shared with other replicas.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from typing import Literal, NamedTuple, Protocol

from relay.event.reader import DeviceKey
from relay.outbox import Dead, DeadLetter, Durability, Selection
from relay.outbox.engine.outbox_clock import Anchor

GROUPS = 256
"""Number of queue groups, the unit of leasing."""
POSITION_BITS = 12
"""seq = id of the commit row << POSITION_BITS | position of the event in it, from 1."""
MAX_PART_EVENTS = 2_000
OWED_MS = 86_400_000
"""A request of a fenced replica keeps its rate slot for this time, unless the replica reports that it is over."""

Why = Literal["dead", "dropped", "duplicate", "delivered"]
"""Why an event is done although no cursor has passed it."""


def queue_id_of(key: DeviceKey) -> int:
    """Return the id of a device's queue: the same in every replica, a signed 64-bit integer."""
    return int.from_bytes(blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=8).digest(), signed=True)


def group_of(queue_id: int) -> int:
    return queue_id % GROUPS


class CommitRow(NamedTuple):
    """Events that one replica appended in one transaction, without their bodies."""

    replica: int
    id: int
    """Ids of all replicas come from one sequence: an event that was acknowledged before another has the lower id."""
    at_ms: int
    """Outbox time."""
    is_requeue: bool
    accepted: int
    """Total of the replica after the transaction."""
    requeued: int
    """The same."""
    queue_ids: array[int]
    sizes: array[int]
    ids: bytes
    """The event ids, 16 bytes each."""
    checks: array[int]
    segment: int | None
    """Where the database stored the bodies, as a hint."""

    def seq(self, at: int) -> int:
        """Return the seq of the event with this index."""
        return self.id << POSITION_BITS | at + 1


class NewPart(NamedTuple):
    """Events of one commit row to be stored, by columns."""

    queue_ids: array[int]
    ids: Sequence[bytes]
    crcs: Sequence[int]
    checks: array[int]
    bodies: Sequence[bytes]


class AppendTransaction(NamedTuple):
    number: int
    accepted: int
    """Total of the replica after this transaction."""
    requeued: int
    """The same."""
    at_ms: int
    new_queues: Sequence[tuple[int, DeviceKey]]
    """Device queues that may not exist yet, sorted by id."""
    parts: Sequence[NewPart]


class Appended(NamedTuple):
    ids: Sequence[int]
    """The id of each part's commit row."""
    durability: Durability
    segment: int | None


class RequeueTransaction(NamedTuple):
    """Append dead letters again, those that still exist."""

    number: int
    accepted: int
    requeued: int
    """Total of the replica before this transaction."""
    at_ms: int
    letter_ids: Sequence[int]


class Journal(NamedTuple):
    """One device queue's part of a request."""

    queue_id: int
    window: bytes
    monotonic_ms: int
    """The replica's monotonic clock when `window` was packed."""
    request: int
    ordinal: int
    flight: Mapping[int, int]
    """By appending replica: the last seq of the request."""
    shift_ms: int
    omitted: bytes
    """Omitted events, see relay.outbox.engine.stored_queue."""


class SettledQueue(NamedTuple):
    """The new values of a device queue without a request."""

    queue_id: int
    cursors: Mapping[int, int]
    """By appending replica: the events of the queue are done up to this seq. Other cursors stay as they are."""
    window: bytes
    monotonic_ms: int
    has_many_cursors: bool
    """Whether cursors of removed replicas are to be removed."""


class DeadRow(NamedTuple):
    seq: int
    queue_id: int
    key: DeviceKey
    event_id: bytes
    dead: Dead


class Mark(NamedTuple):
    seq: int
    queue_id: int
    why: Why


class ForwardTotals(NamedTuple):
    delivered: int = 0
    dead_lettered: int = 0
    dropped: int = 0
    duplicates: int = 0
    """Events that two replicas accepted at the same time; the second copy is not sent, and not counted as accepted."""


class EndedRequest(NamedTuple):
    """An owed request that is over, and the rate window in which it counts as answered."""

    queue_id: int
    replica: int
    window: bytes
    monotonic_ms: int


class Move(NamedTuple):
    """One forward transaction. All its parts are executed or none."""

    number: int
    totals: ForwardTotals
    """Totals of the replica after this transaction."""
    dead_at_ms: int
    """Wall clock."""
    max_letters: int
    max_letter_bytes: int
    journals: Sequence[Journal]
    settled: Sequence[SettledQueue]
    dead_rows: Sequence[DeadRow]
    marks: Sequence[Mark]
    reads: Mapping[int, int | None]
    """Seqs of the events whose bodies are read, with their segments."""
    forgotten: Sequence[int]
    """Ids of device queues that a later holder need not restore."""
    ended: Sequence[EndedRequest]


class Letters(NamedTuple):
    """The stored dead letters."""

    number: int = 0
    body_bytes: int = 0


class Moved(NamedTuple):
    bodies: Mapping[int, tuple[int, bytes]]
    """Checksum and body by seq."""
    letters: Letters | None
    """None if no event became a dead letter."""
    discarded: int
    """Number of old dead letters that were deleted to stay within the limits."""


class SharedQueue(NamedTuple):
    queue_id: int
    key: DeviceKey
    cursors: Mapping[int, int]
    window: bytes
    monotonic_ms: int
    journal: Journal | None
    is_forgotten: bool


class Grant(NamedTuple):
    """Queue groups that were claimed, and what their last holders stored."""

    groups: Sequence[int]
    queues: Sequence[SharedQueue]
    marks: Sequence[Mark]
    owed: Mapping[int, int]
    """By queue id: the number of requests of fenced replicas that may still reach the upstream."""


class Beat(NamedTuple):
    """What a replica publishes every second."""

    anchor: Anchor | None
    """Outbox time; None if another replica publishes it."""
    boot_from_ms: int
    events: int
    """Pending events of the queue groups that the replica holds."""
    body_bytes: int
    devices: int
    """Device queues that the replica remembers."""


class LiveReplica(NamedTuple):
    replica: int
    name: str
    beat: int
    events: int
    body_bytes: int
    devices: int


class AppendTotals(NamedTuple):
    accepted: int = 0
    requeued: int = 0


class View(NamedTuple):
    """What every replica knows of the others."""

    replicas: Sequence[LiveReplica]
    """Replicas that are not fenced, this one included."""
    holders: Mapping[int, int]
    """The replica that holds each leased queue group."""
    appended: Mapping[int, AppendTotals]
    """Totals by replica, of dead ones too. Those of removed replicas are replica 0's."""
    moved: Mapping[int, ForwardTotals]
    letters: Letters
    outbox_ms: int
    ended: Sequence[tuple[int, int]]
    """(Queue id, fenced replica) of owed requests that are over, in the queue groups that this replica holds."""
    durability: Durability


class Registered(NamedTuple):
    replica: int
    """The number of this incarnation. A number is never reused."""
    anchor: Anchor | None
    """The last published outbox time; None for a new database."""
    boot_from_ms: int
    has_live_replicas: bool
    last_at_ms: int
    marks: Sequence[Mark]


class SharedDatabase(Protocol):
    """The database, as one replica uses it. Every method may raise OutboxUnavailable."""

    async def register(self, name: str) -> Registered:
        """Create or migrate the tables, and a replica without queue groups."""

    async def append(self, replica: int, append: AppendTransaction) -> Appended: ...

    async def requeue(self, replica: int, requeue: RequeueTransaction) -> CommitRow | None:
        """Return the commit row; None if none of the dead letters existed. A check of 0 is unknown."""

    async def last_append(self, replica: int) -> tuple[int, Durability, Sequence[CommitRow]]:
        """Return the number, the durability and the commit rows of the replica's last append transaction."""

    async def move(self, replica: int, move: Move) -> Moved: ...

    async def last_move(self, replica: int) -> int: ...

    async def poll(self, positions: Mapping[int, int], limit: int) -> Mapping[int, Sequence[CommitRow]]:
        """Return up to `limit` commit rows after the position of each replica, 0 for a new one, in one snapshot."""

    async def outcomes(self, events: Sequence[tuple[int, int, int]]) -> Sequence[Mark]:
        """Return a mark for each of the events (seq, queue id, appending replica) that is done."""

    async def remembered(self, queue_ids: Sequence[int]) -> Collection[int]:
        """Return those of the device queues that exist and are not forgotten."""

    async def queues(self, queue_ids: Sequence[int]) -> Mapping[int, tuple[DeviceKey, Mapping[int, int]]]:
        """Return the device and the cursors of device queues."""

    async def beat(self, replica: int, beat: Beat) -> View: ...

    async def fence(self, replica: int, beat: int) -> bool:
        """Fence a replica whose beat is still this one, free its queue groups, and reserve its requests as owed."""

    async def claim_groups(self, replica: int, groups: Sequence[int]) -> Grant:
        """Claim those of the groups that are free or, after a call with an unknown outcome, this replica's."""

    async def release_groups(self, replica: int, groups: Sequence[int]) -> None: ...

    async def letters(self, selection: Selection, limit: int, after: int) -> Sequence[DeadLetter]: ...

    async def discard(self, selection: Selection, limit: int) -> tuple[int, int]:
        """Delete dead letters. Return their number and the bytes of their bodies."""

    async def clean(self, keep_ids: int) -> None:
        """Delete events that are done, and commit rows without events that are older than the last `keep_ids` ids.

        Fenced replicas without commit rows and owed requests are removed. Owed requests of replicas that were fenced a
        day ago are over.
        """

    async def kept_commits(self, before_id: int) -> Sequence[int]:
        """Return the ids of the commit rows below an id that still exist."""

    async def leave(self, replica: int, anchor: Anchor) -> None:
        """Release all queue groups of the replica, and fence it. Its owed requests are over."""

    async def close(self) -> None: ...

"""The commands of a commit, and their results: all that the engine asks a store to change or to read.

Rules: a command is plain data. A store executes the commands of one commit in order, all or none, and returns one
result per command. A command without a named result has the result None. Seqs, queue ids and request numbers are
assigned by the engine.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from typing import Any, Literal, NamedTuple, TypeAlias

from relay.event.reader import DeviceKey
from relay.outbox import Dead, Selection, Timestamp
from relay.outbox.engine.outbox_clock import Anchor

DeletionKind: TypeAlias = Literal["front", "holes", "tail", "all"]
"""front: oldest rows, all settled; holes: settled rows among pending ones; tail: newest rows; all: every row."""


class DeadEvent(NamedTuple):
    """An event to be moved to the dead letters."""

    seq: int
    queue_id: int
    dead: Dead


class DeadLetterLimits(NamedTuple):
    """Limits of the dead letters, and the present time."""

    max_letters: int
    max_body_bytes: int
    now_ms: int
    """Wall clock, Unix time."""


class DeadLettered(NamedTuple):
    """Result: events that became dead letters."""

    events: int
    discarded: int
    """Number of dead letters that were deleted to stay within the limits, see `dead_letter_shares`."""
    body_bytes: int
    """Growth of the bodies of all dead letters; negative if they shrank."""


class SeqRange(NamedTuple):
    """A range of seqs of the log, and the part of the dedupe window to remember for it."""

    first_seq: int
    last_seq: int
    kept_from_seq: int
    ids: bytes
    marks: bytes
    checks: bytes
    forget_to_seq: int
    """The dedupe window contains no seq up to here."""


class AddQueues(NamedTuple):
    """Insert device queues, all with the same cursor."""

    queues: Sequence[tuple[int, DeviceKey]]
    """Queue id and device of each."""
    cursor: int


class InsertEvents(NamedTuple):
    """Insert events with the seqs first_seq, first_seq + 1, ..., given by columns."""

    first_seq: int
    at_ms: int
    """Outbox time of the append."""
    queue_ids: Sequence[int]
    ids: Sequence[bytes]
    crcs: Sequence[int]
    """Checksum of each body, see `checksum`."""
    received_crcs: Sequence[int]
    """Checksum of the received bytes of each event; 0 if it equals the CRC-32 of the body."""
    bodies: Sequence[bytes]
    sizes: Sequence[int]
    """Size of each body, in bytes."""


class WantedEvents(NamedTuple):
    """One device queue's part of a request that is claimed."""

    queue_id: int
    seqs: array[int]
    sizes: array[int]
    """Sizes of the bodies, in bytes."""
    window: bytes
    shift_ms: int
    """True time minus outbox time, for the timestamps; 0 if unknown."""
    omitted_seqs: Sequence[int] = ()
    """Events in flight that are not read."""
    omitted: bytes = b""
    """These events as the journal stores them. The store does not interpret it."""

    def journal(self, request: int, ordinal: int, read: Sequence[int]) -> JournalEntry:
        """Return the journal entry of this part, of which the events `read` are not corrupt."""
        seqs = sorted((*read, *self.omitted_seqs)) if self.omitted_seqs else read
        if not seqs:
            return JournalEntry(None, None, None, None, None, None)
        return JournalEntry(request, ordinal, seqs[0], seqs[-1], self.shift_ms, self.omitted or None)


class JournalEntry(NamedTuple):
    """One device queue's part of a request in flight; all None without a request."""

    request: int | None
    ordinal: int | None
    first_seq: int | None
    last_seq: int | None
    shift_ms: int | None
    omitted: bytes | None


class ClaimEvents(NamedTuple):
    """Read the bodies of a request, move corrupt events to the dead letters, and write the request to the journal.

    Result: ClaimedEvents. `sort` contains what every store does with the rows.
    """

    request: int
    boot: int
    boot_from_ms: int
    """Outbox time when the present boot began."""
    wanted: Sequence[WantedEvents]
    dead_letter_limits: DeadLetterLimits

    def sort(
        self,
        bodies: Sequence[bytes],
        marks: Sequence[bool | None],
        read_times: Callable[[Sequence[int]], Iterable[tuple[int, bool]]],
    ) -> tuple[list[ClaimedRows], list[DeadEvent], list[JournalEntry]]:
        """Separate sound events from corrupt ones. Return rows and journal entry of each part, and corrupt events.

        `bodies`, `marks`: body and `has_inserted_time` of each wanted event, in order. `read_times`: returns for seqs
        when each event was appended (outbox time), and whether it was received then. A dead letter that was queued
        again was received before.
        """
        found, dead_events, journal, start = [], [], [], 0
        for ordinal, part in enumerate(self.wanted):
            end = start + len(part.seqs)
            good, good_bodies, good_marks, corrupt = part.seqs, bodies[start:end], marks[start:end], list[int]()
            if None in good_marks:
                corrupt = [seq for seq, mark in zip(good, good_marks, strict=True) if mark is None]
                is_sound = [mark is not None for mark in good_marks]
                good, good_bodies = array("Q", compress(good, is_sound)), list(compress(good_bodies, is_sound))
                good_marks = list(compress(good_marks, is_sound))
            marked = [index for index, is_marked in enumerate(good_marks) if is_marked] if part.shift_ms else []
            times = read_times([good[index] for index in marked]) if marked else ()
            timestamps = {
                index: Timestamp(at_ms + part.shift_ms, is_receipt and at_ms >= self.boot_from_ms)
                for index, (at_ms, is_receipt) in zip(marked, times, strict=True)
            }
            found.append(ClaimedRows(good, good_bodies, corrupt, timestamps, part.shift_ms))
            dead = Dead("corrupt", None, "checksum does not match")
            dead_events += [DeadEvent(seq, part.queue_id, dead) for seq in corrupt]
            journal.append(part.journal(self.request, ordinal, good))
            start = end
        return found, dead_events, journal


class ClaimedRows(NamedTuple):
    """The rows that a store found for one WantedEvents."""

    seqs: array[int]
    bodies: Sequence[bytes]
    corrupt: list[int]
    """Seqs of events whose checksum does not match, or whose row is missing."""
    timestamps: dict[int, Timestamp]
    """By index in `bodies`."""
    shift_ms: int


class ClaimedEvents(NamedTuple):
    rows: list[ClaimedRows]
    dead_lettered: DeadLettered


class QueueMove(NamedTuple):
    """The new values of a device queue after a settle. Its journal entry is deleted."""

    cursor: int
    """0: the cursor does not move."""
    delivered: int
    window: bytes
    boot: int
    queue_id: int


class SettleEvents(NamedTuple):
    """Move events to the dead letters, move cursors, and delete rows of delivered events. Result: DeadLettered."""

    moves: Sequence[QueueMove]
    dead_events: Sequence[DeadEvent]
    dead_letter_limits: DeadLetterLimits
    ahead: Sequence[int] = ()
    """Seqs of events that were delivered before a pending event of their queue, and that `moves` count."""


class ForgetQueues(NamedTuple):
    """Delete idle device queues. Their numbers of delivered events stay in the ledger."""

    queue_ids: Sequence[int]
    next_queue_id: int


class DropEvents(NamedTuple):
    """Delete the rows of a range except events in flight and quarantined events. Result: Dropped."""

    seq_range: SeqRange
    events: int
    """Number of pending events among the rows."""
    in_flight: Sequence[int]
    """Seqs of the events in flight."""
    spares_quarantined: bool
    """Whether there are quarantined events."""
    reported_seqs: Sequence[int] = ()
    """Seqs of the dropped events whose bodies the result contains."""


class Dropped(NamedTuple):
    rows: int
    """Number of deleted rows."""
    bodies: Sequence[bytes]
    """Bodies of the reported events, b"" if a row does not exist."""


class DeleteSettled(NamedTuple):
    """Delete the settled rows of a range, and remember their ids. Result: Deleted."""

    seq_range: SeqRange
    kind: DeletionKind
    shrink_bytes: int
    """Maximum free space to return to the system after the deletion of a tail."""


class Deleted(NamedTuple):
    rows: int
    first_row: int | None
    """Seq of the oldest row of the log; None if the log is empty."""
    last_row: int | None


class Shrink(NamedTuple):
    """Return free space to the system."""

    max_bytes: int


class SaveClocks(NamedTuple):
    """Store readings of the clocks."""

    anchor: Anchor
    boot: int
    boot_from_ms: int
    is_clean: bool
    """Whether the outbox is closed after this commit."""


class CorrectLedger(NamedTuple):
    """Count missing events as dead-lettered, and reappeared ones (`missing` < 0) as undelivered."""

    missing: int


class FindOlder(NamedTuple):
    """Find the rows from `first_seq` on that were all appended before `before_ms`, among a few thousand rows.

    Result: the last seq of these rows; None if there are none.
    """

    first_seq: int
    before_ms: int


class ReadAppendTime(NamedTuple):
    """Result: outbox time when an event was appended; None if it has no row."""

    seq: int


class ReadDeadLetters(NamedTuple):
    """Result: a sequence of DeadLetter, see `Outbox.dead_letters`."""

    selection: Selection
    limit: int
    after: int


class ChooseDeadLetters(NamedTuple):
    """Choose dead letters whose values are valid. Result: a sequence of ChosenLetter."""

    selection: Selection
    limit: int


class ChosenLetter(NamedTuple):
    """A dead letter to requeue."""

    id: int
    key: DeviceKey
    event_id: bytes
    body_bytes: int


class RequeueDeadLetters(NamedTuple):
    """Append dead letters to the log, each with its checksum. Result: the set of the ids that still existed."""

    wanted: Sequence[tuple[int, int]]
    """Id and queue id of each."""
    first_seq: int
    at_ms: int


class DiscardDeadLetters(NamedTuple):
    """Delete selected dead letters. Result: (their number, bytes of their bodies)."""

    selection: Selection
    limit: int


class AdoptEvents(NamedTuple):
    """Append quarantined events again, without the mark of an inserted timestamp. Result: AdoptedEvents."""

    chosen: Sequence[tuple[int, int]]
    """Seq and queue id of each."""
    first_seq: int
    at_ms: int
    max_bytes: int
    """Sum of the bodies after which the store stops."""


class AdoptedEvent(NamedTuple):
    """An event that was appended again."""

    seq: int
    queue_id: int
    event_id: bytes
    body_bytes: int


class AdoptedEvents(NamedTuple):
    tried: int
    """Number of chosen events that were processed."""
    events: Sequence[AdoptedEvent]
    """The processed events whose rows still existed."""


class DiscardQuarantined(NamedTuple):
    """Delete rows and remember their ids as dropped. Result: Dropped."""

    seqs: Sequence[int]
    reported_seqs: Sequence[int] = ()
    """As for DropEvents."""


class ForgetMachine(NamedTuple):
    """Forget which machine owns the outbox. The next machine that opens it becomes the owner."""


Command: TypeAlias = (
    AddQueues
    | InsertEvents
    | ClaimEvents
    | SettleEvents
    | ForgetQueues
    | DropEvents
    | DeleteSettled
    | Shrink
    | SaveClocks
    | CorrectLedger
    | FindOlder
    | ReadAppendTime
    | ReadDeadLetters
    | ChooseDeadLetters
    | RequeueDeadLetters
    | DiscardDeadLetters
    | AdoptEvents
    | DiscardQuarantined
    | ForgetMachine
)
Result: TypeAlias = Any
"""The result of a command, as its docstring describes."""

"""What a store implements, so that the engine can run an outbox on it.

A store holds a log of events with ascending seqs, device queues with a cursor and a journal entry each, a ledger,
dead letters, and the ids of deleted rows. An event is pending if its row exists and its seq is larger than the cursor
of its queue, or if it is quarantined. Rules:

-   One task uses a store, and awaits each call before the next. Properties and methods that are not coroutines may
    be used at any time.
-   A commit is all or nothing, and on disk when it returns. If it fails, its outcome is unknown. The engine then closes
    the store, opens it again, and compares its content with the state in memory.
-   Every failure is an OutboxError whose message says what to do. OutboxUnusable and OutboxLocked are raised by `lock`
    and `open` only.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from relay.config import OutboxSettings
from relay.outbox import MayForget, OutboxError, OutboxFull, OutboxUnavailable
from relay.outbox.engine.commands import Command, Result
from relay.outbox.engine.dedupe_window import DedupeWindow
from relay.outbox.engine.opened_queues import OpenedQueues
from relay.outbox.engine.outbox_clock import Anchor


@dataclass(frozen=True, slots=True)
class SpaceLimits:
    """Limits of the parts of a store, calculated from outbox.max_size."""

    max_bytes: int
    log_bytes: int
    """Part of max_bytes for the store's own log. A commit that is larger needs space for the excess twice."""
    append_bytes: int
    """Maximum size of the used space for an append. The rest is for settlements, queues and dead letters."""
    commit_bytes: int
    """Maximum size of the bodies in one commit."""
    dead_letter_bytes: int
    delete_rows: int
    """Maximum number of rows that one commit deletes."""
    delete_bytes: int
    """Maximum space of these rows."""
    shrink_bytes: int
    """Maximum free space that one commit returns to the system."""
    block_bytes: int
    """The unit in which the store writes."""


class Space(NamedTuple):
    """The space that a store uses, without its own log."""

    used_bytes: int
    free_bytes: int
    """Space that the store occupies and can reuse."""
    can_shrink: bool
    """Whether a Shrink would return a worthwhile amount of free space to the system."""


class StoredTotals(NamedTuple):
    """Totals that show whether two readings of a store saw the same commit."""

    last_seq: int
    requeued: int
    delivered: int
    dead_lettered: int
    dropped: int
    adopted: int
    dead_letters: int


@dataclass(frozen=True, slots=True)
class Opened:
    """The content of an opened store, without the log."""

    totals: StoredTotals
    next_queue_id: int
    dead_letter_bytes: int
    boot: int
    boot_from_ms: int | None
    """Outbox time when the present boot began; None: now."""
    anchor: Anchor | None
    """None if no relay has used the store."""
    first_row: int
    last_at_ms: int
    queues: OpenedQueues
    dedupe_window: DedupeWindow
    space: Space


class LogChunk(NamedTuple):
    """Consecutive rows of the log, without their bodies."""

    seqs: array[int]
    queues: array[int]
    sizes: array[int]
    last_seq: int


class Committed(NamedTuple):
    results: Sequence[Result]
    """The result of each command."""
    space: Space


class FileFault(NamedTuple):
    """What happened to the files of an open store."""

    reason: str
    """What happened, and what to do."""
    is_curable: bool
    """Whether `recreate` can write the files again."""


class Storage(Protocol):
    @property
    def is_open(self) -> bool: ...

    @property
    def file_bytes(self) -> int:
        """Size of the store and its log together."""

    @property
    def is_verified(self) -> bool:
        """Whether the last `open` read or created every row, so that missing events are lost."""

    @property
    def was_replaced(self) -> bool:
        """Whether the last `open` replaced a broken store. Its content may differ from the state in memory."""

    @property
    def was_moved(self) -> bool:
        """Whether the store belonged to another machine when it was opened."""

    @property
    def is_untidy(self) -> bool:
        """Whether `tidy` has something to do."""

    def configure(self, settings: OutboxSettings) -> SpaceLimits:
        """Use these settings from the next `open` or `commit` on. Return the limits."""

    def cost_bytes(self, body_bytes: Sequence[int]) -> int:
        """Return the maximum growth of the used space by events with bodies of these sizes."""

    def lock(self) -> None:
        """Take the lock. Raise OutboxLocked or OutboxUnusable."""

    def unlock(self) -> None: ...

    async def open(self, may_forget: MayForget | None = None) -> Opened:
        """Open the store, and repair it if it is broken. Forget idle device queues, see Outbox.open."""

    async def close(self) -> None: ...

    async def commit(self, commands: Sequence[Command]) -> Committed: ...

    async def read_log(self, after_seq: int, to_seq: int) -> LogChunk | None:
        """Return the next rows of the log; None if there are no more."""

    async def tidy(self) -> None:
        """Do maintenance that can wait until there are no calls."""

    def distrust(self, missing: int, orphans: int) -> OutboxError:
        """Let the next `open` verify every row. Return the error for the callers.

        Loading found `missing` events less than the ledger contains, and `orphans` rows of unknown device queues.
        """

    def find_fault(self) -> FileFault | None:
        """Return what happened to the files since they were opened."""

    async def recreate(self) -> None:
        """Write deleted files again from the open ones. The engine closes the store afterwards."""


def failure_of(error: Exception) -> OutboxError:
    """Return the error for callers of a failed commit. It does not state that the events are not stored."""
    if isinstance(error, OutboxFull | OutboxUnavailable):
        return error
    message = str(error) or type(error).__name__
    if not isinstance(error, OutboxError):
        message = f"the disk fails ({message}): whether the events were stored is unknown"
    failure = OutboxUnavailable(message)
    failure.__cause__ = error
    return failure

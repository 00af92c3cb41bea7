"""What to delete, and when: the choice of rows is a pure function.

A commit writes each block that it frees, unless it reuses the block. So settled rows stay until an append needs their
space, space runs out, or the outbox is idle; rows before pending rows stay longer (see CleanupDelay). Emptying the
whole log writes none of its blocks. Neither does deleting the newest rows, whose blocks are usually the last of the
store and are cut off in the same commit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from relay.outbox.engine.commands import Deleted, DeletionKind
from relay.outbox.engine.dedupe_window import REMEMBERED_BYTES
from relay.outbox.engine.storage import Space, SpaceLimits

_GARBAGE_ROWS = 512
"""Minimum number of settled rows to delete at once, so that a single event does not cost a delete."""
_IDLE_GARBAGE_ROWS = 4096
"""Minimum number of settled rows for a commit that only deletes."""
_TRUNCATED_ROWS = 50_000
"""Largest log that one statement empties when no event is pending, in about 10 ms."""
_COMMON_ROW_BYTES = 400
_CLEANUP_DELAY_MS = 5_000
"""Interval of cleanups while the outbox is never idle, so that the store shrinks."""
_EXPENSIVE_CLEANUP_DELAY_MS = 10_000
"""Delay of a cleanup before pending rows, twice the default linger. If these rows are settled until then, the cleanup
does not write the blocks that it frees."""


class DeletionRange(NamedTuple):
    """A range of seqs whose settled rows are to be deleted."""

    first_seq: int
    last_seq: int
    kind: DeletionKind


class Search(NamedTuple):
    """How far the log was searched for settled rows."""

    done_to: int = 0
    """No event with a seq up to here is pending. Updated only when necessary, because that reads every queue."""
    sweep_from: int = 1
    """First seq of the next range with holes."""
    look_again_at: int = 0
    """Minimum number of settled rows for the next search, which reads every queue."""


@dataclass(slots=True)
class LogExtent:
    """The extent of the log."""

    first_row: int
    """Lower bound of the seqs in the log."""
    last_row: int
    """Upper bound of the seqs in the log."""
    rows: int = 0
    """Number of rows, including settled rows. Valid after loading."""
    search: Search = field(default_factory=Search)

    def append(self, events: int, last_seq: int) -> None:
        self.rows += events
        self.last_row = last_seq

    def delete(self, seq_range: DeletionRange, deleted: Deleted, next_seq: int) -> None:
        self.rows = 0 if deleted.first_row is None else self.rows - deleted.rows
        sweep_from = seq_range.last_seq + 1 if seq_range.kind == "holes" else self.search.sweep_from
        self.search = self.search._replace(sweep_from=sweep_from, look_again_at=0)
        self.first_row = next_seq if deleted.first_row is None else max(self.first_row, deleted.first_row)
        self.last_row = next_seq - 1 if deleted.last_row is None else deleted.last_row


class Circumstances(NamedTuple):
    """What the choice depends on besides the log."""

    next_seq: int
    pending: int
    space: Space
    limits: SpaceLimits
    is_crowded: bool
    """Whether settled rows must be deleted at once to make space."""
    window: int
    """Number of ids in the dedupe window."""
    is_busy: Callable[[], bool]
    """Returns whether any event is in flight; O(queues)."""
    oldest_row: Callable[[], int | None]
    """Returns the seq of the oldest row that must stay; None if no row must stay; O(queues)."""


def needs_cleanup(rows: int, pending: int) -> bool:
    """Return whether there are enough settled rows for a commit that only deletes."""
    return rows - pending >= max(_IDLE_GARBAGE_ROWS, 3 * pending)


def choose(log: LogExtent, now: Circumstances, body_bytes: int | None) -> tuple[DeletionRange | None, Search]:
    """Return the rows to delete in a commit that appends `body_bytes` (None: in a commit that only deletes), and the
    progress of the search.
    """
    garbage = log.rows - now.pending
    assert garbage > 0
    if log.rows == garbage and _GARBAGE_ROWS <= log.rows <= _TRUNCATED_ROWS:
        # The ids of newer events were stored when their rows were deleted.
        return DeletionRange(log.first_row, log.last_row, "all"), log.search
    if body_bytes is None:
        wanted = needs_cleanup(log.rows, now.pending) and not now.is_busy()
    else:
        wanted = garbage >= _GARBAGE_ROWS and now.space.free_bytes < body_bytes * 5 // 4
    if not (now.is_crowded or (wanted and garbage >= log.search.look_again_at)):
        return None, log.search
    blocks = max(min(log.rows, now.space.used_bytes // now.limits.block_bytes), 1)
    max_rows = min(now.limits.delete_rows, now.limits.delete_bytes // now.limits.block_bytes * log.rows // blocks)
    rows = max_rows
    if body_bytes is not None and not now.is_crowded:
        rows = min(max(body_bytes // _COMMON_ROW_BYTES, _GARBAGE_ROWS), max_rows)
    if not now.pending and not body_bytes:
        return _end_of_settled_log(log, now, rows, max_rows), log.search
    return _settled_among_pending(log, now, rows, max_rows)


def _end_of_settled_log(log: LogExtent, now: Circumstances, rows: int, max_rows: int) -> DeletionRange:
    """Return the newest rows of a log without pending events, or its oldest rows to make space for their ids."""
    # Ids behind the rows of the log would be moved by each cut at the end of the store.
    remembered = max(min(log.last_row - (now.next_seq - 1 - now.window), log.rows), 0)
    missing_bytes = remembered * REMEMBERED_BYTES - now.space.free_bytes
    if missing_bytes > 0:
        rows = min(missing_bytes // _COMMON_ROW_BYTES + 1, max_rows)
        return DeletionRange(log.first_row, log.first_row + rows - 1, "front")
    return DeletionRange(max(log.first_row, log.last_row - rows + 1), log.last_row, "tail")


def _settled_among_pending(
    log: LogExtent, now: Circumstances, rows: int, max_rows: int
) -> tuple[DeletionRange | None, Search]:
    search, garbage = log.search, log.rows - now.pending
    if search.done_to - log.first_row + 1 < min(garbage, rows):
        oldest = now.oldest_row()
        search = search._replace(done_to=(now.next_seq if oldest is None else oldest) - 1)
    if search.done_to - log.first_row + 1 >= min(garbage, _GARBAGE_ROWS):
        return DeletionRange(log.first_row, min(search.done_to, log.first_row + rows - 1), "front"), search
    if garbage * (8 if now.is_crowded else 2) > log.rows:
        if not log.first_row <= search.sweep_from < now.next_seq:
            search = search._replace(sweep_from=max(log.first_row, search.done_to + 1))
        last_seq = min(search.sweep_from + max_rows // 2, now.next_seq) - 1
        return DeletionRange(search.sweep_from, last_seq, "holes"), search
    return None, search._replace(look_again_at=garbage + _GARBAGE_ROWS)


class CleanupDelay:
    """When a commit may run that only deletes rows or returns space. Times are monotonic."""

    def __init__(self) -> None:
        self._due_ms: int | None = None
        """Time since when a cleanup is due; None if none is due."""
        self._last_ms = 0
        """Time of the last cleanup, or when the first became due."""

    def delay_ms(self, now_ms: int, *, is_expensive: bool) -> int:
        """Return the time until a cleanup may run; 0 or less: now."""
        if self._due_ms is None:
            self._due_ms = self._last_ms = now_ms
        return self._due_ms + _EXPENSIVE_CLEANUP_DELAY_MS - now_ms if is_expensive else 0

    def awaits_idleness(self, now_ms: int) -> bool:
        """Return whether a cleanup may only run while the outbox is idle."""
        return now_ms - self._last_ms < _CLEANUP_DELAY_MS

    def began(self, now_ms: int) -> None:
        """Record a cleanup."""
        self._last_ms = now_ms

    def nothing_due(self) -> None:
        self._due_ms = None

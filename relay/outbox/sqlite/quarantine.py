"""Quarantined events of a cloned installation: they stay pending until an operator decides.

The events of a device queue with quarantined_after < seq <= quarantined_to are quarantined,
although its cursor is larger. Rules: one transaction changes the owner and quarantines the events.
An adopted event is appended again, so that the cursor of a queue only grows. Neither changes the
ledger's totals.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from relay.outbox.engine.checksum import unmarked
from relay.outbox.engine.dedupe_window import DROPPED, pack_check
from relay.outbox.sqlite.commit_plan import Draft, Op
from relay.outbox.sqlite.insert import CHECK_OF_ROW
from relay.outbox.sqlite.loading import read_totals
from relay.outbox.sqlite.outbox_state import OutboxState
from relay.outbox.sqlite.statements import remember
from relay.runtime.machine import MachineIds, identity, is_other_machine
from relay.runtime.metrics import Metrics

_EVENTS_AT_ONCE = 256
"""Maximum number of events that one commit adopts or discards."""
_DELETE_DONE = """
    DELETE FROM log WHERE EXISTS (
        SELECT 1 FROM device_queues AS q
        WHERE q.queue_id = log.queue_id AND log.seq > q.quarantined_to AND log.seq <= q.cursor)"""
_QUARANTINE = """
    UPDATE device_queues SET quarantined_after = coalesce(quarantined_after, cursor), quarantined_to = ?1,
        cursor = max(cursor, ?1), request = NULL, ordinal = NULL, first_seq = NULL, last_seq = NULL, shift_ms = NULL"""
_READ = f"""
    SELECT iif(typeof(event_id) = 'blob' AND length(event_id) = 16, event_id, zeroblob(16)), coalesce(crc, 0),
        {CHECK_OF_ROW}, coalesce(CAST(body AS BLOB), x'')
    FROM log WHERE seq = ?"""  # noqa: S608 - the parts are constants of this package, values are bound
_APPEND = "INSERT INTO log(seq, queue_id, event_id, at_ms, crc, received_crc, body) VALUES (?, ?, ?, ?, ?, ?, ?)"


class InstallationClaim(NamedTuple):
    """The machine that opens an outbox and becomes its owner."""

    ids: MachineIds
    salt: str
    """Salt for the identity of an outbox that has no identity yet."""
    adopts: bool
    """Whether pending events of another machine are sent, not quarantined (outbox.adopt)."""


class Moved(NamedTuple):
    """An event that was appended again."""

    seq: int
    queue_id: int
    event_id: bytes
    body_bytes: int


def claim(database: sqlite3.Connection, owner: InstallationClaim) -> bool:
    """Make this machine the owner of the outbox, and return whether another machine was the owner.

    In that case the pending events are quarantined, unless `owner.adopts` is set.
    """
    (stored,) = database.execute("SELECT CAST(identity AS TEXT) FROM ledger").fetchone()
    is_moved = is_other_machine(stored or "", owner.ids)
    new = identity("" if is_moved else stored or "", owner.ids, owner.salt)
    if new == stored:
        return False
    database.execute("BEGIN IMMEDIATE")
    try:
        if is_moved and not owner.adopts:
            quarantine(database)
        database.execute("UPDATE ledger SET identity = ?", (new,))
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    return is_moved


def quarantine(database: sqlite3.Connection) -> None:
    """Quarantine every pending event, requests in flight included."""
    # A queue has one range: its settled rows between an earlier quarantine and the cursor are deleted first.
    database.execute(_DELETE_DONE)
    database.execute(_QUARANTINE, (read_totals(database).last_seq,))


class Adopt(Op[int]):
    """Append the oldest quarantined events again, at most `limit`."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = min(limit, _EVENTS_AT_ONCE)
        self._chosen: Sequence[tuple[int, int]] = ()

    def plan(self, draft: Draft) -> bool:
        state = draft.state
        self._chosen = state.index.first_quarantined(self._limit)
        queues = {queue_id for _, queue_id in self._chosen}
        if draft.unclear & queues:
            return False
        most_bytes = state.limits.commit_bytes
        step = partial(_adopt, chosen=self._chosen, first_seq=draft.next_seq, at_ms=draft.now_ms, most_bytes=most_bytes)
        draft.add(self, step)
        draft.unclear.update(queues)
        return True

    def apply(self, state: OutboxState, result: tuple[int, Sequence[Moved]]) -> int:
        tried, moved = result
        _take_out(state, self._chosen[:tried])
        state.dedupe_window.extend(state.next_seq, [each.event_id for each in moved], [each.queue_id for each in moved])
        for each in moved:
            state.index.queues[each.queue_id].append(state.next_seq, each.body_bytes)
            state.next_seq += 1
        state.last_row = state.next_seq - 1
        state.adopted += len(moved)
        state.changed.update(each.queue_id for each in moved)
        return tried


class DiscardQuarantined(Op[int]):
    """Drop the oldest quarantined events, at most `limit`."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        super().__init__()
        self._limit = min(limit, _EVENTS_AT_ONCE)
        self._metrics = metrics
        self._chosen: Sequence[tuple[int, int]] = ()

    def plan(self, draft: Draft) -> bool:
        self._chosen = draft.state.index.first_quarantined(self._limit)
        draft.add(self, partial(_discard, seqs=[seq for seq, _ in self._chosen]))
        return True

    def apply(self, state: OutboxState, result: int) -> int:
        _take_out(state, self._chosen)
        for seq, _ in self._chosen:
            state.dedupe_window.mark(seq, DROPPED)
        state.rows -= result
        state.dropped += result
        self._metrics.events_dropped.labels("discarded").inc(result)
        return len(self._chosen)


class Disown(Op[None]):
    """Forget which machine owns the outbox. The next machine that opens it becomes the owner."""

    def plan(self, draft: Draft) -> bool:
        draft.add(self, _disown)
        return True

    def apply(self, state: OutboxState, result: None) -> None:
        """Change nothing: only the next start reads the identity."""


def _take_out(state: OutboxState, chosen: Sequence[tuple[int, int]]) -> None:
    for number, events in Counter(queue_id for _, queue_id in chosen).items():
        del state.index.queues[number].quarantined[:events]
    state.quarantined -= len(chosen)


def _adopt(
    database: sqlite3.Connection, chosen: Sequence[tuple[int, int]], first_seq: int, at_ms: int, most_bytes: int
) -> tuple[int, Sequence[Moved]]:
    """Append events again. Return the number of tried events, and the events whose row still exists.

    The events lose the mark of an inserted timestamp, because the relay cannot correct the clock of
    another machine.
    """
    moved: list[Moved] = []
    tried = body_bytes = 0
    for seq, queue_id in chosen:
        tried += 1
        for event_id, crc, check, body in database.execute(_READ, (seq,)).fetchall():
            row = (first_seq + len(moved), queue_id, event_id, at_ms, unmarked(body, crc), check or None, body)
            database.execute(_APPEND, row)
            database.execute("DELETE FROM log WHERE seq = ?", (seq,))
            moved.append(Moved(seq, queue_id, event_id, len(body)))
            body_bytes += len(body)
        if body_bytes >= most_bytes:
            break
    database.execute(
        "UPDATE ledger SET adopted = adopted + ?, last_seq = max(last_seq, ?)",
        (len(moved), first_seq + len(moved) - 1),
    )
    return tried, moved


def _discard(database: sqlite3.Connection, seqs: Sequence[int]) -> int:
    """Delete rows and remember their ids as dropped. Return the number of deleted rows."""
    rows = 0
    for seq in seqs:
        for event_id, _, check, _ in database.execute(_READ, (seq,)).fetchall():
            remember(database, seq, seq, event_id, bytes([DROPPED]), pack_check(check))
            database.execute("DELETE FROM log WHERE seq = ?", (seq,))
            rows += 1
    last_seq = max(seqs, default=0)
    database.execute("UPDATE ledger SET dropped = dropped + ?, last_seq = max(last_seq, ?)", (rows, last_seq))
    return rows


def _disown(database: sqlite3.Connection) -> None:
    database.execute("UPDATE ledger SET identity = ''")

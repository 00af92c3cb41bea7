"""The statements of a commit: one function per command, run on the thread of the connection.

Rules: `connection.commit` calls these functions and may roll them back. They use neither memory of the event loop nor
asyncio. A statement processes many rows, and a query returns many rows as one value, because each sqlite3 step waits
for the interpreter lock (beside a busy loop, 500 bodies one by one took 30 ms, as one value 4.5 ms).
"""
# ruff: noqa: S608 - the parts are constants of this package, values are bound

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate, chain, pairwise
from operator import methodcaller

import msgspec

from relay.outbox.engine import commands as c
from relay.outbox.engine.checksum import has_inserted_time
from relay.outbox.engine.dedupe_window import CHECK_BYTES, DEAD, ID_BYTES, pack_check
from relay.outbox.sqlite.connection import PAGE_BYTES, Database, Step
from relay.outbox.sqlite.dead_letters import delete_excess
from relay.outbox.sqlite.schema import CHECK_OF_ROW, ID_OF_ROW
from relay.outbox.sqlite.space import ROW_BYTES

_encode = msgspec.json.Encoder().encode

_SPAN_BITS = 32
_DIGITS = 10
"""Length of a queue id or a checksum, padded with zeros: both have 32 bits."""
_INSERT = f"""
    INSERT INTO log(seq, queue_id, event_id, at_ms, crc, received_crc, body)
    SELECT :first_seq + key, CAST(substr(:numbers, key * {3 * _DIGITS} + 1, {_DIGITS}) AS INTEGER),
        substr(:ids, key * {ID_BYTES} + 1, {ID_BYTES}), :at_ms,
        CAST(substr(:numbers, key * {3 * _DIGITS} + {_DIGITS + 1}, {_DIGITS}) AS INTEGER),
        CAST(substr(:numbers, key * {3 * _DIGITS} + {2 * _DIGITS + 1}, {_DIGITS}) AS INTEGER),
        substr(:bodies, value >> {_SPAN_BITS}, value & {(1 << _SPAN_BITS) - 1})
    FROM json_each(CAST(:spans AS TEXT))"""
_NOT_QUARANTINED = """ AND NOT EXISTS (
    SELECT 1 FROM device_queues AS q
    WHERE q.queue_id = log.queue_id AND log.seq > q.quarantined_after AND log.seq <= q.quarantined_to)"""
_READ_TOGETHER = """
    SELECT group_concat(crc), CAST(group_concat(body, '') AS BLOB)
    FROM json_each(?) AS wanted CROSS JOIN log ON log.seq = wanted.value"""
_READ_TIMES = """
    SELECT group_concat(coalesce(CAST(at_ms AS INTEGER), 0)), group_concat(received_crc IS NOT NULL)
    FROM json_each(?) AS wanted CROSS JOIN log ON log.seq = wanted.value"""
_READ_ONE = "SELECT crc, CAST(body AS BLOB) FROM log WHERE seq = ?"
_INSERT_DEAD_LETTER = """
    INSERT INTO dead_letters
        (seq, event_id, tenant_id, platform, device_id, reason, status, message, dead_at_ms, crc, body)
    SELECT :seq, coalesce(log.event_id, zeroblob(16)), q.tenant_id, q.platform, q.device_id, :reason, :status, :message,
        :now_ms, coalesce(log.crc, 0), coalesce(CAST(log.body AS BLOB), x'')
    FROM device_queues AS q LEFT JOIN log ON log.seq = :seq WHERE q.queue_id = :queue_id"""
_READ_ID = f"""
    SELECT {ID_OF_ROW}, {CHECK_OF_ROW}, coalesce(length(CAST(body AS BLOB)), 0) FROM log WHERE seq = ?"""
_READ_REMEMBERED = """
    SELECT last_seq, CAST(ids AS BLOB), CAST(marks AS BLOB), coalesce(CAST(checks AS BLOB), x'') FROM dedupe_window
    WHERE first_seq = ? AND typeof(last_seq) = 'integer' AND ids IS NOT NULL AND marks IS NOT NULL"""
_COUNT_DEAD_LETTERED = """
    UPDATE ledger SET dead_lettered = dead_lettered + :events, last_seq = max(last_seq, :last_seq),
        dead_letters = dead_letters + :events, dead_letter_bytes = dead_letter_bytes + :body_bytes"""
_JOURNAL = """
    UPDATE device_queues SET rate_window = ?, boot = ?, request = ?, ordinal = ?, first_seq = ?, last_seq = ?,
        shift_ms = ?, omitted = ? WHERE queue_id = ?"""
NO_REQUEST = "request = NULL, ordinal = NULL, first_seq = NULL, last_seq = NULL, shift_ms = NULL, omitted = NULL"
_SETTLE = f"""
    UPDATE device_queues SET cursor = max(cursor, ?), delivered = delivered + ?, rate_window = ?, boot = ?,
        {NO_REQUEST} WHERE queue_id = ?"""


_READ_STUB = f"""
    SELECT coalesce(max(seq) + 1, :first_seq), count(*) FROM (
        SELECT seq, sum(length(body) + {ROW_BYTES}) OVER (ORDER BY seq) AS bytes FROM (
            SELECT seq, body FROM log WHERE seq BETWEEN :first_seq AND :last_seq
            ORDER BY seq LIMIT {PAGE_BYTES // ROW_BYTES}))
    WHERE bytes <= {PAGE_BYTES // 2} AND NOT EXISTS (SELECT 1 FROM log WHERE seq < :first_seq)"""


def add_queues(database: sqlite3.Connection, command: c.AddQueues) -> None:
    """Insert rows of device queues. tenant_id is text, because it may exceed SQLite's integers."""
    database.executemany(
        "INSERT INTO device_queues(queue_id, tenant_id, platform, device_id, cursor) VALUES (?, ?, ?, ?, ?)",
        [(queue_id, str(key[0]), *key[1:], command.cursor) for queue_id, key in command.queues],
    )


def insertion(command: c.InsertEvents) -> Step:
    """Return the step of a commit that inserts rows. The event loop joins their values, and one statement splits them.

    That takes 1.9 µs per row; statements of 64 rows took 2.8 µs (800 rows per commit, idle machine).
    """
    first_seq, at_ms, queue_ids, ids, crcs, received_crcs, bodies, sizes = command
    rows = chain.from_iterable(zip(queue_ids, crcs, received_crcs, strict=True))
    # For each row: queue id, checksum of the body, checksum of the received bytes, each with _DIGITS digits.
    numbers = (f"%0{_DIGITS}d" * (3 * len(queue_ids))) % tuple(rows)
    # The place of each body: (position, counted from 1) << _SPAN_BITS | bytes.
    spans = [at << _SPAN_BITS | size for at, size in zip(accumulate(sizes, initial=1), sizes, strict=False)]
    values = {
        "first_seq": first_seq, "at_ms": at_ms, "numbers": numbers.encode(), "ids": b"".join(ids),
        "bodies": b"".join(bodies), "spans": _encode(spans),
    }  # fmt: skip
    return methodcaller("execute", _INSERT, values)


def claim(database: Database, command: c.ClaimEvents) -> c.ClaimedEvents:
    seqs = [seq for part in command.wanted for seq in part.seqs]
    bodies, marks = _read_bodies(database, seqs, [size for part in command.wanted for size in part.sizes])
    rows, dead_events, journal = command.sort(bodies, marks, partial(_read_times, database))
    values = [
        (part.window, command.boot, *entry, part.queue_id) for part, entry in zip(command.wanted, journal, strict=True)
    ]
    database.executemany(_JOURNAL, values)
    return c.ClaimedEvents(rows, insert_dead_letters(database, dead_events, command.dead_letter_limits))


def _read_times(database: sqlite3.Connection, seqs: Sequence[int]) -> Iterator[tuple[int, bool]]:
    times, receipts = database.execute(_READ_TIMES, (json.dumps(seqs),)).fetchone()
    return zip(map(int, times.split(",")), map("1".__eq__, receipts.split(",")), strict=True)


def settle(database: Database, command: c.SettleEvents) -> c.DeadLettered:
    dead_lettered = insert_dead_letters(database, command.dead_events, command.dead_letter_limits)
    database.executemany(_SETTLE, command.moves)
    for seq in command.ahead:
        remove(database, seq, 0)
        database.execute("UPDATE ledger SET last_seq = max(last_seq, ?)", (seq,))
    return dead_lettered


def insert_dead_letters(
    database: Database, dead_events: Sequence[c.DeadEvent], dead_letter_limits: c.DeadLetterLimits
) -> c.DeadLettered:
    """Move events to the dead letters, and delete dead letters if there are too many."""
    if not dead_events:
        return c.DeadLettered(0, 0, 0)
    body_bytes = 0
    for seq, queue_id, dead in dead_events:
        values = {
            "seq": seq, "queue_id": queue_id, "reason": dead.reason, "status": dead.status, "message": dead.message,
            "now_ms": dead_letter_limits.now_ms,
        }  # fmt: skip
        database.execute(_INSERT_DEAD_LETTER, values)
        body_bytes += sum(remove(database, seq, DEAD))
    last_seq = max(dead_event.seq for dead_event in dead_events)
    counts = {"events": len(dead_events), "body_bytes": body_bytes, "last_seq": last_seq}
    database.execute(_COUNT_DEAD_LETTERED, counts)
    discarded, freed_bytes = delete_excess(database, dead_letter_limits)
    return c.DeadLettered(len(dead_events), discarded, body_bytes - freed_bytes)


def delete_settled(database: sqlite3.Connection, command: c.DeleteSettled) -> c.Deleted:
    """Delete rows. Half a page of the log's oldest rows stays (the stub); for the engine they are deleted.

    SQLite merges a page that is nearly empty with its neighbours. Beside a half full page, that frees the next page,
    which the commit has not changed and does not write. Without a stub it writes pages, and frees them later.
    """
    seq_range, kind, shrink_bytes = command
    first_seq, last_seq = seq_range[:2]
    _remember_range(database, seq_range)
    if kind == "all":
        return c.Deleted(database.execute("DELETE FROM log").rowcount, None, None)
    after_seq = stub = 0
    if kind == "front":
        after_seq = last_seq
        first_seq, stub = database.execute(_READ_STUB, {"first_seq": first_seq, "last_seq": last_seq}).fetchone()
    (free_before,) = database.execute("PRAGMA freelist_count").fetchone()
    done = (
        " AND seq <= coalesce((SELECT cursor FROM device_queues AS q WHERE q.queue_id = log.queue_id), seq)"
        + _NOT_QUARANTINED
    )
    rows = database.execute(
        "DELETE FROM log WHERE seq BETWEEN ? AND ?" + (done if kind == "holes" else ""), (first_seq, last_seq)
    ).rowcount
    if kind == "tail":
        (free,) = database.execute("PRAGMA freelist_count").fetchone()
        _vacuum(database, min(free - free_before, shrink_bytes // PAGE_BYTES))
    ends = "SELECT (SELECT min(seq) FROM log WHERE seq > ?), (SELECT max(seq) FROM log)"
    return c.Deleted(rows + stub, *database.execute(ends, (after_seq,)).fetchone())


def drop(database: sqlite3.Connection, command: c.DropEvents) -> c.Dropped:
    seq_range, events, in_flight, spares_quarantined, reported_seqs = command
    bodies = [read_body(database, seq)[0] for seq in reported_seqs]
    _remember_range(database, seq_range)
    database.execute("UPDATE ledger SET dropped = dropped + ?", (events,))
    deletion = "DELETE FROM log WHERE seq BETWEEN ? AND ? AND seq NOT IN (SELECT value FROM json_each(?))"
    deletion += _NOT_QUARANTINED if spares_quarantined else ""
    seqs = (seq_range.first_seq, seq_range.last_seq, json.dumps(in_flight))
    return c.Dropped(database.execute(deletion, seqs).rowcount, bodies)


def forget(database: sqlite3.Connection, command: c.ForgetQueues) -> None:
    """Delete rows of device queues. Their numbers of delivered events move to the ledger."""
    numbers = json.dumps(command.queue_ids)
    database.execute(
        "UPDATE ledger SET next_queue_id = max(next_queue_id, ?), delivered = delivered"
        " + (SELECT coalesce(sum(delivered), 0) FROM device_queues WHERE queue_id IN (SELECT value FROM json_each(?)))",
        (command.next_queue_id, numbers),
    )
    database.execute("DELETE FROM device_queues WHERE queue_id IN (SELECT value FROM json_each(?))", (numbers,))


def shrink(database: sqlite3.Connection, command: c.Shrink) -> None:
    _vacuum(database, command.max_bytes // PAGE_BYTES)


def _vacuum(database: sqlite3.Connection, pages: int) -> None:
    """Remove up to `pages` free pages from the end of the file."""
    for _ in range(pages):  # SQLite frees a page per step, and sqlite3 executes one step of a statement without columns
        database.execute("PRAGMA incremental_vacuum(1)")


def save_clocks(database: sqlite3.Connection, command: c.SaveClocks) -> None:
    anchor, boot, boot_from_ms, is_clean = command
    columns = "outbox_ms, monotonic_ms, wall_ms, boot_id, boot, boot_from_ms, clean"
    values = (*anchor, boot, boot_from_ms, is_clean)
    database.execute(f"UPDATE ledger SET ({columns}) = (?, ?, ?, ?, ?, ?, ?)", values)


def correct_ledger(database: sqlite3.Connection, command: c.CorrectLedger) -> None:
    total = "dead_lettered" if command.missing > 0 else "delivered"
    database.execute(f"UPDATE ledger SET {total} = {total} + ?", (command.missing,))


def _read_bodies(
    database: sqlite3.Connection, seqs: Sequence[int], sizes: Sequence[int]
) -> tuple[list[bytes], list[bool | None]]:
    """Return the bodies in order, and whether the relay inserted the timestamp of each: None if its checksum is wrong.

    One query returns all bodies as one value. If the sizes do not fit, the disk has changed a row.
    """
    crcs, joined = database.execute(_READ_TOGETHER, (json.dumps(seqs),)).fetchone()
    if crcs is not None and joined is not None and len(joined) == sum(sizes):
        bodies = [joined[start:end] for start, end in pairwise(accumulate(sizes, initial=0))]
        with suppress(ValueError):  # a checksum is not a number
            marks = [has_inserted_time(body, int(crc)) for body, crc in zip(bodies, crcs.split(","), strict=True)]
            if None not in marks:
                return bodies, marks
    found = [read_body(database, seq) for seq in seqs]
    return [body for body, _ in found], [mark for _, mark in found]


def read_body(database: sqlite3.Connection, seq: int) -> tuple[bytes, bool | None]:
    row = database.execute(_READ_ONE, (seq,)).fetchone()
    if row is None or not isinstance(row[1], bytes):
        return b"", None
    return row[1], has_inserted_time(row[1], row[0])


def remove(database: sqlite3.Connection, seq: int, mark: int) -> list[int]:
    """Delete a row if it exists, and remember its id with a mark. Return the sizes of the deleted bodies."""
    rows = database.execute(_READ_ID, (seq,)).fetchall()
    for event_id, check, _ in rows:
        _remember(database, seq, seq, event_id, bytes([mark]), pack_check(check))
        database.execute("DELETE FROM log WHERE seq = ?", (seq,))
    return [body_bytes for _, _, body_bytes in rows]


def _remember(
    database: sqlite3.Connection, first_seq: int, last_seq: int, ids: bytes, marks: bytes, checks: bytes
) -> None:
    """Store ids of rows that are deleted.

    A stored range with the same first seq may be longer, because one of its events was in flight. Then its rest stays.
    """
    for last, old_ids, old_marks, old_checks in database.execute(_READ_REMEMBERED, (first_seq,)).fetchall():
        if last > last_seq:
            last_seq, ids, marks = last, ids + old_ids[len(ids) :], marks + old_marks[len(marks) :]
            checks = (checks + old_checks[len(checks) :]).ljust(len(marks) * CHECK_BYTES, b"\0")
    # The deleted row frees its pages for the new row. A REPLACE would need the pages of both.
    database.execute("DELETE FROM dedupe_window WHERE first_seq = ?", (first_seq,))
    columns = "first_seq, last_seq, ids, marks, checks"
    values = (first_seq, last_seq, ids, marks, checks)
    database.execute(f"INSERT INTO dedupe_window({columns}) VALUES (?, ?, ?, ?, ?)", values)


def _remember_range(database: sqlite3.Connection, seq_range: c.SeqRange) -> None:
    _, last_seq, kept_from_seq, ids, marks, checks, forget_to_seq = seq_range
    # A range ends at its first seq or later: the condition on the key bounds the rows that are read.
    database.execute("DELETE FROM dedupe_window WHERE first_seq <= :seq AND last_seq <= :seq", {"seq": forget_to_seq})
    if ids:
        _remember(database, kept_from_seq, last_seq, ids, marks, checks)
    database.execute("UPDATE ledger SET last_seq = max(last_seq, ?)", (last_seq,))

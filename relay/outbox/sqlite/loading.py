"""Loading of an opened file: functions of a connection, run on its thread.

Rules: `read_opened` reads an amount of data that depends on the number of device queues and on the
dedupe window, not on the number of pending events. The log is read in chunks, between commits.
"""

from __future__ import annotations

import sqlite3
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from relay.outbox import MayForget
from relay.outbox.engine.commands import FindOlder, ReadAppendTime
from relay.outbox.engine.dedupe_window import CHECK_BYTES, ID_BYTES, DedupeWindow, IdSlice
from relay.outbox.engine.opened_queues import OpenedQueues, QueueRow
from relay.outbox.engine.outbox_clock import Anchor
from relay.outbox.engine.storage import LogChunk, Opened, StoredTotals
from relay.outbox.sqlite.connection import atomic, read_pages
from relay.outbox.sqlite.schema import CHECK_OF_ROW
from relay.outbox.sqlite.space import space_of

CHUNK_ROWS = 4096
MAX_QUEUE_ID = 1 << 31
"""Upper bound of queue ids. Memory has 32 bits for an id."""
_READ_IDS = f"""
    SELECT count(*), min(seq), max(seq), min(length(event_id)), max(length(event_id)),
        group_concat(CAST(queue_id AS INTEGER)), CAST(group_concat(event_id, '') AS BLOB), group_concat({CHECK_OF_ROW})
    FROM log WHERE seq > ? AND seq <= ?"""  # noqa: S608 - the parts are constants of this package, values are bound
_READ_ID_ROWS = f"""
    SELECT seq, CAST(queue_id AS INTEGER), CAST(event_id AS BLOB), {CHECK_OF_ROW}
    FROM log WHERE seq > ? AND seq <= ? ORDER BY seq"""  # noqa: S608 - the parts are constants of this package, values are bound
_READ_ROWS = """
    SELECT min(seq), max(seq), group_concat(seq), group_concat(CAST(queue_id AS INTEGER)),
        group_concat(coalesce(size, 0))
    FROM (SELECT seq, queue_id, length(body) AS size FROM log WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?)"""
_SUM = "SELECT coalesce(sum(delivered), 0), coalesce(max(queue_id), 0) + 1 FROM device_queues"
_FORGET = """
    DELETE FROM device_queues
    WHERE request IS NULL AND quarantined_to IS NULL AND may_forget(rate_window, boot) AND queue_id NOT IN (
        SELECT log.queue_id FROM log JOIN device_queues AS q USING (queue_id) WHERE log.seq > q.cursor)"""

_decode_numbers = msgspec.json.Decoder(list[int]).decode


class Broken(sqlite3.DatabaseError):
    """The file opens, but its content is not that of an outbox."""


def read_totals(database: sqlite3.Connection) -> StoredTotals:
    return StoredTotals(
        *database.execute(
            "SELECT max(last_seq, coalesce((SELECT max(seq) FROM log), 0)), requeued,"
            " delivered + (SELECT coalesce(sum(delivered), 0) FROM device_queues), dead_lettered, dropped, adopted,"
            " dead_letters FROM ledger"
        ).fetchone()
    )


def read_opened(database: sqlite3.Connection, boot_id: str, dedupe_window: int) -> Opened:
    totals = read_totals(database)
    next_queue_id, dead_letter_bytes, boot, boot_from_ms, outbox_ms, monotonic_ms, wall_ms, last_boot_id = (
        database.execute(
            "SELECT next_queue_id, dead_letter_bytes, boot, boot_from_ms, outbox_ms, monotonic_ms, wall_ms, boot_id"
            " FROM ledger"
        ).fetchone()
    )
    numbers = (*totals, next_queue_id, dead_letter_bytes, boot, boot_from_ms or 0, outbox_ms, monotonic_ms, wall_ms)
    if not (all(isinstance(value, int) for value in numbers) and isinstance(last_boot_id, str)):
        raise ValueError("the ledger has a value of a wrong type")
    same_boot = last_boot_id == boot_id
    boot = boot if same_boot else boot + 1
    queues = OpenedQueues(boot, _read_queues(database, totals.last_seq))
    (first_row,) = database.execute("SELECT coalesce(min(seq), ?) FROM log", (totals.last_seq + 1,)).fetchone()
    slices = _read_slices(database, max(totals.last_seq - dedupe_window, 0), totals.last_seq)
    return Opened(
        totals=totals,
        next_queue_id=max(next_queue_id, queues.index.next_queue_id),
        dead_letter_bytes=dead_letter_bytes,
        boot=boot,
        boot_from_ms=boot_from_ms if same_boot else None,
        anchor=Anchor(outbox_ms, monotonic_ms, wall_ms, last_boot_id) if last_boot_id else None,
        first_row=first_row,
        last_at_ms=_last_at_ms(database),
        queues=queues,
        dedupe_window=DedupeWindow.restored(dedupe_window, totals.last_seq, slices),
        space=space_of(*read_pages(database)),
    )


def forget_free(database: sqlite3.Connection, boot_id: str, max_rows: int, may_forget: MayForget) -> None:
    """Delete idle device queues that may be forgotten, before they use memory (contract G5).

    A row without a journal entry was written at the settlement of the last request, with its rate window. The times of
    another boot cannot be compared: such rows stay, and the relay forgets them one rate window after the start. Do
    nothing if the log has more than `max_rows` rows, because this function reads all of them.
    """
    boot, last_boot_id, rows = database.execute(
        "SELECT boot, boot_id, (SELECT count(*) FROM (SELECT 1 FROM log LIMIT ? + 1)) FROM ledger", (max_rows,)
    ).fetchone()
    if rows > max_rows:
        return

    def may_forget_now(window: object, stored_in: object) -> bool:
        same_boot = stored_in == boot and last_boot_id == boot_id
        return isinstance(window, bytes) and (not window or (same_boot and may_forget(window)))

    database.create_function("may_forget", 2, may_forget_now)
    with atomic(database):
        delivered, next_queue_id = database.execute(_SUM).fetchone()
        if database.execute(_FORGET).rowcount:
            database.execute(
                "UPDATE ledger SET delivered = delivered + ?, next_queue_id = max(next_queue_id, ?)",
                (delivered - database.execute(_SUM).fetchone()[0], next_queue_id),
            )


def read_chunk(database: sqlite3.Connection, after_seq: int, to_seq: int) -> LogChunk | None:
    """Return the next rows of the log; None if there are no more.

    Raise Broken if a value is invalid or the rows are out of order, because such rows can hide others.
    """
    first, last, seqs_text, *texts = database.execute(_READ_ROWS, (after_seq, to_seq, CHUNK_ROWS)).fetchone()
    if last is None:
        return None
    try:
        queues, sizes = map(_numbers, texts)
        seqs = _seqs(first, last, len(queues), seqs_text)
    except (AttributeError, ValueError, OverflowError) as error:
        raise Broken(f"a row of the log after {after_seq} has an invalid value") from error
    if len(seqs) != len(queues) or seqs.tolist() != sorted(seqs) or seqs[0] <= after_seq:
        raise Broken(f"the rows of the log after {after_seq} are out of order")
    return LogChunk(seqs, queues, sizes, last)


def last_older(database: sqlite3.Connection, command: FindOlder) -> int | None:
    times = database.execute(
        "SELECT max(seq), min(CASE WHEN at_ms >= ? THEN seq END)"
        " FROM (SELECT seq, at_ms FROM log WHERE seq >= ? ORDER BY seq LIMIT ?)",
        (command.before_ms, command.first_seq, CHUNK_ROWS),
    ).fetchone()
    last, first_younger = times
    if last is None or first_younger == command.first_seq:
        return None
    return int(last if first_younger is None else first_younger - 1)


def read_at_ms(database: sqlite3.Connection, command: ReadAppendTime) -> int | None:
    row = database.execute("SELECT coalesce(CAST(at_ms AS INTEGER), 0) FROM log WHERE seq = ?", command).fetchone()
    return None if row is None else row[0]


def _last_at_ms(database: sqlite3.Connection) -> int:
    """Return when the newest event was appended, as a median, so that one changed value does not expire all events."""
    rows = database.execute("SELECT at_ms FROM log ORDER BY seq DESC LIMIT 3").fetchall()
    times = sorted(at_ms for (at_ms,) in rows if isinstance(at_ms, int))
    return times[(len(times) - 1) // 2] if times else 0


def _seqs(first: int, last: int, rows: int, text: str) -> array[int]:
    """Return the seqs of `rows` rows. Most ranges have no gap, so that the text need not be parsed."""
    return array("q", range(first, last + 1)) if last - first + 1 == rows else _numbers(text)


def _numbers(text: str) -> array[int]:
    """Parse integers separated by commas. Raise ValueError or OverflowError for other text.

    A JSON decoder is three times as fast as splitting.
    """
    try:
        return array("q", _decode_numbers(f"[{text}]"))
    except msgspec.MsgspecError as error:
        raise ValueError(f"not integers: {text[:100]!r}") from error


def _read_queues(database: sqlite3.Connection, last_seq: int) -> Iterator[QueueRow]:
    """Yield the device queues. Raise ValueError, TypeError or OverflowError for an invalid row."""
    for values in database.execute(
        "SELECT queue_id, tenant_id, platform, device_id, cursor, rate_window, boot, request, ordinal,"
        " first_seq, last_seq, shift_ms, quarantined_after, quarantined_to, omitted FROM device_queues"
        " ORDER BY queue_id"
    ):
        row = queue_row(values)
        if row.cursor > last_seq:
            raise ValueError("a cursor is after the last event")
        yield row


def queue_row(values: Sequence[Any]) -> QueueRow:
    """Return a stored device queue. Raise ValueError, TypeError or OverflowError for a wrong type or range."""
    queue_id, tenant_id, platform, device_id, *rest = values
    try:
        row = msgspec.convert((queue_id, (int(tenant_id), sys.intern(platform), device_id), *rest), QueueRow)
    except msgspec.ValidationError as error:
        raise ValueError(f"device queue {queue_id}: {error}") from error
    is_whole = row.request is None or None not in (row.ordinal, row.first_seq, row.last_seq)
    if not (0 < row.queue_id < MAX_QUEUE_ID and is_whole):
        raise ValueError(f"device queue {queue_id} has an invalid value")
    return row


def _read_slices(database: sqlite3.Connection, after_seq: int, last_seq: int) -> Iterator[IdSlice]:
    """Yield the ids of deleted rows, then the ids of the log."""
    for first, last, ids, marks, checks in database.execute(
        "SELECT first_seq, last_seq, ids, marks, checks FROM dedupe_window WHERE last_seq > ? ORDER BY first_seq",
        (after_seq,),
    ):
        is_sound = isinstance(last, int) and isinstance(ids, bytes) and isinstance(marks, bytes) and last <= last_seq
        if is_sound and len(marks) == last - first + 1 and len(ids) == len(marks) * ID_BYTES:
            has_checks = isinstance(checks, bytes) and len(checks) == len(marks) * CHECK_BYTES
            yield IdSlice(first, ids, None, marks, array("I", checks) if has_checks else None)
    for low in range(after_seq, last_seq, CHUNK_ROWS):
        yield from _read_ids(database, low, min(low + CHUNK_ROWS, last_seq))


def _read_ids(database: sqlite3.Connection, after_seq: int, to_seq: int) -> Iterator[IdSlice]:
    """Yield the ids of ranges of the log: one range if it has no gap and each id has 16 bytes, otherwise each row."""
    seq_range = (after_seq, to_seq)
    row = database.execute(_READ_IDS, seq_range).fetchone()
    rows, first, last, shortest, longest, queue_ids_text, ids, checks_text = row
    if not rows:
        return
    queues, checks = _32_bits(_numbers(queue_ids_text)), _32_bits(_numbers(checks_text))
    whole = after_seq < first and last <= to_seq and rows == last - first + 1 == len(queues) == len(checks)
    if whole and shortest == longest == ID_BYTES and len(ids) == rows * ID_BYTES:
        yield IdSlice(first, ids, queues, None, checks)
        return
    for seq, queue_id, event_id, check in database.execute(_READ_ID_ROWS, seq_range):
        if after_seq < seq <= to_seq and event_id is not None and len(event_id) == ID_BYTES:
            yield IdSlice(seq, event_id, _32_bits([queue_id]), None, _32_bits([check]))


def _32_bits(numbers: Iterable[int]) -> array[int]:
    """Return the numbers cut to 32 bits. A flipped bit may have made a queue id larger."""
    return array("I", [number & 0xFFFFFFFF for number in numbers])

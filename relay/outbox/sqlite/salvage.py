"""What can be read of a broken file, copied into a new one.

Rules: everything is tried and nothing is required; what cannot be read is skipped over, row by row
in the end; seqs, lanes and ids stay what they were; the new file's ledger is balanced (what the old
ledger promised and the log no longer holds is found missing when the log is loaded). Bounded by the
file's size and by the number of unreadable stretches.
"""
# ruff: noqa: S608 - tables and columns are ours, values are bound

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from relay.event import LaneKey
from relay.outbox.recent import ID_BYTES
from relay.outbox.sqlite import files
from relay.outbox.sqlite.connection import PAGE_BYTES

_ROWS_AT_ONCE = 512
_MOST_ERRORS = 20_000
_MAGIC = b"SQLite format 3\0"
_LEDGER_COLUMNS = (
    "last_seq, next_lane, requeued, delivered, dead_lettered, dropped, boot, boot_id, outbox_ms, monotonic_ms, wall_ms"
)
_LANE_COLUMNS = (
    "lane, tenant_id, platform, device_id, cursor, delivered, window, boot, request, ordinal, first_seq, last_seq"
)
_DEAD_COLUMNS = "id, seq, event_id, tenant_id, platform, device_id, reason, status, words, dead_at_ms, crc, body"


class Salvaged(NamedTuple):
    events: int
    dead_letters: int
    lanes: int


class _Source(msgspec.Struct):
    platform: str
    device_id: str


class _Body(msgspec.Struct):
    tenant_id: int
    source: _Source


def salvage(broken: Path, new: sqlite3.Connection) -> Salvaged:
    """Copy what `broken` still holds into a fresh outbox. Never fails because of what `broken` looks like."""
    _lend_first_page(broken, new)
    try:
        old = sqlite3.connect(f"file:{quote(str(broken.absolute()))}", uri=True, isolation_level=None)
    except sqlite3.Error:
        return Salvaged(0, 0, 0)
    try:
        old.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
        old.execute("PRAGMA writable_schema=ON")  # else a file shorter than it says is not read at all
        return _copy(old, new)
    finally:
        with suppress(sqlite3.Error):
            old.close()


def _copy(old: sqlite3.Connection, new: sqlite3.Connection) -> Salvaged:
    new.execute("BEGIN IMMEDIATE")
    ledger = _first_readable(old, f"SELECT {_LEDGER_COLUMNS} FROM ledger")
    lanes = _copy_table(old, new, "lanes", _LANE_COLUMNS)
    letters = _copy_table(old, new, "dead_letters", _DEAD_COLUMNS)
    _copy_table(old, new, "recent", "first_seq, last_seq, ids, marks")
    events, last_seq = _copy_log(old, new)
    _balance(new, ledger, events, last_seq)
    new.execute("COMMIT")
    new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    (lanes,) = new.execute("SELECT count(*) FROM lanes").fetchone()
    return Salvaged(events, letters, lanes)


def _copy_table(old: sqlite3.Connection, new: sqlite3.Connection, table: str, columns: str) -> int:
    """Copy rows whose first column is the key; returns how many."""
    key = columns.partition(",")[0]
    marks = ", ".join("?" * len(columns.split(",")))
    rows = 0
    for row in _readable(old, f"SELECT {columns} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT {_ROWS_AT_ONCE}"):
        with suppress(sqlite3.IntegrityError, sqlite3.DataError):  # a value that the disk has changed
            new.execute(f"INSERT INTO {table}({columns}) VALUES ({marks})", row)
            rows += 1
    return rows


def _copy_log(old: sqlite3.Connection, new: sqlite3.Connection) -> tuple[int, int]:
    """Copy pending events; returns (how many, the last seq seen)."""
    cursors: dict[int, int] = dict(new.execute("SELECT lane, cursor FROM lanes"))
    ids = _Ids(new)
    events = last_seq = uncommitted_bytes = 0
    for row in _readable(
        old,
        f"SELECT seq, lane, event_id, at_ms, crc, body FROM log WHERE seq > ? ORDER BY seq LIMIT {_ROWS_AT_ONCE}",
    ):
        seq, lane, event_id, at_ms, crc, body = row
        last_seq = seq
        numbers_sound = all(isinstance(value, int) for value in (lane, at_ms, crc))
        if not (
            numbers_sound and isinstance(event_id, bytes) and len(event_id) == ID_BYTES and isinstance(body, bytes)
        ):
            continue
        if lane not in cursors:
            key = _key_of(body)
            if key is None:
                continue
            new.execute(
                "INSERT INTO lanes(lane, tenant_id, platform, device_id, cursor) VALUES (?, ?, ?, ?, 0)",
                (lane, str(key[0]), *key[1:]),
            )
            cursors[lane] = 0
        if seq <= cursors[lane]:
            ids.add(seq, event_id)
            continue
        new.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", row)
        events += 1
        uncommitted_bytes += len(body)
        if uncommitted_bytes > 1 << 20:
            uncommitted_bytes = 0
            new.execute("COMMIT")
            new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            new.execute("BEGIN IMMEDIATE")
    ids.flush()
    return events, last_seq


class _Ids:
    """Ids of events that are done and need not be copied, in runs of seqs, for the dedupe window."""

    def __init__(self, new: sqlite3.Connection) -> None:
        self._new = new
        self._first = 0
        self._run = bytearray()

    def add(self, seq: int, event_id: bytes) -> None:
        if seq != self._first + len(self._run) // ID_BYTES:
            self.flush()
        if not self._run:
            self._first = seq
        self._run += event_id

    def flush(self) -> None:
        events = len(self._run) // ID_BYTES
        if events:
            self._new.execute(
                "INSERT OR REPLACE INTO recent VALUES (?, ?, ?, zeroblob(?))",
                (self._first, self._first + events - 1, bytes(self._run), events),
            )
        self._run.clear()


def _balance(new: sqlite3.Connection, ledger: tuple[Any, ...] | None, events: int, last_seq: int) -> None:
    """Write the ledger: the old one if it can be read, else one that takes what is gone for delivered."""
    letters, letter_bytes = new.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM dead_letters").fetchone()
    (by_lanes,) = new.execute("SELECT coalesce(sum(delivered), 0) FROM lanes").fetchone()
    if ledger is None or not all(isinstance(value, int) for value in ledger[:7]):
        ledger = (last_seq, 1, 0, max(last_seq - events - letters - by_lanes, 0), letters, 0, 0, "", 0, 0, 0)
    ledger = (max(ledger[0], last_seq), *ledger[1:])
    new.execute(
        f"UPDATE ledger SET ({_LEDGER_COLUMNS}) = (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?),"
        " dead_letters = ?, dead_letter_bytes = ?",
        (*ledger, letters, letter_bytes),
    )


def _readable(old: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    """Every row that can be read, in the order of its integer key, the first column.

    `query` gives some rows after a key. After an unreadable row the next readable one is searched
    by growing steps, then narrowed down, so that a broken page costs its own rows only.
    """
    after, errors = -1, 0
    while errors < _MOST_ERRORS:
        rows, whole = _some(old, query, after)
        before = after
        for row in rows:
            if isinstance(row[0], int) and row[0] > after:  # a broken tree may lead to a page twice
                after = row[0]
                yield row
        whole = whole and (not rows or after > before)
        if whole:
            if not rows:
                return
            continue
        errors += 1
        step = 1
        while step < 1 << 62 and not _is_readable(old, query, after + step):
            step *= 2
        low, high = after + step // 2, after + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _is_readable(old, query, middle) else (middle, high)
        after = high
        if step >= 1 << 62:
            return


def _some(old: sqlite3.Connection, query: str, after: int) -> tuple[list[tuple[Any, ...]], bool]:
    """(rows after a key, whether nothing went wrong)."""
    rows: list[tuple[Any, ...]] = []
    try:
        for row in old.execute(query, (after,)):
            rows.append(row)  # noqa: PERF402 - what came before the error is kept
    except (sqlite3.Error, OverflowError):
        return rows, False
    return rows, True


def _is_readable(old: sqlite3.Connection, query: str, after: int) -> bool:
    rows, whole = _some(old, query, after)
    return bool(rows) or whole


def _first_readable(old: sqlite3.Connection, query: str) -> tuple[Any, ...] | None:
    try:
        row: tuple[Any, ...] | None = old.execute(query).fetchone()
    except (sqlite3.Error, OverflowError):
        return None
    return row


def _key_of(body: bytes) -> LaneKey | None:
    """The device of an event whose lane is lost."""
    try:
        found = msgspec.json.decode(body, type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found.tenant_id, found.source.platform, found.source.device_id


def _lend_first_page(broken: Path, new: sqlite3.Connection) -> None:
    """If the file's head is gone, put a new outbox's there: its tables begin at the same pages.

    The page that was there is kept beside it. Offsets: https://www.sqlite.org/fileformat2.html#the_database_header
    """
    try:
        with broken.open("r+b") as file:
            first = file.read(PAGE_BYTES)
            pages = os.fstat(file.fileno()).st_size // PAGE_BYTES
            if first.startswith(_MAGIC) or pages < 2:
                return
            new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            with Path(new.execute("PRAGMA database_list").fetchone()[2]).open("rb") as fresh:
                lent = bytearray(fresh.read(PAGE_BYTES))
            files.beside(broken, ".page1").write_bytes(first)
            lent[28:32] = pages.to_bytes(4)
            lent[32:40] = bytes(8)
            file.seek(0)
            file.write(lent)
    except OSError:
        return

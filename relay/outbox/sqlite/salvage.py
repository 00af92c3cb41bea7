"""Salvage: copy all readable rows of a broken file into a new file.

Rules: salvage skips unreadable rows, one by one if necessary. Seqs, queue ids and event ids do not
change. A row whose queue is lost goes to the queue of the device in its body. A changed body is
copied, too, and detected when it is claimed. The ledger of the new file is balanced; loading detects
events that are missing from the log. The broken file is restored to its original bytes. The duration
is limited by the size of the file and the number of unreadable ranges.
"""
# ruff: noqa: S608 - tables and columns are constants, values are bound

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from relay.event.reader import DeviceKey
from relay.event.values import trimmed, whole
from relay.outbox.engine.dedupe_window import ID_BYTES
from relay.outbox.sqlite import files
from relay.outbox.sqlite.connection import PAGE_BYTES
from relay.outbox.sqlite.loading import MAX_QUEUE_ID, QueueRow, is_sound_queue
from relay.outbox.sqlite.schema import MIGRATIONS, is_newest, select_any_version

_ROWS_AT_ONCE = 512
_MAX_ERRORS = 20_000
_MAGIC = b"SQLite format 3\0"
_LEDGER_COLUMNS = (
    "last_seq, next_queue_id, requeued, delivered, dead_lettered, dropped, adopted,"
    " boot, boot_id, outbox_ms, monotonic_ms, wall_ms, identity"
)
_QUEUE_COLUMNS = (
    "queue_id, tenant_id, platform, device_id, cursor, delivered, rate_window, boot, request, ordinal, first_seq,"
    " last_seq, shift_ms, quarantined_after, quarantined_to"
)
_LOG_COLUMNS = "seq, queue_id, event_id, at_ms, crc, body"
_INSERT_ROW = f"INSERT INTO log({_LOG_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"
"""Checks of received bytes are not copied. Without a check, a repeated id is a repetition."""
_DEAD_COLUMNS = "id, seq, event_id, tenant_id, platform, device_id, reason, status, message, dead_at_ms, crc, body"

_AFTER_KEY = f" WHERE rowid > ? ORDER BY rowid LIMIT {_ROWS_AT_ONCE}"

_UNREADABLE = (sqlite3.Error, OverflowError, UnicodeDecodeError)
"""UnicodeDecodeError: a message of SQLite quotes invalid UTF-8."""


class Salvaged(NamedTuple):
    events: int
    dead_letters: int
    queues: int


class _Source(msgspec.Struct):
    platform: str
    device_id: str


class _Body(msgspec.Struct):
    tenant_id: int | float
    source: _Source


def salvage(broken: Path, new: sqlite3.Connection) -> Salvaged:
    """Copy the readable rows of `broken` into a new outbox. Errors in `broken` raise no exception."""
    first_page = _replace_first_page(broken, new)
    try:
        old = _opened(broken)
    except sqlite3.Error:
        return Salvaged(0, 0, 0)
    try:
        old.execute("PRAGMA writable_schema=ON")  # otherwise SQLite rejects a file with missing pages
        return _copy(old, new)
    finally:
        with suppress(sqlite3.Error):
            old.close()
        if first_page is not None:
            _restore_first_page(broken, first_page)


def _opened(broken: Path) -> sqlite3.Connection:
    old = sqlite3.connect(f"file:{quote(str(broken.absolute()))}", uri=True, isolation_level=None)
    old.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
    return old


def _copy(old: sqlite3.Connection, new: sqlite3.Connection) -> Salvaged:
    new.execute("BEGIN IMMEDIATE")
    ledger = _first_readable(old, select_any_version(old, "ledger", _LEDGER_COLUMNS))
    queues = _Queues(old, new)
    letters = _copy_table(old, new, "dead_letters", _DEAD_COLUMNS)
    _copy_table(old, new, "dedupe_window", "first_seq, last_seq, ids, marks")
    events, last_seq = _copy_log(old, new, queues)
    _balance(new, ledger, events, last_seq)
    new.execute("COMMIT")
    new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return Salvaged(events, letters, len(queues.cursors))


class _Queues:
    """The device queues of the new file: the sound queues of the old file, and a new one for each other device."""

    def __init__(self, old: sqlite3.Connection, new: sqlite3.Connection) -> None:
        self.cursors: dict[int, int] = {}
        self._by_key: dict[DeviceKey, int] = {}
        self._quarantined: dict[int, range] = {}
        self._new = new
        for row in _readable(old, select_any_version(old, "device_queues", _QUEUE_COLUMNS) + _AFTER_KEY):
            self._copy(row)

    def is_done(self, queue_id: int, seq: int) -> bool:
        """Return whether an event of a known queue is neither pending nor quarantined."""
        return seq <= self.cursors[queue_id] and seq not in self._quarantined[queue_id]

    def of(self, queue_id: Any, body: bytes) -> int | None:
        """Return the queue id for a row with `queue_id`; None if its device is unknown."""
        if isinstance(queue_id, int) and queue_id in self.cursors:
            return queue_id
        key = _key_of(body)
        if key is None:
            return None
        known = self._by_key.get(key)
        if known is not None:
            return known
        number = (
            queue_id
            if isinstance(queue_id, int) and 0 < queue_id < MAX_QUEUE_ID // 2
            else max(self.cursors, default=0) + 1
        )
        self._add((number, str(key[0]), *key[1:], 0, 0, b"", 0, *(None,) * 7), key)
        return number

    def _copy(self, row: tuple[Any, ...]) -> None:
        queue_id, tenant_id, platform, device_id, cursor, delivered, *rest = row
        with suppress(TypeError, ValueError):
            key = (int(tenant_id), platform, device_id)
            sound = is_sound_queue(QueueRow(queue_id, key, cursor, *rest)) and isinstance(delivered, int)
            if sound and key not in self._by_key:
                self._add(row, key)

    def _add(self, row: tuple[Any, ...], key: DeviceKey) -> None:
        self._new.execute(f"INSERT INTO device_queues({_QUEUE_COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)
        self.cursors[row[0]] = row[4]
        self._quarantined[row[0]] = range((row[-2] or 0) + 1, (row[-1] or 0) + 1)
        self._by_key[key] = row[0]


def _copy_table(old: sqlite3.Connection, new: sqlite3.Connection, table: str, columns: str) -> int:
    """Copy rows of a table whose first column is the key. Return their number."""
    marks = ", ".join("?" * len(columns.split(",")))
    rows = 0
    for row in _readable(old, select_any_version(old, table, columns) + _AFTER_KEY):
        with suppress(sqlite3.IntegrityError, sqlite3.DataError):  # the disk has changed a value
            new.execute(f"INSERT INTO {table}({columns}) VALUES ({marks})", row)
            rows += 1
    return rows


def _copy_log(old: sqlite3.Connection, new: sqlite3.Connection, queues: _Queues) -> tuple[int, int]:
    """Copy pending events. Return (their number, the last seq of the log)."""
    ids = _Ids(new)
    events = last_seq = last_at_ms = uncommitted_bytes = 0
    for seq, *values in _readable(old, select_any_version(old, "log", _LOG_COLUMNS) + _AFTER_KEY):
        last_seq = seq
        queue_id, event_id, at_ms, crc, body = _as_written(values, last_at_ms)
        last_at_ms = at_ms
        number = queues.of(queue_id, body)
        if number is None:
            continue
        if queues.is_done(number, seq):
            ids.add(seq, event_id)
            continue
        new.execute(_INSERT_ROW, (seq, number, event_id, at_ms, crc, body))
        events += 1
        uncommitted_bytes += len(body)
        if uncommitted_bytes > 1 << 20:
            uncommitted_bytes = 0
            new.execute("COMMIT")
            new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            new.execute("BEGIN IMMEDIATE")
    ids.flush()
    return events, last_seq


def _as_written(values: Sequence[Any], last_at_ms: int) -> tuple[Any, bytes, int, int, bytes]:
    """Return the values of a row with their original types. A body of another type gets a wrong checksum."""
    queue_id, event_id, at_ms, crc, body = values
    whole = isinstance(body, bytes) and isinstance(crc, int)
    return (
        queue_id,
        event_id if isinstance(event_id, bytes) and len(event_id) == ID_BYTES else bytes(ID_BYTES),
        at_ms if isinstance(at_ms, int) else last_at_ms,
        crc if whole else -1,
        body if isinstance(body, bytes) else b"",
    )


class _Ids:
    """Ids of settled events, in ranges of seqs, for the dedupe window."""

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
                "INSERT OR REPLACE INTO dedupe_window(first_seq, last_seq, ids, marks) VALUES (?, ?, ?, zeroblob(?))",
                (self._first, self._first + events - 1, bytes(self._run), events),
            )
        self._run.clear()


def _balance(new: sqlite3.Connection, ledger: tuple[Any, ...] | None, events: int, last_seq: int) -> None:
    """Write the old ledger, or, if it is unreadable, a ledger that counts missing events as delivered."""
    letters, letter_bytes = new.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM dead_letters").fetchone()
    by_queues, boot = new.execute(
        "SELECT coalesce(sum(delivered), 0), coalesce(max(boot), 0) FROM device_queues"
    ).fetchone()
    totals, clocks, identity = (None, None, "") if ledger is None else (ledger[:7], ledger[7:12], ledger[12])
    if totals is None or not all(isinstance(value, int) for value in totals):
        totals = (last_seq, 1, 0, max(last_seq - events - letters - by_queues, 0), letters, 0, 0)
    if clocks is None or [type(value) for value in clocks] != [int, str, int, int, int]:
        clocks = (boot + 1, "", 0, 0, 0)
    new.execute(
        f"UPDATE ledger SET ({_LEDGER_COLUMNS}) = (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?),"
        " dead_letters = ?, dead_letter_bytes = ?",
        (
            max(totals[0], last_seq),
            *totals[1:],
            *clocks,
            identity if isinstance(identity, str) else "",
            letters,
            letter_bytes,
        ),
    )


def _readable(old: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    """Return the readable rows in the order of their integer key, the first column.

    `query` returns rows after a key. After an unreadable row, an exponential and then a binary
    search find the next readable row, so that a broken page loses its own rows only.
    """
    after, errors = -1, 0
    while errors < _MAX_ERRORS:
        rows, whole = _some(old, query, after)
        before = after
        for row in _in_order(rows, after):
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


def _in_order(rows: Sequence[tuple[Any, ...]], after: int) -> Iterator[tuple[Any, ...]]:
    """Return rows with increasing keys. A row whose key is out of order gets a free key at its
    place, if any.

    The last row of a full page is omitted; the next query returns it with its successor.
    """
    for at, (key, *values) in enumerate(rows if len(rows) < _ROWS_AT_ONCE else rows[:-1]):
        following = rows[at + 1][0] if at + 1 < len(rows) else key + 1
        place = after + 1
        fits = place <= key and (key < following or following < place)
        if fits or place < following:
            after = key if fits else place
            yield (after, *values)


def _some(old: sqlite3.Connection, query: str, after: int) -> tuple[list[tuple[Any, ...]], bool]:
    """Return (rows after a key, whether no error occurred)."""
    rows: list[tuple[Any, ...]] = []
    try:
        for row in old.execute(query, (after,)):
            rows.append(row)  # noqa: PERF402 - rows before an error are returned
    except _UNREADABLE:
        return rows, False
    return rows, True


def _is_readable(old: sqlite3.Connection, query: str, after: int) -> bool:
    rows, whole = _some(old, query, after)
    return bool(rows) or whole


def _first_readable(old: sqlite3.Connection, query: str) -> tuple[Any, ...] | None:
    try:
        row: tuple[Any, ...] | None = old.execute(query).fetchone()
    except _UNREADABLE:
        return None
    return row


def _key_of(body: bytes) -> DeviceKey | None:
    """Return the device of an event from its body; None if the body is unreadable."""
    try:
        found = msgspec.json.decode(body, type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    tenant_id = whole(found.tenant_id)
    return None if tenant_id is None else (tenant_id, trimmed(found.source.platform), trimmed(found.source.device_id))


def _replace_first_page(broken: Path, new: sqlite3.Connection) -> bytes | None:
    """If the header or the schema is lost, write the first page of a new outbox, whose tables have
    the same root pages.

    Return the original page, which is also stored beside the file until `_restore_first_page`;
    None: no change. Offsets: https://www.sqlite.org/fileformat2.html#the_database_header
    """
    schema_is_gone = _has_lost_its_schema(broken)
    try:
        with broken.open("r+b") as file:
            first = file.read(PAGE_BYTES)
            pages = os.fstat(file.fileno()).st_size // PAGE_BYTES
            if (first.startswith(_MAGIC) and not schema_is_gone) or pages < 2:
                return None
            new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            with Path(new.execute("PRAGMA database_list").fetchone()[2]).open("rb") as fresh:
                replaced = bytearray(fresh.read(PAGE_BYTES))
            files.beside(broken, ".page1").write_bytes(first)
            replaced[28:32] = pages.to_bytes(4)
            replaced[32:40] = bytes(8)
            file.seek(0)
            file.write(replaced)
            return first
    except OSError:
        return None


def _has_lost_its_schema(broken: Path) -> bool:
    """Return whether a name or statement of the schema has changed, so that SQLite does not find a sound table."""
    try:
        with closing(_opened(broken)) as old:
            old.execute("SELECT 1 FROM sqlite_master").fetchone()
            (version,) = old.execute("PRAGMA user_version").fetchone()
            return version == len(MIGRATIONS) and not is_newest(old)
    except UnicodeDecodeError:
        return True
    except sqlite3.Error as error:
        return "malformed database schema" in str(error)


def _restore_first_page(broken: Path, first: bytes) -> None:
    with suppress(OSError), broken.open("r+b") as file:
        file.write(first)
        files.beside(broken, ".page1").unlink()

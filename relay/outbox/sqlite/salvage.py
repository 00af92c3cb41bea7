"""Salvage: copy all readable rows of a broken file into a new file.

Rules: salvage skips unreadable rows, one by one if necessary. Seqs, queue ids and event ids do not change. A row whose
queue is lost goes to the queue of the device in its body. A changed body is copied, too, and detected when it is
claimed. The ledger of the new file is balanced; loading detects events that are missing from the log. Salvage never
writes to the broken file. The duration is limited by the size of the file and the number of unreadable ranges.
"""
# ruff: noqa: S608 - tables and columns are constants, values are bound

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from relay.event.reader import DeviceKey
from relay.event.values import trimmed, whole
from relay.outbox.sqlite import files
from relay.outbox.sqlite.connection import PAGE_BYTES, atomic, connect
from relay.outbox.sqlite.loading import MAX_QUEUE_ID, queue_row
from relay.outbox.sqlite.schema import ID_OF_ROW, is_newest

_COPY = ".salvage-copy"
_MAX_ERRORS = 20_000
_MAX_KEY = 1 << 62
_MAX_TOTAL = 1 << 53
_LEDGER_COLUMNS = (
    "last_seq, next_queue_id, requeued, delivered, dead_lettered, dropped, adopted,"
    " boot, boot_id, outbox_ms, monotonic_ms, wall_ms, identity"
)
_READ_LOG = f"""seq, iif(typeof(queue_id) = 'integer', queue_id, 0),
    {ID_OF_ROW}, iif(typeof(at_ms) = 'integer', at_ms, NULL),
    iif(typeof(crc) = 'integer' AND typeof(body) = 'blob', crc, -1),
    iif(typeof(body) = 'blob', body, x''), iif(typeof(received_crc) = 'integer', received_crc, NULL)"""
"""The columns with their original types. A body of another type gets a wrong checksum."""
_COUNT_PENDING = """
    SELECT count(*) FROM log JOIN device_queues AS q USING (queue_id)
    WHERE seq > q.cursor OR (seq > q.quarantined_after AND seq <= q.quarantined_to)"""
_CORRECT_CURSORS = "UPDATE device_queues SET cursor = coalesce(quarantined_to, 0) WHERE cursor > ?"
"""Otherwise new events would have seqs that count as settled."""

_UNREADABLE = (sqlite3.Error, OverflowError, UnicodeDecodeError)
"""UnicodeDecodeError: a message of SQLite quotes invalid UTF-8."""


class Salvaged(NamedTuple):
    events: int
    """Pending events."""
    dead_letters: int
    queues: int


def salvage(broken: Path, new: sqlite3.Connection) -> Salvaged:
    """Copy the readable rows of `broken` into the new outbox `new`.

    Errors in the content of `broken` raise no exception. Raises OSError or sqlite3.Error if the disk
    has no room, or fails.
    """
    # The new file is not in use: it needs no write-ahead log, and may have the size of the broken file.
    for pragma in ("journal_mode=MEMORY", "cache_spill=ON", f"max_page_count={(1 << 32) - 2}"):
        new.execute(f"PRAGMA {pragma}").fetchall()
    copy = files.beside(broken, _COPY)
    files.remove(copy)
    try:
        with closing(_opened(broken, copy, new)) as old:
            salvaged = _copy_rows(old, new)
    finally:
        files.remove(copy)
    new.execute("PRAGMA journal_mode=WAL").fetchall()
    return salvaged


def _opened(broken: Path, copy: Path, new: sqlite3.Connection) -> sqlite3.Connection:
    """Open the broken file read-only, or, if SQLite cannot read all its tables so, open a copy.

    A copy is necessary if the write-ahead log has commits that SQLite did not copy into the database, or if the first
    page has lost the header or the schema, or has an older schema. In the copy, the first page of a new outbox takes
    its place: the root pages of the tables are always the same. https://www.sqlite.org/fileformat2.html#the_database_header
    """
    if not files.has_log(broken):
        old = sqlite3.connect(f"file:{quote(str(broken.absolute()))}?immutable=1", uri=True, isolation_level=None)
        if _has_schema(old):
            return old
        old.close()
    files.copy(broken, copy)
    old = connect(copy)
    if not _has_schema(old):
        old.close()
        with Path(new.execute("PRAGMA database_list").fetchone()[2]).open("rb") as file:
            first_page = bytearray(file.read(PAGE_BYTES))
        first_page[28:32] = (copy.stat().st_size // PAGE_BYTES).to_bytes(4)
        first_page[32:40] = bytes(8)  # no free pages
        with copy.open("r+b") as file:
            file.write(first_page)
        old = connect(copy)
        old.execute("PRAGMA writable_schema=ON")
    return old


def _has_schema(old: sqlite3.Connection) -> bool:
    """Return whether SQLite finds every table with the columns of the newest version."""
    try:
        old.execute("PRAGMA writable_schema=ON")  # otherwise SQLite rejects a file with missing pages
        return is_newest(old)
    except _UNREADABLE:
        return False


def _copy_rows(old: sqlite3.Connection, new: sqlite3.Connection) -> Salvaged:
    with atomic(new):
        ledger = next(_readable(old, "ledger", f"id, {_LEDGER_COLUMNS}"), None)
        queues = _Queues(old, new)
        letters = _copy_table(old, new, "dead_letters")
        _copy_table(old, new, "dedupe_window")
        last_seq = _copy_log(old, new, queues)
        events = _balance(new, ledger, last_seq)
    return Salvaged(events, letters, len(queues.ids))


class _Queues:
    """The device queues of the new file: the sound queues of the old file, and a new one for each other device."""

    def __init__(self, old: sqlite3.Connection, new: sqlite3.Connection) -> None:
        self.ids: set[int] = set()
        self._by_key: dict[DeviceKey, int] = {}
        self._new = new
        for row in _readable(old, "device_queues"):
            *head, delivered = row[:6]
            with suppress(TypeError, ValueError):
                key = queue_row((*head, *row[6:])).key
                if _is_total(delivered) and key not in self._by_key:
                    self._add(row, key)

    def of(self, queue_id: int, body: bytes) -> int | None:
        """Return the queue id for a row with `queue_id`; None if its device is unknown."""
        if queue_id in self.ids:
            return queue_id
        key = _key_of(body)
        if key is None or key in self._by_key:
            return None if key is None else self._by_key[key]
        number = queue_id if 0 < queue_id < MAX_QUEUE_ID // 2 else max(self.ids, default=0) + 1
        self._add((number, str(key[0]), *key[1:], 0, 0, b"", 0, *(None,) * 8), key)
        return number

    def _add(self, row: tuple[Any, ...], key: DeviceKey) -> None:
        _insert(self._new, "device_queues", row)
        self.ids.add(row[0])
        self._by_key[key] = row[0]


def _copy_table(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> int:
    """Copy rows of a table. Return their number."""
    rows = 0
    for row in _readable(old, table):
        with suppress(sqlite3.IntegrityError, sqlite3.DataError):  # the disk has changed a value
            _insert(new, table, row)
            rows += 1
    return rows


def _copy_log(old: sqlite3.Connection, new: sqlite3.Connection, queues: _Queues) -> int:
    """Copy the events, settled events included. Return the last seq of the log."""
    last_seq = last_at_ms = 0
    for seq, queue_id, event_id, at_ms, crc, body, received_crc in _readable(old, "log", _READ_LOG):
        last_seq, last_at_ms = seq, last_at_ms if at_ms is None else at_ms
        number = queues.of(queue_id, body)
        if number is not None:
            _insert(new, "log", (seq, number, event_id, last_at_ms, crc, body, received_crc))
    return last_seq


def _insert(new: sqlite3.Connection, table: str, row: Sequence[Any]) -> None:
    new.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)


def _balance(new: sqlite3.Connection, ledger: tuple[Any, ...] | None, last_seq: int) -> int:
    """Write the old ledger, or, if it is unreadable, a ledger that counts missing events as delivered.

    Return the number of pending events.
    """
    _, *values = ledger or (None,) * 14
    totals, clocks, identity = values[:7], values[7:12], values[12]
    if all(map(_is_total, totals)):
        last_seq = max(totals[0], last_seq)
    new.execute(_CORRECT_CURSORS, (last_seq,))
    (events,) = new.execute(_COUNT_PENDING).fetchone()
    letters, letter_bytes = new.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM dead_letters").fetchone()
    by_queues, boot = new.execute(
        "SELECT coalesce(sum(delivered), 0), coalesce(max(boot), 0) FROM device_queues"
    ).fetchone()
    if not all(map(_is_total, totals)):
        totals = [last_seq, 1, 0, max(last_seq - events - letters - by_queues, 0), letters, 0, 0]
    if [type(value) for value in clocks] != [int, str, int, int, int]:
        clocks = [boot + 1, "", 0, 0, 0]
    identity = identity if isinstance(identity, str) else ""
    row = (last_seq, *totals[1:], *clocks, identity, letters, letter_bytes)
    columns = f"{_LEDGER_COLUMNS}, dead_letters, dead_letter_bytes"
    new.execute(f"UPDATE ledger SET ({columns}) = ({', '.join('?' * len(row))})", row)
    return int(events)


def _is_total(value: Any) -> bool:
    """Return whether a value can be a total. Sums of larger values overflow SQLite's integers."""
    return isinstance(value, int) and 0 <= value < _MAX_TOTAL


def _readable(old: sqlite3.Connection, table: str, columns: str = "*") -> Iterator[tuple[Any, ...]]:
    """Yield the readable rows of a table in the order of their integer key, the first column.

    Each file that salvage reads has the columns of the newest version, in their order.

    After an unreadable row, an exponential and then a binary search find the next readable row, so
    that a broken page loses its own rows only.
    """
    query = f"SELECT {columns} FROM {table} WHERE rowid > ? ORDER BY rowid"
    after, errors = -1, 0

    def is_readable(after: int) -> bool:
        try:
            old.execute(query, (after,)).fetchone()
        except _UNREADABLE:
            return False
        return True

    while errors < _MAX_ERRORS and after < _MAX_KEY:
        try:
            for row in _in_order(old.execute(query, (after,)), after):
                after = row[0]
                yield row
        except _UNREADABLE:
            errors += 1
        else:
            return
        step = 1
        while step < _MAX_KEY and not is_readable(after + step):
            step *= 2
        between = range(after + step // 2 + 1, after + step)
        after += step // 2 + 1 + bisect_left(between, True, key=is_readable)


def _in_order(rows: Iterator[tuple[Any, ...]], after: int) -> Iterator[tuple[Any, ...]]:
    """Yield rows with increasing keys. A row whose key is out of order gets a free key at its place, if any."""
    row = next(rows, None)
    while row is not None:
        key, *values = row
        error: Exception | None = None
        try:
            row = next(rows, None)
        except _UNREADABLE as raised:
            row, error = None, raised
        following = key + 1 if row is None else row[0]
        place = after + 1
        fits = place <= key and (key < following or following < place)
        if fits or place < following:
            after = key if fits else place
            yield (after, *values)
        if error is not None:
            raise error


def _key_of(body: bytes) -> DeviceKey | None:
    """Return the device of an event from its body; None if the body is unreadable."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError, LookupError, TypeError, AttributeError):
        event = msgspec.json.decode(body)
        tenant_id, source = whole(event["tenant_id"]), event["source"]
        if tenant_id is not None:
            return tenant_id, trimmed(source["platform"]), trimmed(source["device_id"])
    return None

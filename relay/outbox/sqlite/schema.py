"""The tables of the outbox, and the migrations from older versions.

Rules: each version has one migration, which runs in its own transaction, so that the next start resumes after a kill.
`MIGRATIONS[n]` leads to user_version n + 1. `recovery` rejects a file of a newer relay before it is migrated. A
migration adds or renames columns and does not move a table to another root page, because `salvage` reads a file of any
version with the newest schema.

The log is append-only: a row is inserted once and deleted, never updated. An event is pending if its row exists and its
seq is larger than the cursor of its device queue, or if it is quarantined. `accepted + requeued` is the last seq minus
`adopted`, so that an append updates no counter. The other totals are the sums of the ledger's row and of `delivered` of
the device queues.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

from relay.outbox.sqlite.connection import atomic

ID_OF_ROW = "iif(typeof(event_id) = 'blob' AND length(event_id) = 16, event_id, zeroblob(16))"
"""The event id of a row of the log; zeros if the disk has changed it."""
CHECK_OF_ROW = "(CAST(iif(received_crc = 0, crc, coalesce(received_crc, 0)) AS INTEGER) & 4294967295)"
"""The check of a row of the log, see Event.check; 0 if it is unknown."""

_VERSION_1 = (
    """CREATE TABLE log(
        seq INTEGER PRIMARY KEY,
        lane INTEGER NOT NULL,
        event_id BLOB NOT NULL,     -- 16 bytes
        at_ms INTEGER NOT NULL,     -- outbox time of the append
        crc INTEGER NOT NULL,       -- of body, see relay.outbox.engine.checksum
        body BLOB NOT NULL)""",
    """CREATE TABLE lanes(
        lane INTEGER PRIMARY KEY,
        tenant_id TEXT NOT NULL,
        platform TEXT NOT NULL,
        device_id TEXT NOT NULL,
        cursor INTEGER NOT NULL,    -- every seq of the queue up to here is settled
        delivered INTEGER NOT NULL DEFAULT 0,
        window BLOB NOT NULL DEFAULT x'',
        boot INTEGER NOT NULL DEFAULT 0,    -- ledger.boot when window was written
        request INTEGER,            -- the journal: the request that is in flight,
        ordinal INTEGER,            -- the position of this queue in the request,
        first_seq INTEGER,          -- and the range of seqs whose pending events it contains
        last_seq INTEGER)""",
    """CREATE TABLE ledger(
        id INTEGER PRIMARY KEY CHECK (id = 1),
        last_seq INTEGER NOT NULL DEFAULT 0,    -- a lower bound; the log may contain later rows
        next_lane INTEGER NOT NULL DEFAULT 1,   -- a lower bound; no number is used twice
        requeued INTEGER NOT NULL DEFAULT 0,
        delivered INTEGER NOT NULL DEFAULT 0,   -- by device queues that were forgotten
        dead_lettered INTEGER NOT NULL DEFAULT 0,
        dropped INTEGER NOT NULL DEFAULT 0,
        dead_letters INTEGER NOT NULL DEFAULT 0,        -- stored now
        dead_letter_bytes INTEGER NOT NULL DEFAULT 0,   -- of their bodies
        clean INTEGER NOT NULL DEFAULT 1,       -- 0 while a relay runs
        boot INTEGER NOT NULL DEFAULT 0,        -- number of boots of the machine so far
        boot_id TEXT NOT NULL DEFAULT '',
        outbox_ms INTEGER NOT NULL DEFAULT 0,
        monotonic_ms INTEGER NOT NULL DEFAULT 0,
        wall_ms INTEGER NOT NULL DEFAULT 0)""",
    "INSERT INTO ledger(id) VALUES (1)",
    """CREATE TABLE dead_letters(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        seq INTEGER NOT NULL,
        event_id BLOB NOT NULL,
        tenant_id TEXT NOT NULL,
        platform TEXT NOT NULL,
        device_id TEXT NOT NULL,
        reason TEXT NOT NULL,
        status INTEGER,
        words TEXT NOT NULL,
        dead_at_ms INTEGER NOT NULL,    -- wall clock
        crc INTEGER NOT NULL,
        body BLOB NOT NULL)""",
    """CREATE TABLE recent(             -- ids of rows that were deleted from the log
        first_seq INTEGER PRIMARY KEY,
        last_seq INTEGER NOT NULL,
        ids BLOB NOT NULL,              -- 16 bytes a seq
        marks BLOB NOT NULL)            -- a byte a seq, see relay.outbox.engine.dedupe_window""",
)

MIGRATIONS: Sequence[Sequence[str]] = (
    _VERSION_1,
    (
        "ALTER TABLE lanes ADD COLUMN shift_ms INTEGER",  # time shift of the request in the journal, see Outbox.claim
        "ALTER TABLE ledger ADD COLUMN boot_from_ms INTEGER",  # outbox time when the boot began
    ),
    # The rows of a device queue with quarantined_after < seq <= quarantined_to are quarantined, although its cursor is
    # larger. `adopted` counts rows that were appended a second time; the last seq counts them, too.
    (
        "ALTER TABLE ledger ADD COLUMN identity TEXT NOT NULL DEFAULT ''",  # of the machine that owns the outbox
        "ALTER TABLE ledger ADD COLUMN adopted INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE lanes ADD COLUMN quarantined_after INTEGER",
        "ALTER TABLE lanes ADD COLUMN quarantined_to INTEGER",
    ),
    # The checksum of the event as received distinguishes a repetition from another event with the same id. Both columns
    # are NULL in rows of an older relay.
    (
        "ALTER TABLE log ADD COLUMN received_crc INTEGER",  # CRC-32 of the received bytes, 0 if it equals `crc`
        "ALTER TABLE recent ADD COLUMN checks BLOB",  # 4 bytes a seq
    ),
    (  # the vocabulary of the code; SQLite changes the schema only, and no row
        "ALTER TABLE lanes RENAME TO device_queues",
        "ALTER TABLE recent RENAME TO dedupe_window",
        "ALTER TABLE log RENAME COLUMN lane TO queue_id",
        "ALTER TABLE device_queues RENAME COLUMN lane TO queue_id",
        "ALTER TABLE device_queues RENAME COLUMN window TO rate_window",
        "ALTER TABLE ledger RENAME COLUMN next_lane TO next_queue_id",
        "ALTER TABLE dead_letters RENAME COLUMN words TO message",
    ),
    ("ALTER TABLE device_queues ADD COLUMN omitted BLOB",),  # part of the journal entry, see stored_queue.packed
    ("CREATE INDEX dead_letters_by_event ON dead_letters(event_id)",),  # apps look up their events
)


def migrate(database: sqlite3.Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Bring the file to the newest version, one migration per transaction."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    for number in range(version, len(migrations)):
        with atomic(database):
            for statement in (*migrations[number], f"PRAGMA user_version={number + 1}"):
                database.execute(statement)


def is_newest(database: sqlite3.Connection) -> bool:
    """Return whether every table has the columns of the newest version. A flipped bit may have renamed one."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        migrate(made)
        return _columns(made) <= _columns(database)


def _columns(database: sqlite3.Connection) -> set[tuple[str, int, str]]:
    columns = "SELECT m.name, c.cid, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c"
    return set(database.execute(f"{columns} WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'"))


def statements() -> list[str]:
    """Return the SQL of the newest version's tables."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        migrate(database)
        return [
            sql for (sql,) in database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
        ]

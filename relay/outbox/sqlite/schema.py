"""The tables, and how a file of an older relay becomes one of this.

Rules: one migration per version, each in a transaction of its own, so that a kill in between
resumes; `migrations[n]` leads to user_version n + 1. A file of a newer relay never gets here.

The log is append-only: a row is written once and deleted, never updated. An event is pending if
its row exists and its seq is beyond its lane's cursor, or if it is quarantined. `accepted + requeued` is the last
seq minus `adopted`, so that an append writes no counter; the other totals are the ledger row plus the lanes'
`delivered`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing

Migration = Callable[[sqlite3.Connection], None]

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
        cursor INTEGER NOT NULL,    -- what is done: every seq of the lane up to here
        delivered INTEGER NOT NULL DEFAULT 0,
        window BLOB NOT NULL DEFAULT x'',
        boot INTEGER NOT NULL DEFAULT 0,    -- ledger.boot when window was written
        request INTEGER,            -- the journal: which request is in flight, which part of it is this,
        ordinal INTEGER,
        first_seq INTEGER,          -- and what it holds: the pending events of first_seq..last_seq
        last_seq INTEGER)""",
    """CREATE TABLE ledger(
        id INTEGER PRIMARY KEY CHECK (id = 1),
        last_seq INTEGER NOT NULL DEFAULT 0,    -- at least; the log's last row may be later
        next_lane INTEGER NOT NULL DEFAULT 1,   -- at least; a lane's number is not used twice
        requeued INTEGER NOT NULL DEFAULT 0,
        delivered INTEGER NOT NULL DEFAULT 0,   -- by lanes since forgotten
        dead_lettered INTEGER NOT NULL DEFAULT 0,
        dropped INTEGER NOT NULL DEFAULT 0,
        dead_letters INTEGER NOT NULL DEFAULT 0,        -- kept now
        dead_letter_bytes INTEGER NOT NULL DEFAULT 0,   -- of their bodies
        clean INTEGER NOT NULL DEFAULT 1,       -- 0 while a relay runs
        boot INTEGER NOT NULL DEFAULT 0,        -- counts the boots the outbox has seen
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
    """CREATE TABLE recent(             -- ids of rows no longer in the log, for the dedupe window
        first_seq INTEGER PRIMARY KEY,
        last_seq INTEGER NOT NULL,
        ids BLOB NOT NULL,              -- 16 bytes a seq
        marks BLOB NOT NULL)            -- a byte a seq, see relay.outbox.engine.dedupe_window""",
)


def _version_1(database: sqlite3.Connection) -> None:
    for statement in _VERSION_1:
        database.execute(statement)


def _version_2(database: sqlite3.Connection) -> None:
    """The time that events were sent with, see Outbox.take: part of the journal; and when this boot began."""
    database.execute("ALTER TABLE lanes ADD COLUMN shift_ms INTEGER")
    database.execute("ALTER TABLE ledger ADD COLUMN boot_from_ms INTEGER")


def _version_3(database: sqlite3.Connection) -> None:
    """Quarantined events: the machine that the outbox belongs to, and what a clone must not send.

    The rows of a lane with quarantined_after < seq <= quarantined_to are quarantined although its cursor is beyond
    them. `adopted` counts rows that were appended a second time, which the last seq counts, too.
    """
    database.execute("ALTER TABLE ledger ADD COLUMN identity TEXT NOT NULL DEFAULT ''")
    database.execute("ALTER TABLE ledger ADD COLUMN adopted INTEGER NOT NULL DEFAULT 0")
    database.execute("ALTER TABLE lanes ADD COLUMN quarantined_after INTEGER")
    database.execute("ALTER TABLE lanes ADD COLUMN quarantined_to INTEGER")


def _version_4(database: sqlite3.Connection) -> None:
    """The checksum of an event as received, which tells another event with its id from a repetition.

    `received_crc` is the CRC-32 of these bytes, 0 where it is `crc`, and NULL in rows of an older relay. `checks` are 4
    bytes a seq, and NULL likewise.
    """
    database.execute("ALTER TABLE log ADD COLUMN received_crc INTEGER")
    database.execute("ALTER TABLE recent ADD COLUMN checks BLOB")


MIGRATIONS: Sequence[Migration] = (_version_1, _version_2, _version_3, _version_4)


def migrate(database: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the file to the newest version."""
    version = database.execute("PRAGMA user_version").fetchone()[0]
    for number in range(version, len(migrations)):
        database.execute("BEGIN IMMEDIATE")
        try:
            migrations[number](database)
            database.execute(f"PRAGMA user_version={number + 1}")
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


def is_newest(database: sqlite3.Connection) -> bool:
    """Whether every table has the columns of the newest version: a flipped bit may have renamed one."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        migrate(made)
        return _columns(made) <= _columns(database)


def _columns(database: sqlite3.Connection) -> set[tuple[str, int, str]]:
    columns = "SELECT m.name, c.cid, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c"
    return set(database.execute(f"{columns} WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'"))


def statements() -> list[str]:
    """The tables of the newest version as SQL, for people."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        migrate(database)
        return [
            sql for (sql,) in database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
        ]

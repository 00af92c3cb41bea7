"""Opening an outbox whatever its file looks like: checked, mended, or set aside and salvaged.

Owns the decision that a file is broken. Rules: one SQLITE_CORRUPT proves nothing (a dying file
system answers so too), so a file is opened twice before it is set aside; a broken file is renamed,
never deleted; a newer relay's file, or somebody else's, is refused and not touched, and so is a
broken one where whoever opens it only looks (`Mending.allowed`).

What is checked: schema, both ends of the log, that the file is as long as it says, and that every
value of lanes and ledger can be what it is; all of it by `quick_check` only after an unclean end and
up to 64 MiB, or when SQLITE_CORRUPT was met before. A full backlog of 440 MB would take seconds to
check, and its bodies have their checksums anyway. What loading finds wrong comes here by `condemned`.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import structlog

from relay.config import OutboxSettings
from relay.outbox import OutboxUnusable
from relay.outbox.engine.dedupe_window import REMEMBERED_BYTES
from relay.outbox.sqlite import files
from relay.outbox.sqlite.connection import PAGE_BYTES, configure, connect
from relay.outbox.sqlite.loading import Broken, Opened, read_opened, read_totals
from relay.outbox.sqlite.quarantine import InstallationClaim, claim
from relay.outbox.sqlite.salvage import Salvaged, salvage
from relay.outbox.sqlite.schema import MIGRATIONS, is_newest, migrate
from relay.outbox.sqlite.transaction import checkpoint

_log = structlog.get_logger("relay.outbox")

_FRESH = ".salvaging"
_CHECKED_BYTES = 64 << 20
_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_IDS_SHARE = 4
"""Remembered ids take no more than so small a part of the file."""
_UNDECODABLE = "Could not decode to UTF-8"
"""What the sqlite3 module says of a text that is none; it has no error code."""


def broken(path: Path, reason: str) -> OutboxUnusable:
    """What whoever may not mend it is told."""
    return OutboxUnusable(f"{path} is broken ({reason}): start the relay, it sets the file aside and keeps what it can")


@dataclass(slots=True)
class Recovery:
    """How to open, and what came of it; filled in on the connection's thread."""

    path: Path
    settings: OutboxSettings
    wal_bytes: int
    boot_id: str
    suspect: bool = False
    """SQLITE_CORRUPT was met since the file was last opened."""
    condemned: str = ""
    """What was found wrong since then that no check of SQLite sees."""
    allowed: bool = True
    """Whether a broken file may be set aside; else it is refused."""
    owner: InstallationClaim | None = None
    """The machine that opens the outbox; None: the outbox stays the machine's that it belongs to."""
    was_moved: bool = False
    """Whether the outbox belonged to another machine."""
    opened: Opened | None = None
    set_aside: Path | None = None


def is_broken(error: BaseException) -> bool:
    """Whether an error speaks of the file's content, not of the disk or of our own statements.

    A UnicodeDecodeError is the sqlite3 module's: SQLite's words quote a name of the schema that is
    no text any more.
    """
    return isinstance(error, Broken | UnicodeDecodeError) or (
        isinstance(error, sqlite3.Error)
        and (getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN or _UNDECODABLE in str(error))
    )


def open_recovered(recovery: Recovery) -> sqlite3.Connection:
    """An open, sound outbox; `mending.opened` says what it holds. sqlite3.Error or OSError if the disk fails."""
    reason = recovery.condemned
    for _ in range(0 if reason else 2):
        try:
            return _open_sound(recovery)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if not is_broken(error):
                raise
            reason = str(error)
    if not recovery.allowed:
        raise broken(recovery.path, reason)
    _replace(recovery, reason)
    return _open_sound(recovery)


def _replace(recovery: Recovery, reason: str) -> None:
    """Salvage into a new file, set the broken one aside, and put the new one in its place.

    In this order, so that a kill in between loses nothing: the old file is still there, or the new
    one is complete.
    """
    fresh = files.beside(recovery.path, _FRESH)
    try:
        salvaged = _salvaged(recovery, fresh)
    except BaseException:
        files.remove(fresh)
        raise
    recovery.set_aside = files.set_aside(recovery.path)
    files.rename(fresh, recovery.path)
    recovery.suspect, recovery.condemned = False, ""
    _log.error("outbox set aside", file=str(recovery.set_aside), reason=reason, **salvaged._asdict())


def _salvaged(recovery: Recovery, fresh: Path) -> Salvaged:
    """Fill a new file; an empty one, if what was salvaged is broken too: else each start would set one more aside."""
    files.remove(fresh)
    with closing(_open(recovery, fresh)) as database:
        salvaged = salvage(recovery.path, database)
        try:
            _read(database, recovery)
            return salvaged
        except sqlite3.Error as error:
            if not is_broken(error):
                raise
            _log.error("what was salvaged is broken too", reason=str(error))
    files.remove(fresh)
    _open(recovery, fresh).close()
    return Salvaged(0, 0, 0)


def _open_sound(recovery: Recovery) -> sqlite3.Connection:
    fresh = files.beside(recovery.path, _FRESH)
    if files.identity(recovery.path) is None and files.identity(fresh) is not None:
        files.rename(fresh, recovery.path)  # a kill came just before it
    database = _open(recovery, recovery.path)
    try:
        _check(database, recovery)
        if recovery.owner is not None:
            recovery.was_moved |= claim(database, recovery.owner)
        recovery.opened = _read(database, recovery)
    except BaseException:
        database.close()
        raise
    return database


def _read(database: sqlite3.Connection, recovery: Recovery) -> Opened:
    # ids of deleted rows take room in the file, and a small one that was full of them could take nothing else
    most = recovery.settings.max_size_bytes // _IDS_SHARE // REMEMBERED_BYTES
    try:
        return read_opened(database, recovery.boot_id, min(recovery.settings.dedupe_window, most))
    except (TypeError, ValueError, OverflowError, LookupError) as error:
        raise Broken(f"a value that was never written: {error}") from error
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR:  # no such table, no such column
            raise Broken(str(error)) from error
        raise


def _open(recovery: Recovery, path: Path) -> sqlite3.Connection:
    files.create(path, recovery.path)
    database = connect(path)
    try:
        _recognise(database, path)
        files.make_private(path)
        if files.identity(log := files.beside(path, "-wal")) is not None:
            files.make_private(log)  # SQLite gave it the mode that the database had
        settings = recovery.settings
        configure(database, settings.durability, settings.max_size_bytes, recovery.wal_bytes)
        migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def _recognise(database: sqlite3.Connection, path: Path) -> None:
    """Refuse a database that is not an outbox, before anything is written to it."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version > len(MIGRATIONS):
        raise OutboxUnusable(
            f"{path} was written by a newer relay (schema {version}, this one knows {len(MIGRATIONS)}): "
            "install that relay again, or set outbox.path to another file"
        )
    if version == 0 and {"log", "ledger"} <= tables:
        raise Broken("the schema's version is lost")
    if version == 0 and tables:
        raise OutboxUnusable(f"{path} is a database, but not an outbox: set outbox.path to another file")


def _check(database: sqlite3.Connection, recovery: Recovery) -> None:
    try:
        checkpoint(database)  # the log's file keeps its size, see `wal`
        row = database.execute("SELECT clean FROM ledger").fetchone()
        if row is None:
            raise Broken("the ledger is missing")
        if not is_newest(database):
            raise Broken("a table has lost a column")
        read_totals(database)
        database.execute("SELECT * FROM log ORDER BY seq LIMIT 1").fetchone()
        database.execute("SELECT * FROM log ORDER BY seq DESC LIMIT 1").fetchone()
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        size_bytes = recovery.path.stat().st_size
        if size_bytes < pages * PAGE_BYTES:
            raise Broken(f"the file is shorter than its {pages} pages")
        if recovery.suspect or (not row[0] and size_bytes <= _CHECKED_BYTES):
            (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise Broken(verdict)
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR:  # no such table, no such column
            raise Broken(str(error)) from error
        raise

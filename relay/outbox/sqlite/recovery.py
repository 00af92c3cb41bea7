"""Opening an outbox: check the file, and if it is broken, quarantine it and salvage its rows.

Rules: one SQLITE_CORRUPT is no proof, because a failing file system causes it, too. So a file is opened twice before it
is quarantined. A broken file is renamed, never deleted. A file of a newer relay or of another program is rejected and
not changed. The same applies to a broken file if the caller does not allow repairs (`Recovery.allowed`).

Opening checks the schema, both ends of the log, the length of the file, and every value of the device queues and the
ledger. It runs `quick_check` only after an unclean stop, for files up to 64 MiB, or after an SQLITE_CORRUPT. Checking a
full backlog of 440 MB would take seconds, and the bodies have checksums. `Recovery.condemned` contains errors that
loading has found.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import structlog

from relay.config import OutboxSettings
from relay.outbox import MayForget, OutboxUnusable
from relay.outbox.engine.dedupe_window import REMEMBERED_BYTES
from relay.outbox.engine.storage import Opened
from relay.outbox.sqlite import files
from relay.outbox.sqlite.connection import PAGE_BYTES, Database, checkpoint, configure, connect
from relay.outbox.sqlite.loading import Broken, forget_free, read_opened
from relay.outbox.sqlite.quarantine import InstallationClaim, claim
from relay.outbox.sqlite.salvage import Salvaged, salvage
from relay.outbox.sqlite.schema import MIGRATIONS, is_newest, migrate

_log = structlog.get_logger("relay.outbox")

_FRESH = ".salvaging"
_CHECKED_BYTES = 64 << 20
_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_IDS_SHARE = 4
"""Stored ids of the dedupe window use at most this part of the file: 1 / _IDS_SHARE."""
_UNDECODABLE = "Could not decode to UTF-8"
"""The message of the sqlite3 module for invalid UTF-8. The error has no code."""


def broken(path: Path, reason: str) -> OutboxUnusable:
    """Return the error for a caller that does not allow repairs."""
    return OutboxUnusable(
        f"{path} is broken ({reason}): start the relay, it moves the file aside and salvages its events"
    )


@dataclass(slots=True)
class Recovery:
    """Parameters and results of opening a file. The thread of the connection sets the results."""

    settings: OutboxSettings
    wal_bytes: int
    boot_id: str
    suspect: bool = False
    """Whether SQLITE_CORRUPT occurred since the file was last opened."""
    condemned: str = ""
    """An error in the content that SQLite's checks do not detect; "" if none is known."""
    allowed: bool = True
    """Whether a broken file may be quarantined; otherwise opening raises OutboxUnusable."""
    owner: InstallationClaim | None = None
    """The machine that opens the outbox; None: the owner does not change."""
    may_forget: MayForget | None = None
    """See Outbox.open."""
    was_moved: bool = False
    """Result: whether the outbox belonged to another machine."""
    opened: Opened | None = None
    """Result: the content of the file."""
    set_aside: Path | None = None
    """Result: the new path of a quarantined file."""


def is_broken(error: BaseException) -> bool:
    """Return whether an error means broken content, not a failing disk or a wrong statement.

    The sqlite3 module raises UnicodeDecodeError if a message of SQLite quotes a name with invalid UTF-8.
    """
    return isinstance(error, Broken | UnicodeDecodeError) or (
        isinstance(error, sqlite3.Error)
        and (getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN or _UNDECODABLE in str(error))
    )


def open_recovered(recovery: Recovery) -> Database:
    """Open a sound outbox, and set the results in `recovery`. Raise sqlite3.Error or OSError if the disk fails."""
    path, reason = recovery.settings.path, recovery.condemned
    for _ in range(0 if reason else 2):
        try:
            return _open_sound(recovery)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if not is_broken(error):
                raise
            reason = str(error)
    if not recovery.allowed:
        raise broken(path, reason)
    fresh = files.beside(path, _FRESH)
    try:
        salvaged = _salvaged(recovery, fresh)
    except BaseException:
        files.remove(fresh)
        raise
    # A kill loses nothing: either the old file is in its place, or the new file is complete.
    recovery.set_aside = files.set_aside(path)
    files.rename(fresh, path)
    recovery.suspect, recovery.condemned = False, ""
    _log.error("outbox set aside", file=str(recovery.set_aside), reason=reason, **salvaged._asdict())
    return _open_sound(recovery)


def _salvaged(recovery: Recovery, fresh: Path) -> Salvaged:
    """Salvage into a new file. If a defect of salvage makes that unusable, too, create an empty file.

    Otherwise each attempt to open the outbox would write the whole file again.
    """
    for fill in (salvage, lambda *_: Salvaged(0, 0, 0)):
        files.remove(fresh)
        with closing(_connect(recovery, fresh)) as database:
            _prepare(database, recovery, fresh)
            salvaged = fill(recovery.settings.path, database)
            try:
                _read(database, recovery)
                break
            except Broken as error:
                _log.error("salvaged outbox file is broken", reason=str(error))
    return salvaged


def _open_sound(recovery: Recovery) -> Database:
    path = recovery.settings.path
    fresh = files.beside(path, _FRESH)
    if files.identity(path) is None and files.identity(fresh) is not None:
        files.rename(fresh, path)  # a kill has prevented it
    database = _connect(recovery, path)
    try:
        _prepare(database, recovery, path)
        _check(database, recovery)
        if recovery.owner is not None:
            recovery.was_moved |= claim(database, recovery.owner)
        if recovery.may_forget is not None:
            forget_free(database, recovery.boot_id, recovery.settings.dedupe_window, recovery.may_forget)
        _read(database, recovery)
    except BaseException:
        database.close()
        raise
    return database


def _connect(recovery: Recovery, path: Path) -> Database:
    files.create(path, recovery.settings.path)
    return connect(path)


def _prepare(database: sqlite3.Connection, recovery: Recovery, path: Path) -> None:
    """Set permissions and PRAGMAs, and migrate. Reject a database that is not an outbox, before any write."""
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
    files.make_private(path)
    if files.identity(log := files.beside(path, "-wal")) is not None:
        files.make_private(log)  # SQLite gave it the previous mode of the database
    configure(database, recovery.settings.durability, recovery.settings.max_size_bytes, recovery.wal_bytes)
    migrate(database)


def _check(database: sqlite3.Connection, recovery: Recovery) -> None:
    """Raise Broken or sqlite3.Error if the file does not have the pages and columns of a sound outbox."""
    checkpoint(database)  # the file of the log keeps its size, see `wal`
    if not is_newest(database):
        raise Broken("a column is missing")
    ledger = database.execute("SELECT clean FROM ledger").fetchone()
    if ledger is None:
        raise Broken("the ledger is missing")
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    size_bytes = recovery.settings.path.stat().st_size
    if size_bytes < pages * PAGE_BYTES:
        raise Broken(f"the file is shorter than its {pages} pages")
    if recovery.suspect or (not ledger[0] and size_bytes <= _CHECKED_BYTES):
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise Broken(verdict)


def _read(database: sqlite3.Connection, recovery: Recovery) -> None:
    """Read the content into `recovery.opened`. Raise Broken if a value or a table is wrong."""
    # Ids of deleted rows must not fill a small file.
    max_ids = recovery.settings.max_size_bytes // _IDS_SHARE // REMEMBERED_BYTES
    try:
        recovery.opened = read_opened(database, recovery.boot_id, min(recovery.settings.dedupe_window, max_ids))
    except (TypeError, ValueError, OverflowError, LookupError) as error:
        raise Broken(f"a value has a wrong type or range: {error}") from error
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR:  # an integer overflow
            raise Broken(str(error)) from error
        raise

"""The files of the outbox: creation, lock, permissions, and quarantine of a broken file.

Rules: the database is a regular file of mode 0600, and no symbolic link is followed. The relay
locks `<name>.lock` before it uses another file. A broken file is renamed, never deleted. A file
that root creates gets the owner of the database, because otherwise a relay without root's rights
could not open it. This module does not read the files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from pathlib import Path

import structlog

from relay.outbox import OutboxLocked, OutboxUnusable
from relay.outbox.sqlite.disk_errors import FIXED_MODES, FIXED_OWNERS, LOCK_HELD, UNSYNCED_DIRECTORIES
from relay.runtime.flush import flush

_log = structlog.get_logger("relay.outbox")

_COPIED_BYTES = 1 << 20
_LOGS = ("-wal", "-journal")
"""Logs that SQLite reads and applies to the database when it opens it."""


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file beside the database: outbox.db -> outbox.db<suffix>."""
    return path.with_name(path.name + suffix)


Identity = tuple[int, int]
"""Device and inode of the open file. Data written to a replaced or deleted file would be lost."""


def identity(path: Path) -> Identity | None:
    """Return the identity of a file; None if it does not exist. Raise OSError if the disk fails."""
    status = _status(path)
    return None if status is None else (status.st_dev, status.st_ino)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _owner(database: Path) -> os.stat_result:
    """Return the status with the owner of the database, or of its directory if it does not exist."""
    return _status(database) or database.parent.stat()


def lock(path: Path) -> int:
    """Make the directory, take the lock and return the descriptor that holds it.

    Raises OutboxLocked if another process holds the lock. Raises OutboxUnusable if this user cannot
    use the path or the file system cannot lock files.
    """
    try:
        _make_directory(path.parent)
        name = beside(path, ".lock")
        fd = _open_private(name, path)
    except OSError as error:
        raise OutboxUnusable(f"outbox.path {path}: {error.strerror}: {error.filename}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno not in LOCK_HELD:
            raise OutboxUnusable(
                f"outbox.path {path}: the file system cannot lock {name} ({error.strerror}):"
                " set outbox.path to a file on a local disk"
            ) from error
        raise OutboxLocked(f"another relay, or a `relay dead` command, holds {path} (its lock: {name})") from error
    return fd


def unlock(fd: int) -> None:
    """Release the lock. The lock file stays: if it was deleted, two relays could lock two files of the same name."""
    os.close(fd)


def create(path: Path, stands_for: Path | None = None) -> None:
    """Create the database file if it is missing, mode 0600.

    `stands_for`: the database that it will replace. Raises OutboxUnusable if the path names no
    regular file, or if another user may have written the log beside it: SQLite would apply what
    that user wrote.
    """
    for suffix in ("", *_LOGS):
        name = beside(path, suffix)
        status = _status(name)
        if status is None:
            continue
        if not stat.S_ISREG(status.st_mode):
            what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no regular file"
            raise OutboxUnusable(f"{name} is {what}: set outbox.path to the file itself")
        if suffix and (why := _distrusted(path, status)):
            raise OutboxUnusable(f"{name} {why}, or move the file away if you do not know it")
    os.close(_open_private(path, stands_for or path))


def _distrusted(path: Path, log: os.stat_result) -> str:
    """Return why the relay does not read a log beside the database, and what to do; "" if it reads it."""
    owner = _owner(path)
    if log.st_uid not in {0, os.geteuid(), owner.st_uid}:
        return f"belongs to user {log.st_uid}, the outbox to user {owner.st_uid}: change its owner"
    if log.st_mode & stat.S_IWOTH and not _has_fixed_modes(path):
        return f"can be written by every user (mode {stat.S_IMODE(log.st_mode):o}): set its mode to 600"
    return ""


def _has_fixed_modes(path: Path) -> bool:
    """Return whether the file system ignores modes: the relay created its lock file with mode 0600."""
    lock = _status(beside(path, ".lock"))
    return lock is not None and lock.st_uid == os.geteuid() and bool(lock.st_mode & stat.S_IWOTH)


def _open_private(path: Path, database: Path) -> int:
    """Open a file, or create it with mode 0600. A file that root creates gets the owner of the database.

    The owner of an existing file does not change, because the file may be a hard link to any file of the system.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    owner = _owner(database) if os.geteuid() == 0 else None
    try:
        fd = os.open(path, flags | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags, 0o600)
    if owner is not None:
        try:
            os.fchown(fd, owner.st_uid, owner.st_gid)
        except OSError as error:
            if error.errno not in FIXED_OWNERS:
                os.close(fd)
                raise
    return fd


def make_private(path: Path) -> None:
    """Set mode 0600 on a file of the relay; SQLite gives its -wal the same mode. Log a warning if
    modes are fixed.

    It opens no descriptor for fchmod(2). Closing any descriptor of the database would release SQLite's
    locks (fcntl(2)). Another program could then open the file while the relay runs, and delete the
    -wal when it closes it.
    """
    try:
        os.chmod(path, 0o600, follow_symlinks=False)
    except NotImplementedError as error:  # Python's form of EOPNOTSUPP in a call that follows no link
        _log.warning("outbox file mode not set", path=str(path), reason=str(error))
    except OSError as error:
        if error.errno not in FIXED_MODES:
            raise
        _log.warning("outbox file mode not set", path=str(path), reason=error.strerror)


def set_aside(path: Path) -> Path:
    """Rename the database and its -wal to the first free `<name>.broken-<n>`. Return the new path."""
    number = 1
    while identity(aside := beside(path, f".broken-{number}")) is not None:
        number += 1
    # The -wal is first: a kill between the two leaves a database without its last commits, which is broken anyway.
    for suffix in ("-wal", ""):
        if identity(beside(path, suffix)) is not None:
            beside(path, suffix).rename(beside(aside, suffix))
    _sync_directory(path.parent)
    return aside


def rename(old: Path, new: Path) -> None:
    old.rename(new)
    _sync_directory(new.parent)


def has_log(path: Path) -> bool:
    """Return whether a -wal beside the database may contain commits."""
    log = _status(beside(path, "-wal"))
    return log is not None and log.st_size > 0


def copy(path: Path, new: Path) -> None:
    """Copy the database and its -wal, mode 0600. Raise OSError, before any write if the disk has too little space."""
    suffixes = ("", "-wal") if has_log(path) else ("",)
    if sum(beside(path, suffix).stat().st_size for suffix in suffixes) > shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(new))
    for suffix in suffixes:
        copied = _open_private(beside(new, suffix), path)
        with beside(path, suffix).open("rb") as reading, os.fdopen(copied, "wb") as writing:
            shutil.copyfileobj(reading, writing, _COPIED_BYTES)


def remove(path: Path) -> None:
    """Delete a temporary database and its -wal."""
    for suffix in ("", "-wal"):
        beside(path, suffix).unlink(missing_ok=True)


def _make_directory(directory: Path) -> None:
    missing = [directory, *directory.parents]
    for each in reversed([each for each in missing if not each.exists()]):
        each.mkdir(mode=0o700, exist_ok=True)
        _sync_directory(each.parent)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flush(fd)
    except OSError as error:
        if error.errno not in UNSYNCED_DIRECTORIES:
            raise
        _log.warning("directory not synced", path=str(directory), reason=error.strerror)
    finally:
        os.close(fd)

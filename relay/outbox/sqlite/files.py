"""The outbox's files: made private, locked, recognised, set aside.

Rules: the database is one regular file of mode 0600, never reached through a symbolic link;
`<name>.lock` is flocked before anything else is touched; a broken file is renamed, never deleted;
what root creates belongs to whom the database belongs, or a relay without root's rights could not open it.
Knows nothing of what is inside.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import NamedTuple

import structlog

from relay.outbox import OutboxLocked, OutboxUnusable
from relay.outbox.sqlite.disk_errors import FIXED_MODES, FIXED_OWNERS, LOCK_HELD, UNSYNCED_DIRECTORIES

_log = structlog.get_logger("relay.outbox")

_LOGS = ("-wal", "-journal")
"""What SQLite reads before the database, and applies to it."""


def beside(path: Path, suffix: str) -> Path:
    """outbox.db -> outbox.db<suffix>."""
    return path.with_name(path.name + suffix)


class Identity(NamedTuple):
    """Which file is open; what is written to another one, or to an unlinked one, is lost."""

    device: int
    inode: int


def identity(path: Path) -> Identity | None:
    """None if there is no such file. OSError if the disk does not tell."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Identity(status.st_dev, status.st_ino)


def lock(path: Path) -> int:
    """Make the directory, take the lock and return the descriptor that holds it.

    Raises OutboxLocked if another process holds the lock. Raises OutboxRefused if this user cannot use the path or
    the file system cannot lock files.
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
    """The lock file stays: removing it would let two relays lock two files of one name."""
    os.close(fd)


def create(path: Path, stands_for: Path | None = None) -> None:
    """Create the database file if it is missing, mode 0600.

    `stands_for`: the database that it will replace. Raises OutboxRefused if the path names no regular file, or if
    another user may have written the log beside it: SQLite would apply what that user wrote.
    """
    for suffix in ("", *_LOGS):
        name = beside(path, suffix)
        try:
            status = name.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OutboxUnusable(f"{name}: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no regular file"
            raise OutboxUnusable(f"{name} is {what}: set outbox.path to the file itself")
        if suffix and (why := _distrusted(path, status)):
            raise OutboxUnusable(f"{name} {why}, or move the file away if you do not know it")
    os.close(_open_private(path, stands_for or path))


def _distrusted(path: Path, log: os.stat_result) -> str:
    """Return why a log beside the database is not read, and what to do; "" if it is."""
    owner = path.lstat() if identity(path) is not None else path.parent.stat()
    if log.st_uid not in {0, os.geteuid(), owner.st_uid}:
        return f"belongs to user {log.st_uid}, the outbox to user {owner.st_uid}: change its owner"
    if log.st_mode & stat.S_IWOTH and not _has_fixed_modes(path):
        return f"can be written by every user (mode {stat.S_IMODE(log.st_mode):o}): set its mode to 600"
    return ""


def _has_fixed_modes(path: Path) -> bool:
    """Whether the file system does not keep modes: the relay created its lock file with mode 0600."""
    try:
        lock = beside(path, ".lock").lstat()
    except OSError:
        return False
    return lock.st_uid == os.geteuid() and bool(lock.st_mode & stat.S_IWOTH)


def _open_private(path: Path, database: Path) -> int:
    """Open a file, or create it with mode 0600 and, if we are root, the database's owner, else its directory's.

    Only a file of our own making is given away: another may be a hard link to any file of the system.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    owner = None
    if os.geteuid() == 0:
        owner = database.lstat() if identity(database) is not None else database.parent.stat()
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
    """Set mode 0600 on a file of the relay; SQLite gives its -wal the same mode. Log a warning if modes are fixed.

    The descriptor is of the path only. To close any other descriptor of the database would release SQLite's locks on it
    (fcntl(2)): another program could then open the file under the running relay, and delete the -wal when it closes it.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o600)
    except OSError as error:
        if error.errno not in FIXED_MODES:
            raise
        _log.warning("outbox file mode not set", path=str(path), reason=error.strerror)
    finally:
        os.close(fd)


def set_aside(path: Path) -> Path:
    """Rename the database and its -wal to the first free `<name>.broken-<n>`; returns that name."""
    number = 1
    while identity(aside := beside(path, f".broken-{number}")) is not None:
        number += 1
    # the -wal first: a kill in between leaves a database that lost its last moments, and that one is broken already
    for suffix in ("-wal", ""):
        if identity(beside(path, suffix)) is not None:
            beside(path, suffix).rename(beside(aside, suffix))
    _sync_directory(path.parent)
    return aside


def rename(old: Path, new: Path) -> None:
    old.rename(new)
    _sync_directory(new.parent)


def remove(path: Path) -> None:
    """Delete a database of our own making, and its -wal."""
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
        os.fsync(fd)
    except OSError as error:
        if error.errno not in UNSYNCED_DIRECTORIES:
            raise
        _log.warning("directory not synced", path=str(directory), reason=error.strerror)
    finally:
        os.close(fd)

"""The meaning of disk errors, and the errors for callers.

This module contains the tables of errno values; no other module compares one. Rule: the outcome of
a failed commit is unknown, so the error of a failed commit does not state that the events are not
stored.

SQLite reports most failed calls as "disk I/O error" or "unable to open database file" without the
errno. `explained` therefore repeats the failed step on a separate file.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from relay.outbox import OutboxError, OutboxFull, OutboxUnavailable
from relay.outbox.engine import storage

P = ParamSpec("P")
T = TypeVar("T")

NO_ROOM: Mapping[int, str] = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full: the disk quota of the relay's user is used up",
    errno.EFBIG: "the disk is full: a file has the largest size that the system allows",
}
_OTHER: Mapping[int, str] = {
    errno.EROFS: "the file system of outbox.path is read-only: check the disk",
    errno.EMFILE: "the relay has no file descriptor left: raise its limit of open files",
    errno.ENFILE: "the system has no file descriptor left: find out which process holds them",
    errno.EACCES: "the relay's user may not write to outbox.path: change its owner",
    errno.EPERM: "the relay's user may not write to outbox.path: change its owner",
}
_NO_INODE = "the disk is full: the file system has no inode left, delete files"
LOCK_HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)
"""flock of a file that another process locked; EACCES on CIFS. Any other errno: the file system cannot lock."""
FIXED_MODES = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""fchmod on file systems that have no modes of their own, for example vfat and CIFS."""
FIXED_OWNERS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""fchown where root may not give a file away: the same file systems, NFS, and a user who is not mapped."""
UNSYNCED_DIRECTORIES = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
"""fsync of a directory where the file system cannot sync it; fsync(2) documents EINVAL."""

_UNSPECIFIC = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
_TRIED_BYTES, _SYNCED_BYTES = 256 << 10, 4096


class NoInodeError(OSError):
    """ENOSPC although the file system has free blocks: it has no inode for another file."""


def failure_of(error: sqlite3.Error | OSError) -> OutboxError:
    """Return the error for the callers of a failed commit or open. Its cause is `error`."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    number: int = errno.ENOSPC if code == sqlite3.SQLITE_FULL else (getattr(error, "errno", None) or 0)
    failure: OutboxError
    if number in NO_ROOM:
        failure = OutboxFull(_NO_INODE if isinstance(error, NoInodeError) else NO_ROOM[number])
    elif number in _OTHER:
        failure = OutboxUnavailable(_OTHER[number])
    elif code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        failure = OutboxUnavailable("another program has the outbox's file open: close it")
    else:
        return storage.failure_of(error)
    failure.__cause__ = error
    return failure


def explained(path: Path, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of `work(...)`. If SQLite hides the errno of a failure, raise the OSError of a
    trial instead.

    `path`: the database. The error of the trial is raised only if a table of this module contains
    its errno.
    """
    try:
        return work(*args, **kwargs)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _UNSPECIFIC:
            raise
        found = _tried(path.with_name(path.name + ".trial"))
        if found is None or (found.errno not in NO_ROOM and found.errno not in _OTHER):
            raise
        raise found from error


def _tried(path: Path) -> OSError | None:
    """Create a file, write to it, sync it and delete it. Return the error of the first step that fails."""
    try:
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        return NoInodeError(*error.args) if error.errno == errno.ENOSPC and _lacks_inodes(path.parent) else error
    try:
        os.pwrite(fd, bytes(_SYNCED_BYTES), 0)
        os.fsync(fd)
        # Most quotas count a block when it is written. Blocks that are deleted before a sync do not wear the disk.
        os.pwrite(fd, bytes(_TRIED_BYTES - _SYNCED_BYTES), _SYNCED_BYTES)
    except OSError as error:
        return error
    finally:
        os.close(fd)
        with suppress(OSError):
            path.unlink()
    return None


def _lacks_inodes(directory: Path) -> bool:
    with suppress(OSError):
        found = os.statvfs(directory)
        return found.f_files > 0 and found.f_favail == 0
    return False

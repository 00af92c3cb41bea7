"""What a disk's trouble is called: the errors that speak of it, and what callers are told.

Rule: after any of them the outcome of a commit is unknown, so nobody is told "no".
"""

from __future__ import annotations

import errno
import sqlite3

from relay.outbox import OutboxError, OutboxFull, OutboxRefused, OutboxUnavailable

DISK_ERRORS = (sqlite3.Error, OSError, MemoryError, OutboxRefused)


def failure_of(error: Exception) -> OutboxError:
    """Return the error for the callers of a failed commit or open. Its cause is `error`."""
    failure: OutboxError
    number = error.errno if isinstance(error, OSError) else None
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if isinstance(error, OutboxError):
        failure = OutboxUnavailable(str(error))
    elif number == errno.EDQUOT:
        failure = OutboxFull("the disk is full: the disk quota of the relay's user is used up")
    elif code == sqlite3.SQLITE_FULL or number == errno.ENOSPC:
        failure = OutboxFull("the disk is full")
    elif code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        failure = OutboxUnavailable("another program has the outbox's file open: close it")
    else:
        words = str(error) or type(error).__name__
        failure = OutboxUnavailable(f"the disk fails ({words}): whether the events were stored is unknown")
    failure.__cause__ = error
    return failure

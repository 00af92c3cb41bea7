"""What a disk's trouble is called: the errors that speak of it, and what callers are told.

Rule: after any of them the outcome of a commit is unknown, so nobody is told "no".
"""

from __future__ import annotations

import sqlite3

from relay.outbox import OutboxError, OutboxFull, OutboxRefused, OutboxUnavailable

DISK_ERRORS = (sqlite3.Error, OSError, MemoryError, OutboxRefused)


def failure_of(error: Exception) -> OutboxError:
    """What to tell whoever waits; the cause is kept."""
    failure: OutboxError
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if isinstance(error, OutboxError):
        failure = OutboxUnavailable(str(error))
    elif code == sqlite3.SQLITE_FULL:
        failure = OutboxFull("the disk is full")
    elif code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        failure = OutboxUnavailable("another program has the outbox's file open: close it")
    else:
        words = str(error) or type(error).__name__
        failure = OutboxUnavailable(f"the disk fails ({words}): whether the events were stored is unknown")
    failure.__cause__ = error
    return failure

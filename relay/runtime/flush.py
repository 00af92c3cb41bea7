"""Flush files to the disk, including the cache of the drive.

On macOS, fsync returns once the drive has the data in its cache, which a power cut clears. F_FULLFSYNC empties this
cache (fsync(2) of macOS). `relay.outbox.sqlite.connection` sets the same for SQLite (PRAGMA fullfsync).
"""

from __future__ import annotations

import errno
import fcntl
import os

_FULL_FSYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
"""The fcntl command of macOS, None on other systems."""


def flush(fd: int) -> None:
    """Flush the content and the metadata of a file or directory. Raises OSError."""
    if _FULL_FSYNC is not None:
        try:
            fcntl.fcntl(fd, _FULL_FSYNC)
            return
        except OSError as error:
            if error.errno != errno.ENOTSUP:  # a file system without it, for example SMB
                raise
    os.fsync(fd)


def flush_data(fd: int) -> None:
    """Flush the content of a file, and its size. Raises OSError."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        flush(fd)

"""Harden the process, measure free disk space, and end the process.

Hardening protects the API key in memory. If it fails, the relay starts anyway.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from pathlib import Path
from typing import NoReturn

from relay.runtime import log

_PR_SET_DUMPABLE = 4  # prctl(2)


def harden() -> None:
    """Disable core dumps, and access to the memory by other processes of the same user."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def free_bytes(path: Path) -> int | None:
    """Return the bytes available to this user on the disk of a file, or None if they cannot be determined."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


def end(code: int) -> NoReturn:
    """End the process with this exit code after the log is written.

    The interpreter's exit would end waiting threads (name lookups, signals, a stalled log) with pthread_exit(3), for
    which glibc loads libgcc_s. In an image without this library the process would abort.
    """
    log.close()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)

"""What the relay asks of the operating system for itself: no core dumps, no spectators; what the disk has left.

The first two, once at start, keep the API key in this process's memory. Nothing here is worth not starting for.
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
    """No core file, and no reading of our memory by other processes of the same user."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def free_bytes(path: Path) -> int | None:
    """What the disk that this file is on has left for us; None if it cannot be told."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


def end(code: int) -> NoReturn:
    """End the process with this exit code, once the log is written.

    The interpreter's own exit would end the threads that still wait (in a name lookup, for signals, for a reader of
    the log) by pthread_exit(3), for which glibc loads libgcc_s: an image without this library would abort.
    """
    log.close()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)

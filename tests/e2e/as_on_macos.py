"""Run the relay with what Python has on macOS: `python -m tests.e2e.as_on_macos run`.

Removes the functions and constants that exist on Linux only, sets sys.platform, and adds F_FULLFSYNC, which exists on
macOS only. `mypy --platform darwin` in `make check` reports every name that macOS lacks.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time
from typing import Any

# Modules that choose by sys.platform when they are imported see the real system.
import aiohttp
import aiosqlite
import click
import prometheus_client
import uvloop

LINUX_ONLY = {
    os: ("O_PATH", "fdatasync", "posix_fallocate", "posix_fadvise", "sched_setaffinity", "sched_getaffinity",
         "pidfd_open", "memfd_create", "eventfd", "splice", "copy_file_range", "pipe2"),
    signal: ("sigtimedwait", "sigwaitinfo", "SIGPWR"),
    socket: ("AF_NETLINK", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "TCP_INFO", "SO_DOMAIN", "SO_PROTOCOL", "SO_PEERCRED"),
    time: ("CLOCK_BOOTTIME",),
}  # fmt: skip
F_FULLFSYNC = 51
IMPORTED = (aiohttp, aiosqlite, click, prometheus_client, uvloop)


def main() -> None:
    for module, names in LINUX_ONLY.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    real_fcntl = fcntl.fcntl

    def on_macos(fd: Any, number: int, argument: Any = 0) -> Any:
        if number != F_FULLFSYNC:
            return real_fcntl(fd, number, argument)
        os.fsync(fd)
        return 0

    real_chmod = os.chmod

    def chmod(path: Any, mode: int, **_: Any) -> None:
        """Change a mode. The kernel of macOS needs no /proc to follow no link, unlike the C library here."""
        real_chmod(path, mode)

    os.chmod = chmod
    fcntl.fcntl = on_macos
    fcntl.F_FULLFSYNC = F_FULLFSYNC  # type: ignore[misc]
    sys.platform = "darwin"
    from relay.cli import main as relay

    relay()


if __name__ == "__main__":
    main()

"""What the relay tells the service manager that started it, by sd_notify(3): one datagram a message.

Rules: without $NOTIFY_SOCKET nothing is told, and nothing is lost by that. Telling never blocks and never
raises: a service manager that does not listen must not stop a relay that works. A keep-alive is told only
where $WATCHDOG_USEC asks this process for it; that it is true is the caller's part.

It must not know what the relay does.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

from relay.runtime.clock import monotonic_us


class Supervisor:
    """The service manager, or nobody."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # a name that starts with "@" is in Linux's abstract namespace
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.watches = _watches(environ)
        """Whether it stops a relay that sends no keep-alive for $WATCHDOG_USEC."""

    def ready(self) -> None:
        """Started, or reloaded: events are accepted."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """The configuration is being read; `ready` ends it. The time tells it from an earlier reload."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us()}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def alive(self, status: str) -> None:
        """The keep-alive, if one is asked for, and the line that `systemctl status` shows."""
        line = " ".join(status.split())
        self._tell(f"WATCHDOG=1\nSTATUS={line}" if self.watches else f"STATUS={line}")

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto(message.encode(), self._address)


def _watches(environ: Mapping[str, str]) -> bool:
    meant_for = environ.get("WATCHDOG_PID", str(os.getpid()))
    return environ.get("WATCHDOG_USEC", "").isdecimal() and meant_for == str(os.getpid())

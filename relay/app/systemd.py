"""Notify the service manager with sd_notify(3), one datagram per message.

Rules:
- Without $NOTIFY_SOCKET, no message is sent.
- Sending never blocks and never raises, because a failing service manager must not stop the relay.
- A keep-alive is sent only if $WATCHDOG_USEC requests it from this process. The caller checks that the relay works.

This module does not depend on other parts of the relay.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

from relay.runtime.clock import monotonic_us


class Supervisor:
    """The service manager that started the relay, if any."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # A name that starts with "@" is in Linux's abstract namespace.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.watches = _watches(environ)
        """Whether the service manager restarts a relay that sends no keep-alive for $WATCHDOG_USEC."""

    def ready(self) -> None:
        """Report that the relay accepts events, after a start or a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Report the start of a reload; `ready` reports its end. The time distinguishes it from an earlier reload."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us()}")

    def stopping(self) -> None:
        """Report the start of the stop."""
        self._send("STOPPING=1")

    def alive(self, status: str) -> None:
        """Send the keep-alive, if requested, and the line that `systemctl status` shows."""
        line = " ".join(status.split())
        self._send(f"WATCHDOG=1\nSTATUS={line}" if self.watches else f"STATUS={line}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto(message.encode(), self._address)


def _watches(environ: Mapping[str, str]) -> bool:
    meant_for = environ.get("WATCHDOG_PID", str(os.getpid()))
    return environ.get("WATCHDOG_USEC", "").isdecimal() and meant_for == str(os.getpid())

"""Notice that the network of this machine changed, so that the relay tries at once and not at the end of a backoff.

Rules:
- Changes of addresses and routes come from the kernel (netlink), where a socket for them can be opened. Elsewhere, for
  example in a container whose seccomp profile forbids it, the relay compares the kernel's tables in /proc/net every
  2 s. A system without either has only the backoff, which is at most 15 s without a network.
- The resolver configuration is compared every 2 s.
- After a change the relay tries after a random delay of up to 2 s, so that the boxes of a site do not return at one
  instant, and at most once in 10 s.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from relay.forward.netlink import GROUPS, Configuration
from relay.runtime.clock import Clock
from relay.runtime.secret import fingerprint

log = structlog.get_logger(__name__)

RESOLVER_FILES = (Path("/etc/resolv.conf"),)
KERNEL_TABLES = (Path("/proc/net/route"), Path("/proc/net/if_inet6"))
_DELAY_MS = 2_000
_BETWEEN_MS = 10_000
_CHECK_S = 2.0
_MAX_TABLE_BYTES = 1 << 20
_DATAGRAM_BYTES = 1 << 16


class Attempts:
    """When to try after changes. Times are monotonic milliseconds."""

    def __init__(self) -> None:
        self.due_at: int | None = None
        self._tried_at: int | None = None

    def changed(self, now: int, u: float) -> None:
        """Plan an attempt after a change, unless one is planned. `u` is uniform in [0, 1)."""
        if self.due_at is None:
            at = now + int(u * _DELAY_MS)
            self.due_at = at if self._tried_at is None else max(at, self._tried_at + _BETWEEN_MS)

    def take(self, now: int) -> bool:
        """Return whether an attempt is due, and count it as made."""
        if self.due_at is None or now < self.due_at:
            return False
        self.due_at, self._tried_at = None, now
        return True


def open_netlink() -> socket.socket | None:
    """Return a socket that receives the kernel's messages about addresses and routes, or None."""
    if sys.platform == "linux":
        opened = None
        try:
            opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
            opened.bind((0, GROUPS))
            return opened
        except OSError as error:
            log.info("changes of the network are read from /proc/net, netlink is not available", error=str(error))
            if opened is not None:
                opened.close()
    return None


class NetworkWatch:
    """Calls `try_now` after changes of the network. See the rules of the module."""

    def __init__(
        self,
        clock: Clock,
        try_now: Callable[[], object],
        *,
        open_source: Callable[[], socket.socket | None] = open_netlink,
        files: Sequence[Path] = RESOLVER_FILES,
        tables: Sequence[Path] = KERNEL_TABLES,
    ) -> None:
        self._clock = clock
        self._try_now = try_now
        self._open_source = open_source
        self._files = files
        self._tables = tables
        self._source: socket.socket | None = None
        self._configuration = Configuration()
        self._attempts = Attempts()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Watch the network. Never returns."""
        self._source = self._open_source()
        if self._source is not None:
            asyncio.get_running_loop().add_reader(self._source, self._receive)
        try:
            known = self._state()
            while True:
                await self._wait()
                now = self._clock.monotonic_ms()
                if (state := self._state()) != known:
                    known = state
                    self._attempts.changed(now, self._clock.chance())
                if self._attempts.take(now):
                    log.debug("the network changed")
                    self._try_now()
        finally:
            self._close()

    async def _wait(self) -> None:
        """Wait for a message of the kernel, the next check or the planned attempt."""
        wait_s = _CHECK_S
        if (due_at := self._attempts.due_at) is not None:
            wait_s = min(wait_s, max(0, due_at - self._clock.monotonic_ms()) / 1000)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        self._wake.clear()

    def _receive(self) -> None:
        """Read one datagram. The event loop calls again if there are more."""
        assert self._source is not None
        changed = False
        try:
            datagram, sender = self._source.recvfrom(_DATAGRAM_BYTES)
            # The kernel has port id 0. Another process may send, too.
            changed = sender[0] == 0 and self._configuration.apply(datagram)
        except BlockingIOError:
            return
        except OSError as error:
            changed = True  # Messages were lost.
            if error.errno != errno.ENOBUFS:
                log.info("changes of the network are read from /proc/net, netlink failed", error=str(error))
                self._close()
        if changed and self._attempts.due_at is None:
            self._attempts.changed(self._clock.monotonic_ms(), self._clock.chance())
            self._wake.set()

    def _state(self) -> tuple[object, ...]:
        """Return what is compared: the resolver's files, and the kernel's tables where there is no netlink."""
        tables = [_content(path) for path in self._tables] if self._source is None else []
        return (*fingerprint(self._files), *tables)

    def _close(self) -> None:
        if self._source is not None:
            asyncio.get_running_loop().remove_reader(self._source)
            self._source.close()
            self._source = None


def _content(path: Path) -> bytes:
    """Return the beginning of a file; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_TABLE_BYTES)
    except OSError:
        return b""

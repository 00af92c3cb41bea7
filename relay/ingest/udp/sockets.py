"""The sockets of `udp.listen`, and their Linux options: receive buffer and drop counter.

The option numbers are from asm-generic/socket.h of Linux. Python does not define them.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from relay.ingest.udp.recvmmsg import Datagram, burst
from relay.runtime.address import format_address

DATAGRAMS_PER_READ = 64
"""Datagrams per socket and read: about 1 ms of work. HTTP is served between reads."""

_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")
_MEMINFO_DROPS = 8


class UdpSockets:
    """The bound sockets, each with the datagrams that were received from it and are not processed yet."""

    def __init__(self, sockets: Iterable[socket.socket] = ()) -> None:
        self._sources = [_Source(each) for each in sockets]
        self.receive_buffer_bytes = 0
        """The size of the smallest receive buffer after `ask_receive_buffer`."""

    def __bool__(self) -> bool:
        return bool(self._sources)

    @property
    def addresses(self) -> list[str]:
        return [format_address(source.socket.getsockname()) for source in self._sources]

    def ask_receive_buffer(self, wanted_bytes: int) -> None:
        """Request a receive buffer for each socket, unless 0."""
        self.receive_buffer_bytes = min(_ask_receive_buffer(source.socket, wanted_bytes) for source in self._sources)

    def watch(self, call: Callable[[], None]) -> None:
        """Let the event loop call `call` whenever a datagram can be received."""
        for source in self._sources:
            asyncio.get_running_loop().add_reader(source.socket, call)

    def unwatch(self) -> None:
        for source in self._sources:
            asyncio.get_running_loop().remove_reader(source.socket)

    def read(self, failed: Callable[[OSError], None]) -> int:
        """Receive datagrams from each socket whose earlier ones are processed.

        Return the largest number of unprocessed datagrams of one socket. `failed` is called for a socket that failed.
        """
        most = 0
        for source in self._sources:
            try:
                if not source.unprocessed:
                    source.unprocessed.extend(source.receive())
            except OSError as error:
                failed(error)
            most = max(most, len(source.unprocessed))
        return most

    def unprocessed(self) -> Iterator[tuple[deque[Datagram], socket.socket]]:
        """Yield the unprocessed datagrams of each socket that has any. The caller removes what it processes."""
        for source in self._sources:
            if source.unprocessed:
                yield source.unprocessed, source.socket

    def new_kernel_drops(self) -> int:
        """Return how many datagrams the kernel dropped since the last call, from its 32-bit counter per socket."""
        new = 0
        for source in self._sources:
            drops = kernel_drops(source.socket)
            if drops is not None:
                new += (drops - source.kernel_drops) % 2**32
                source.kernel_drops = drops
        return new

    def close(self) -> None:
        for source in self._sources:
            source.socket.close()
        self._sources = []


class _Source:
    def __init__(self, receiving: socket.socket) -> None:
        self.socket = receiving
        self.receive = burst(receiving, DATAGRAMS_PER_READ)
        self.unprocessed: deque[Datagram] = deque()
        self.kernel_drops = kernel_drops(receiving) or 0
        """Counted drops. The relay that used a passed socket before counted its drops."""


def is_local(host: str) -> bool:
    """Return whether an address belongs to this host, that is, whether a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def kernel_drops(receiving: socket.socket) -> int | None:
    """Return the number of datagrams that the kernel dropped since the socket was created, modulo 2**32.

    Return None if the kernel does not report it (before Linux 4.12, an emulated kernel, or another system).
    """
    if sys.platform == "linux":
        # An emulated kernel returns only 4 bytes.
        with suppress(OSError, struct.error):
            meminfo = _MEMINFO.unpack(receiving.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
            return int(meminfo[_MEMINFO_DROPS])
    return None


def _ask_receive_buffer(receiving: socket.socket, wanted_bytes: int) -> int:
    """Request a receive buffer, unless 0, and return the size that the kernel set, in bytes.

    On Linux, a size above net.core.rmem_max needs CAP_NET_ADMIN, and the kernel reports twice the size (socket(7)).
    Other systems reject a size above their limit, which is not known: each attempt requests half of the last one.
    """
    option = socket.SOL_SOCKET, socket.SO_RCVBUF
    if sys.platform == "linux":
        if wanted_bytes:
            try:
                receiving.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted_bytes)
            except PermissionError:
                receiving.setsockopt(*option, wanted_bytes)
        return receiving.getsockopt(*option) // 2
    else:
        while wanted_bytes:
            try:
                receiving.setsockopt(*option, wanted_bytes)
                break
            except OSError:
                wanted_bytes //= 2
        return receiving.getsockopt(*option)

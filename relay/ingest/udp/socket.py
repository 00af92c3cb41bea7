"""Linux socket options of UDP sockets: receive buffer and drop counter.

The option numbers are from asm-generic/socket.h. Python does not define them.
"""

from __future__ import annotations

import socket
import struct

_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")
_MEMINFO_DROPS = 8


def is_local(host: str) -> bool:
    """Return whether an address belongs to this host, that is, whether a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def ask_receive_buffer(receiving: socket.socket, wanted_bytes: int) -> int:
    """Request a receive buffer and return the size that the kernel set, in bytes.

    A size above net.core.rmem_max needs CAP_NET_ADMIN. The kernel reports twice the size (socket(7)).
    """
    try:
        receiving.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted_bytes)
    except PermissionError:
        receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted_bytes)
    return receiving.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def kernel_drops(receiving: socket.socket) -> int | None:
    """Return the number of datagrams that the kernel dropped since the socket was created, modulo 2**32.

    Return None if the kernel does not report it (before Linux 4.12, or an emulated kernel).
    """
    try:
        meminfo = _MEMINFO.unpack(receiving.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
    except (OSError, struct.error):  # An emulated kernel returns only 4 bytes.
        return None
    drops: int = meminfo[_MEMINFO_DROPS]
    return drops

"""The UDP socket as Linux has it: bound, with the buffer that was asked for, and what was dropped of it.

Knows nothing of datagrams. The numbers are asm-generic/socket.h's; Python has no names for them.
"""

from __future__ import annotations

import socket
import struct

_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")
_MEMINFO_DROPS = 8


def is_local(host: str) -> bool:
    """Whether an address belongs to this host: a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def ask_receive_buffer(receiving: socket.socket, wanted_bytes: int) -> int:
    """What the kernel gave. Beyond net.core.rmem_max it gives only to CAP_NET_ADMIN; it counts double (socket(7))."""
    try:
        receiving.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted_bytes)
    except PermissionError:
        receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted_bytes)
    return receiving.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def kernel_drops(receiving: socket.socket) -> int | None:
    """Datagrams dropped so far, modulo 2**32; None where the kernel does not tell (before 4.12, or an emulated one)."""
    try:
        meminfo = _MEMINFO.unpack(receiving.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
    except (OSError, struct.error):  # an emulated kernel answers with 4 bytes
        return None
    drops: int = meminfo[_MEMINFO_DROPS]
    return drops

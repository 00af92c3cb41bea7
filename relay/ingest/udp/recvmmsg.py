"""Receive many datagrams with one system call.

Python's `recvfrom` releases the GIL for each datagram and must acquire it again, which takes 19 µs beside a busy
outbox. `recvmmsg` (Linux 2.6.33, recvmmsg(2)) receives all available datagrams in one call. The relay holds the GIL
during that call, because the call does not block. On systems without `recvmmsg` the datagrams are received one by
one. Independent of events.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

DATAGRAM_BYTES = 65_536
"""Larger than the largest datagram (65,507 bytes, RFC 768), so that no datagram is cut."""
_NAME_BYTES = 28
"""sizeof(struct sockaddr_in6), the largest address."""
_NAME = struct.Struct(f"{_NAME_BYTES}s")
_SENDERS = 1_024
"""Sender addresses that are cached in Python's form. Most apps send all datagrams from one port."""

Datagram = tuple[bytes, Any]
"""The data, and the sender's address as `socket.recvfrom` returns it."""
Burst = Callable[[], list[Datagram]]
"""Receives the available datagrams up to a limit, without blocking. Raises OSError if the socket fails at once."""


def burst(receiving: socket.socket, limit: int) -> Burst:
    """Return a function that receives up to `limit` datagrams; fewer only if the non-blocking socket has no more."""
    if sys.platform == "linux":
        libc = ctypes.PyDLL(None, use_errno=True)
        if hasattr(libc, "recvmmsg"):
            return _Together(receiving, limit, libc.recvmmsg)
    return _OneByOne(receiving, limit)


class _OneByOne:
    def __init__(self, receiving: socket.socket, limit: int) -> None:
        self._receive = receiving.recvfrom
        self._limit = limit

    def __call__(self) -> list[Datagram]:
        read: list[Datagram] = []
        while len(read) < self._limit:
            try:
                read.append(self._receive(DATAGRAM_BYTES))
            except BlockingIOError:
                break
            except OSError:
                if not read:
                    raise
                break
        return read


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("pieces", ctypes.POINTER(_Iovec)),
        ("piece_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("header", _Header), ("received", ctypes.c_uint32))


class _Together:
    def __init__(self, receiving: socket.socket, limit: int, recvmmsg: Callable[..., int]) -> None:
        self._socket = receiving
        self._limit = limit
        self._recvmmsg = recvmmsg
        # A mapping instead of a bytearray: only the pages that are written use memory.
        self._bytes = mmap.mmap(-1, limit * DATAGRAM_BYTES)
        bytes_at = ctypes.addressof(ctypes.c_char.from_buffer(self._bytes))
        names = bytearray(limit * _NAME_BYTES)
        names_at = ctypes.addressof(ctypes.c_char.from_buffer(names))
        self._pieces = (_Iovec * limit)(
            *[_Iovec(bytes_at + at * DATAGRAM_BYTES, DATAGRAM_BYTES) for at in range(limit)]
        )
        headers = bytearray(limit * ctypes.sizeof(_Message))
        self._messages = (_Message * limit).from_buffer(headers)
        for at, message in enumerate(self._messages):
            message.header = _Header(names_at + at * _NAME_BYTES, _NAME_BYTES, ctypes.pointer(self._pieces[at]), 1)
        # The lengths that the kernel writes, readable without a ctypes object for each.
        self._lengths = memoryview(headers).cast("I")[_Message.received.offset // 4 :: ctypes.sizeof(_Message) // 4]
        self._names = names

    def __call__(self) -> list[Datagram]:
        count = self._recvmmsg(self._socket.fileno(), self._messages, self._limit, socket.MSG_DONTWAIT, None)
        if count < 0:
            number = ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR):
                return []
            raise OSError(number, os.strerror(number))
        received = self._bytes
        names = _NAME.iter_unpack(self._names[: count * _NAME_BYTES])
        read: list[Datagram] = []
        start = 0
        for length, (name,) in zip(self._lengths[:count].tolist(), names, strict=True):
            read.append((received[start : start + length], _sender(name)))
            start += DATAGRAM_BYTES
        return read


@lru_cache(_SENDERS)
def _sender(name: bytes) -> Any:
    """Convert a sockaddr to the address form of Python's sockets. See ip(7) and ipv6(7)."""
    family = int.from_bytes(name[:2], sys.byteorder)
    port = int.from_bytes(name[2:4], "big")
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, name[4:8]), port
    flow = int.from_bytes(name[4:8], "big")
    (scope,) = struct.unpack("=I", name[24:28])
    return socket.inet_ntop(socket.AF_INET6, name[8:24]), port, flow, scope

"""Measure the progress of a request to the upstream, and end stalled requests.

A Watch observes the bytes that the upstream's host has acknowledged. It ends a request
- after the timeout without a newly acknowledged byte, which includes the wait for the response;
- after ten times the timeout in total.

The connection of a request that ends early is reset: it discards the bytes in user space and in the
kernel, so that the upstream does not receive an old batch while the relay sends it again. Only bytes
on the wire or in the receiver's buffer can still arrive.

Linux reports acknowledged bytes (TCP_INFO, SIOCOUTQ). On other systems, bytes passed to the kernel
count as progress; over TLS, no public interface reports them. This module uses public interfaces of
sockets and transports only. It therefore works with plain and TLS connections, on asyncio and uvloop.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Awaitable, Callable
from typing import TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from relay.runtime.clock import Clock

TOTAL_FACTOR = 10
"""Maximum duration of a request that makes progress, as a multiple of its timeout."""
SEND_BUFFER_BYTES = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_CHECKS_PER_TIMEOUT = 8
_MAX_CHECK_INTERVAL_MS = 250
# struct tcp_info of Linux 4.1 and later: tcpi_bytes_acked is an unsigned 64-bit number at byte 120.
_BYTES_ACKED = struct.Struct("=120xQ")
# struct tcp_info of Linux 4.6 and later: tcpi_data_segs_out is an unsigned 32-bit number at byte 156.
_SEGMENTS_SENT = struct.Struct("=156xI")

_Result = TypeVar("_Result")


class Sockets:
    """Opens the sockets of one connection pool, and returns the socket of a transport.

    The descriptor in a transport's socket may have been closed and reused. A socket object itself knows whether it is
    closed.
    """

    def __init__(self) -> None:
        self._opened: WeakValueDictionary[int, socket.socket] = WeakValueDictionary()
        self._watches: WeakKeyDictionary[socket.socket, Watch] = WeakKeyDictionary()

    def open(self, address: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
        """Return a new socket for an address of `getaddrinfo`, with a small send buffer."""
        family, kind, protocol, _, _ = address
        opened = socket.socket(family, kind, protocol)
        # Linux doubles the number, because its own records count as part of the buffer.
        opened.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES // (2 if sys.platform == "linux" else 1)
        )
        self._opened[opened.fileno()] = opened
        return opened

    def assign(self, transport: asyncio.BaseTransport, watch: Watch) -> socket.socket | None:
        """Assign the transport's socket to a watch and return it; None if this pool did not open it.

        The watch of the previous request on the connection may still be active. It is detached, so that it cannot reset
        the connection of the next request.
        """
        seen = transport.get_extra_info("socket")
        opened = None if seen is None else self._opened.get(seen.fileno())
        if opened is not None:
            if previous := self._watches.get(opened):
                previous.detach()
            self._watches[opened] = watch
        return opened


class Watch:
    """Watches one request. `silent` is called with the milliseconds without progress, and with 0 at the end."""

    def __init__(self, clock: Clock, timeout_ms: int, silent: Callable[[int], None]) -> None:
        self._clock = clock
        self._timeout_ms = timeout_ms
        self._silent = silent
        self._transport: asyncio.WriteTransport | None = None
        self._socket: socket.socket | None = None
        self._began_at = self._progress_at = clock.monotonic_ms()
        self._seen: tuple[int, int] | None = None
        self._deadline = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self.while_sending = False
        """Whether the request timed out before the upstream's host acknowledged all of its bytes."""
        self.connected = False
        """Whether the request had a connection."""
        self.nothing_left = False
        """Whether the connection was lost before it sent a byte of the request, as far as the system reports it."""
        self._segments_before: int | None = None

    def attach(self, transport: asyncio.WriteTransport, sockets: Sockets) -> None:
        """Watch this connection. Call it before the first byte of the request is sent."""
        self._transport, self._socket = transport, sockets.assign(transport, self)
        self.connected = True
        self._progress_at = self._clock.monotonic_ms()
        self._seen = self._progress()
        self._segments_before = _segments_sent(self._socket)

    def lost(self) -> None:
        """Record that the connection closes, before its socket does."""
        if self._transport is not None and self._segments_before is not None:
            self.nothing_left = _segments_sent(self._socket) == self._segments_before

    def detach(self) -> None:
        """Stop watching the connection, because another request uses it."""
        self._transport = self._socket = None

    async def run(self, request: Awaitable[_Result]) -> _Result:
        """Await the request. Reset the connection if it fails or is cancelled. Raises TimeoutError at the timeout."""
        async with self._deadline:
            self._schedule_check(self._progress_at)
            try:
                return await request
            except BaseException as error:
                expired = self._timer is None
                self.abort()
                if expired and isinstance(error, Exception):
                    raise TimeoutError from error
                raise
            finally:
                if self._timer is not None:
                    self._timer.cancel()
                self._silent(0)

    def abort(self) -> None:
        """Reset the connection. Bytes in user space and in the kernel are not sent."""
        if self._transport is None:
            return
        if self._socket is not None and self._socket.fileno() >= 0:
            self.lost()
            with contextlib.suppress(OSError):  # The socket is already closed.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    def unsent(self) -> bool:
        """Return whether the peer has not acknowledged all bytes of the request."""
        if self._transport is None:
            return False
        return self._transport.get_write_buffer_size() > 0 or _unacknowledged_bytes(self._socket) > 0

    def _check(self) -> None:
        now = self._clock.monotonic_ms()
        seen = self._progress()
        if seen != self._seen:
            self._seen, self._progress_at = seen, now
        if now - self._progress_at >= self._timeout_ms or now - self._began_at >= TOTAL_FACTOR * self._timeout_ms:
            self._timer = None
            self.while_sending = self.unsent()
            self.abort()
            self._deadline.reschedule(0)
            return
        self._silent(now - self._progress_at)
        self._schedule_check(now)

    def _schedule_check(self, now: int) -> None:
        ends_at = min(self._progress_at + self._timeout_ms, self._began_at + TOTAL_FACTOR * self._timeout_ms)
        wait_ms = min(ends_at - now, self._timeout_ms // _CHECKS_PER_TIMEOUT, _MAX_CHECK_INTERVAL_MS)
        self._timer = asyncio.get_running_loop().call_later(max(1, wait_ms) / 1000, self._check)

    def _progress(self) -> tuple[int, int] | None:
        """Return numbers that change with each progress of the request; None before it has a connection."""
        if self._transport is None:
            return None
        acked = _acknowledged_bytes(self._socket)
        return (acked, 0) if acked else (0, self._transport.get_write_buffer_size())


def _acknowledged_bytes(opened: socket.socket | None) -> int:
    """Return the number of bytes the peer has acknowledged, or 0 if the system does not report it."""
    return _tcp_info(opened, _BYTES_ACKED) or 0


def _segments_sent(opened: socket.socket | None) -> int | None:
    """Return the number of segments with data that were sent, or None if the system does not report it."""
    return _tcp_info(opened, _SEGMENTS_SENT)


def _tcp_info(opened: socket.socket | None, field: struct.Struct) -> int | None:
    """Return a number of Linux's struct tcp_info, or None if the system does not report it."""
    if sys.platform == "linux" and opened is not None:
        with contextlib.suppress(OSError, struct.error):
            return int(field.unpack(opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, field.size))[0])
    return None


def _unacknowledged_bytes(opened: socket.socket | None) -> int:
    """Return the number of unacknowledged bytes in the kernel's send buffer, or 0 if the system does not report it."""
    if sys.platform == "linux" and opened is not None:
        with contextlib.suppress(OSError, ValueError):
            return int(struct.unpack("=i", fcntl.ioctl(opened, termios.TIOCOUTQ, bytes(4)))[0])
    return 0

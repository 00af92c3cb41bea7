"""Progress of one request to the upstream, and its end.

The watch of a request looks at the bytes that the upstream's host has acknowledged. A request ends
- after the timeout without a newly acknowledged byte, which includes the wait for the response;
- after ten times the timeout in total.

A request that ends early, for whatever reason, is reset: the connection drops what user space and
the kernel still hold, so that the upstream never receives a batch while the relay sends it again.
Only the bytes that are already on the wire or in the receiver's buffer arrive later.

Linux reports acknowledged bytes (TCP_INFO, SIOCOUTQ). Elsewhere, the bytes that leave user space
count as progress. Only public interfaces of sockets and transports are used, so that plain, TLS,
asyncio's and uvloop's connections are alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from relay.runtime.clock import Clock

STALLED_MS = 5_000
TOTAL_FACTOR = 10
"""A request may take ten times its timeout, as long as it makes progress."""
SEND_BUFFER_BYTES = 64 * 1024
_LINUX = sys.platform == "linux"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_LOOKS_PER_TIMEOUT = 8
_LONGEST_LOOK_MS = 1_000
# struct tcp_info of Linux 4.1 and later: tcpi_bytes_acked is an unsigned 64-bit number at byte 120.
_BYTES_ACKED = struct.Struct("=120xQ")

_Result = TypeVar("_Result")


class Sockets:
    """Opens the sockets of one connection pool, and finds the socket of a transport.

    A transport's own view of its socket may name a file descriptor that is closed and used again.
    The socket itself knows that it is closed.
    """

    def __init__(self) -> None:
        self._opened: WeakValueDictionary[int, socket.socket] = WeakValueDictionary()
        self._watches: WeakKeyDictionary[socket.socket, Watch] = WeakKeyDictionary()

    def open(self, address: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
        """Return a new socket for an address of `getaddrinfo`, with a small send buffer."""
        family, kind, protocol, _, _ = address
        opened = socket.socket(family, kind, protocol)
        # Linux doubles the number to account for its own records, and counts these as part of the buffer.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES // (2 if _LINUX else 1))
        self._opened[opened.fileno()] = opened
        return opened

    def give(self, transport: asyncio.BaseTransport, watch: Watch) -> socket.socket | None:
        """Return the transport's socket, which is this watch's from now on; None if this pool did not open it.

        The previous request may have left a kept connection without having noticed it yet. Its watch must not
        reset the connection under the next request.
        """
        seen = transport.get_extra_info("socket")
        opened = None if seen is None else self._opened.get(seen.fileno())
        if opened is not None:
            if previous := self._watches.get(opened):
                previous.detach()
            self._watches[opened] = watch
        return opened


class Watch:
    """Watches one request. `stalled` is called with True after 5 s without progress, with False when it moves on."""

    def __init__(self, clock: Clock, timeout_ms: int, stalled: Callable[[bool], None]) -> None:
        self._clock = clock
        self._timeout_ms = timeout_ms
        self._tell = stalled
        self._stalled = False
        self._transport: asyncio.WriteTransport | None = None
        self._socket: socket.socket | None = None
        self._began_at = self._moved_at = clock.monotonic_ms()
        self._seen: tuple[int, int] | None = None
        self._deadline = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self.while_sending = False
        """Whether the request timed out before the upstream's host had acknowledged all of its bytes."""
        self.connected = False
        """Whether the request had a connection."""

    def attach(self, transport: asyncio.WriteTransport, sockets: Sockets) -> None:
        """Watch this connection from now on. The request's first byte follows."""
        self._transport, self._socket = transport, sockets.give(transport, self)
        self.connected = True
        self._moved_at = self._clock.monotonic_ms()
        self._seen = self._progress()

    def detach(self) -> None:
        """Leave the connection to the next request."""
        self._transport = self._socket = None

    async def run(self, request: Awaitable[_Result]) -> _Result:
        """Await the request. Raises TimeoutError at the timeout; resets the connection unless the request returns."""
        async with self._deadline:
            self._look_again(self._moved_at)
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
                self._note(stalled=False)

    def abort(self) -> None:
        """Close the connection with a reset. Nothing that user space or the kernel hold is sent any more."""
        if self._transport is None:
            return
        if self._socket is not None:
            with contextlib.suppress(OSError):  # It is closed.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    def unsent(self) -> bool:
        """Whether bytes of the request have not been acknowledged."""
        if self._transport is None:
            return False
        return self._transport.get_write_buffer_size() > 0 or _unacknowledged_bytes(self._socket) > 0

    def _look(self) -> None:
        now = self._clock.monotonic_ms()
        seen = self._progress()
        if seen != self._seen:
            self._seen, self._moved_at = seen, now
        if now - self._moved_at >= self._timeout_ms or now - self._began_at >= TOTAL_FACTOR * self._timeout_ms:
            self._timer = None
            self.while_sending = self.unsent()
            self.abort()
            self._deadline.reschedule(0)
            return
        self._note(stalled=now - self._moved_at >= STALLED_MS)
        self._look_again(now)

    def _look_again(self, now: int) -> None:
        ends_at = min(self._moved_at + self._timeout_ms, self._began_at + TOTAL_FACTOR * self._timeout_ms)
        wait_ms = min(ends_at - now, self._timeout_ms // _LOOKS_PER_TIMEOUT, _LONGEST_LOOK_MS)
        self._timer = asyncio.get_running_loop().call_later(max(1, wait_ms) / 1000, self._look)

    def _note(self, *, stalled: bool) -> None:
        if stalled != self._stalled:
            self._stalled = stalled
            self._tell(stalled)

    def _progress(self) -> tuple[int, int] | None:
        """Numbers that change whenever the request makes progress; None before it has a connection."""
        if self._transport is None:
            return None
        acked = _acknowledged_bytes(self._socket)
        return (acked, 0) if acked else (0, self._transport.get_write_buffer_size())


def _acknowledged_bytes(opened: socket.socket | None) -> int:
    """Bytes that the peer has acknowledged in all, 0 where the system does not report them."""
    if not _LINUX or opened is None:
        return 0
    with contextlib.suppress(OSError, struct.error):
        info = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
        return int(_BYTES_ACKED.unpack(info)[0])
    return 0


def _unacknowledged_bytes(opened: socket.socket | None) -> int:
    """Bytes in the kernel's send buffer that the peer has not acknowledged, 0 where the system does not report them."""
    if not _LINUX or opened is None:
        return 0
    import fcntl  # noqa: PLC0415 - not on every system
    import termios  # noqa: PLC0415

    with contextlib.suppress(OSError, ValueError):
        return int(struct.unpack("=i", fcntl.ioctl(opened, termios.TIOCOUTQ, bytes(4)))[0])
    return 0

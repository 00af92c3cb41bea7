"""UDP for apps: datagrams become events in the outbox, as many per wake as are there.

asyncio's datagram transport reads one datagram per turn of the loop and lost 40 % at a rate that this
way of reading took without loss: an own socket, drained per wake by one call of the kernel.

Rules:
1.  A datagram is kept whole or not at all, and none suffers for another: what one wake read is appended
    in one call, and if the outbox has no room for all of it, datagram by datagram.
2.  While the outbox has no room, cannot keep up, or fails, nothing is read: the kernel's buffer takes the wait, and
    what the kernel then drops is counted. Memory holds at most `_MAX_UNCOMMITTED` events and one wake's.
3.  What is bad is counted by reason and logged at most once a second in all.
4.  An answer (udp.ack) leaves only after the commit, only to allowed networks, never larger than the
    datagram it answers, so that nobody's address can be flooded through the relay.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import uuid
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import structlog

from relay.address import format_address, listen_error, parse_address
from relay.clock import Clock
from relay.config import Udp
from relay.event import Event, Reader, Reading, Refusal
from relay.ingest.burst import Burst, Datagram, burst
from relay.ingest.guard import Networks
from relay.ingest.inflate import GZIP_MAGIC, inflate
from relay.log import Gate
from relay.metrics import REJECT_REASONS, UDP_DROP_REASONS, Metrics
from relay.outbox import Outbox, OutboxError, OutboxFull, OutboxShareTaken

_DATAGRAMS_PER_WAKE = 64
"""About a millisecond of work; HTTP is served in between."""
_BYTES_PER_WAKE = 65_536
"""Likewise, where datagrams hold many events; what was read beyond it is for the next turn of the loop."""
_SLICE_BYTES = 32_768
"""What a slice of a datagram that inflates to more counts."""
_WAKES_AT_STOP = 256
_MAX_UNCOMMITTED = 10_000
_PAUSE_S = 0.1
_LOG_INTERVAL_MS = 1_000

_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
"""asm-generic/socket.h; Python has no names for them."""
_MEMINFO = struct.Struct("9I")
_MEMINFO_DROPS = 8

_log = structlog.get_logger(__name__)


class _Datagram(NamedTuple):
    events: list[Event]
    size_bytes: int
    sender: Any


class _Long(NamedTuple):
    """A datagram that inflates to more than a wake may read, on its way."""

    reading: Reading
    size_bytes: int
    sender: Any


class UdpIngest:
    """Reads one socket from `start` to `stop`."""

    def __init__(
        self,
        reader: Reader,
        outbox: Outbox,
        settings: Udp,
        max_body_bytes: int,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        """`max_body_bytes` bounds a datagram and what a compressed one becomes. Raises ValueError for a bad network."""
        self.reader = reader
        """May be replaced when the configuration is read again."""
        self._outbox = outbox
        self._settings = settings
        self._max_body_bytes = max_body_bytes
        self._metrics = metrics
        self._now_ms = clock.monotonic_ms
        self._networks = Networks(settings.allowed_networks)
        self._received = metrics.events_received.labels("udp")
        self._accepted = metrics.events_accepted.labels("udp")
        self._duplicate = metrics.events_duplicate.labels("udp")
        self._rejected = {reason: metrics.events_rejected.labels("udp", reason) for reason in REJECT_REASONS}
        self._dropped = {reason: metrics.udp_datagrams_dropped.labels(reason) for reason in UDP_DROP_REASONS}
        self._burst: Burst | None = None
        self._socket: socket.socket | None = None
        self._left: deque[Datagram] = deque()
        """Read from the socket by the last wake, and not looked at yet."""
        self._long: _Long | None = None
        """Came before those."""
        self._read_left: asyncio.Handle | None = None
        self._wake_bytes = 0
        """Looked at in this turn, inflated."""
        self._reading = False
        self._resume: asyncio.TimerHandle | None = None
        self._uncommitted = 0
        self._kernel_drops = 0
        self._bad_gate = Gate(metrics.log_lines_suppressed, per_ms=_LOG_INTERVAL_MS)

    @property
    def address(self) -> str:
        """What is listened on, the port as bound; empty before `start`."""
        return format_address(self._socket.getsockname()) if self._socket else ""

    async def start(self) -> None:
        """Listen. Raises ListenError."""
        host, port = parse_address(self._settings.listen)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            self._socket = _bind(found[0][0], found[0][4])
        except OSError as error:
            raise listen_error(self._settings.listen, error, "udp.listen") from error
        self._burst = burst(self._socket, _DATAGRAMS_PER_WAKE)
        given = _ask_receive_buffer(self._socket, self._settings.receive_buffer_bytes)
        self._metrics.udp_receive_buffer_bytes.set(given)
        self._read_on()

    def stop(self) -> None:
        """Read what the kernel still holds, as far as the outbox takes it, and close.

        What was read is committed by the outbox's own close; answers to it are not sent any more.
        """
        if self._socket is None:
            return
        for _ in range(_WAKES_AT_STOP):
            if not self._reading or not self._read_wake():
                break
        while self._is_behind():
            self._take_in()
        self._pause()
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        self.refresh()
        self._socket.close()
        self._socket = None

    def refresh(self) -> None:
        """Count what the kernel dropped since the last call; it keeps a 32-bit counter per socket."""
        if self._socket is None:
            return
        try:
            meminfo = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        except OSError:  # a kernel before 4.12 does not tell
            return
        drops = _MEMINFO.unpack(meminfo)[_MEMINFO_DROPS]
        self._dropped["kernel"].inc((drops - self._kernel_drops) % 2**32)
        self._kernel_drops = drops

    # --- reading

    def _read_on(self) -> None:
        self._resume = None
        if self._socket is not None and not self._reading and self._uncommitted < _MAX_UNCOMMITTED:
            asyncio.get_running_loop().add_reader(self._socket, self._read_wake)
            self._reading = True
            self._read_left_soon()

    def _pause(self) -> None:
        if self._socket is not None and self._reading:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._reading = False

    def _wait_for_room(self) -> None:
        self._pause()
        if self._resume is None and self._socket is not None:
            self._resume = asyncio.get_running_loop().call_later(_PAUSE_S, self._read_on)

    def _read_wake(self) -> bool:
        """Take in what the last wake left, or what a new one reads; False if that was all, or there is no room."""
        assert self._burst is not None
        if not self._outbox.room():
            self._wait_for_room()
            return False
        more = self._is_behind()
        if not more:
            try:
                self._left.extend(self._burst())
            except OSError as error:
                self._log_bad("the socket failed", str(error))
                return False
            more = len(self._left) == _DATAGRAMS_PER_WAKE
        self._take_in()
        self._read_left_soon()
        return more

    def _take_in(self) -> None:
        """Append what some of the datagrams hold."""
        wake: list[_Datagram] = []
        count = 0
        self._wake_bytes = 0
        while self._is_behind() and self._wake_bytes < _BYTES_PER_WAKE:
            datagram = self._read_slice(self._long) if self._long else self._read_datagram(*self._left.popleft())
            if datagram is not None:
                wake.append(datagram)
                count += len(datagram.events)
        if wake:
            self._received.inc(count)
            self._append(wake)

    def _is_behind(self) -> bool:
        """Whether not all is looked at that was read from the socket."""
        return bool(self._left) or self._long is not None

    def _read_left_soon(self) -> None:
        """The socket may have nothing more, and then nobody wakes us."""
        if self._is_behind() and self._read_left is None:
            self._read_left = asyncio.get_running_loop().call_soon(self._take_left)

    def _take_left(self) -> None:
        self._read_left = None
        if self._is_behind() and self._reading:
            self._read_wake()

    def _read_datagram(self, data: bytes, sender: Any) -> _Datagram | None:
        if not self._networks.allows(sender[0]):
            self._drop("network", sender)
            return None
        size_bytes = len(data)
        if size_bytes > self._max_body_bytes:
            self._drop("truncated", sender)
            return None
        body = inflate(data, "gzip", self._max_body_bytes) if data[:2] == GZIP_MAGIC else data
        if isinstance(body, str):
            self._wake_bytes += self._max_body_bytes
            refusal = Refusal(body, "the datagram's gzip is corrupt or inflates to more than http.max_body")
            return self._taken(refusal, size_bytes, sender)
        if len(body) > _BYTES_PER_WAKE:
            self._long = _Long(self.reader.reading_datagram(body), size_bytes, sender)
            return None
        self._wake_bytes += len(body)
        return self._taken(self.reader.read_datagram(body), size_bytes, sender)

    def _read_slice(self, long: _Long) -> _Datagram | None:
        self._wake_bytes += _SLICE_BYTES
        try:
            next(long.reading)
        except StopIteration as done:
            self._long = None
            return self._taken(done.value, long.size_bytes, long.sender)
        return None

    def _taken(self, events: list[Event] | Refusal, size_bytes: int, sender: Any) -> _Datagram | None:
        """Counts what was read."""
        if isinstance(events, Refusal):
            self._refuse(events, size_bytes, sender)
            return None
        return _Datagram(events, size_bytes, sender)

    def _drop(self, reason: str, sender: Any) -> None:
        self._dropped[reason].inc()
        self._log_bad(reason, sender[0])

    def _refuse(self, refusal: Refusal, size_bytes: int, sender: Any) -> None:
        self._received.inc()
        self._rejected[refusal.reason].inc()
        self._log_bad(refusal.reason, refusal.error)
        if self._settings.ack:
            self._send(error_ack(refusal.error, size_bytes), sender)

    def _log_bad(self, reason: str, detail: str) -> None:
        if self._bad_gate.admit("bad", self._now_ms()) is not None:
            _log.warning("a datagram was not taken", reason=reason, detail=detail)

    # --- keeping

    def _append(self, datagrams: list[_Datagram]) -> None:
        events = datagrams[0].events if len(datagrams) == 1 else [event for each in datagrams for event in each.events]
        self._uncommitted += len(events)
        self._outbox.append(events).add_done_callback(partial(self._appended, datagrams, len(events)))
        if self._uncommitted >= _MAX_UNCOMMITTED:
            self._pause()

    def _appended(self, datagrams: list[_Datagram], count: int, outcome: asyncio.Future[int]) -> None:
        """What the outbox said of one append."""
        self._uncommitted -= count
        error = OutboxError("the append was abandoned") if outcome.cancelled() else outcome.exception()
        if error is None:
            duplicates = outcome.result()
            self._accepted.inc(count - duplicates)
            self._duplicate.inc(duplicates)
            self._acknowledge(datagrams)
        elif isinstance(error, OutboxFull) and len(datagrams) > 1:
            for each in datagrams:
                self._append([each])
            return
        else:
            self._not_kept(datagrams, count, error)
            return
        if self._resume is None:
            self._read_on()

    def _not_kept(self, datagrams: list[_Datagram], count: int, error: BaseException) -> None:
        """Count the loss, and leave the next ones to the kernel's buffer for a moment."""
        self._rejected["full" if isinstance(error, OutboxFull) else "unavailable"].inc(count)
        self._log_bad("the outbox did not take it", str(error))
        if self._settings.ack:
            for each in datagrams:
                self._send(error_ack(str(error), each.size_bytes), each.sender)
        if not isinstance(error, OutboxShareTaken):
            self._wait_for_room()
        elif self._resume is None:
            self._read_on()  # other devices' datagrams may be kept
        if not isinstance(error, OutboxError):
            raise error

    def _acknowledge(self, datagrams: list[_Datagram]) -> None:
        if self._settings.ack:
            for each in datagrams:
                self._send(stored_ack([event.event_id for event in each.events], each.size_bytes), each.sender)

    def _send(self, ack: bytes, receiver: Any) -> None:
        if self._socket is None or not ack:
            return
        try:
            self._socket.sendto(ack, receiver)
        except OSError as error:  # an answer is a courtesy: the sender may be gone, or its buffer full
            _log.debug("an answer was not sent", error=str(error))


def stored_ack(event_ids: Sequence[bytes], max_bytes: int) -> bytes:
    """`{"stored": [...]}` with as many of the 16-byte ids as fit into `max_bytes`; else `{}`, else nothing."""
    names = [str(uuid.UUID(bytes=event_id)) for event_id in event_ids]
    fit = min(len(names), (max_bytes - len('{"stored":[]}') + 1) // len(f'"{uuid.UUID(int=0)}",'))
    return _compact({"stored": names[:fit]}) if fit > 0 else b"{}"[: max_bytes // 2 * 2]


def error_ack(error: str, max_bytes: int) -> bytes:
    """`{"error": "..."}`, the text cut to fit into `max_bytes`; else `{}`, else nothing."""
    text = error.encode("ascii", "replace").decode()
    while text:
        ack = _compact({"error": text})
        if len(ack) <= max_bytes:
            return ack
        text = text[: max_bytes - len(ack)]
    return b"{}"[: max_bytes // 2 * 2]


def _compact(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _bind(family: int, address: Any) -> socket.socket:
    receiving = socket.socket(family, socket.SOCK_DGRAM)
    try:
        receiving.setblocking(False)
        if family == socket.AF_INET6:
            receiving.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        receiving.bind(address)
    except OSError:
        receiving.close()
        raise
    return receiving


def _ask_receive_buffer(receiving: socket.socket, wanted_bytes: int) -> int:
    """What the kernel gave. Beyond net.core.rmem_max it gives only to CAP_NET_ADMIN; it counts double (socket(7))."""
    try:
        receiving.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted_bytes)
    except PermissionError:
        receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted_bytes)
    return receiving.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2

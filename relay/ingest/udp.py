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
5.  A bug costs the datagram in which it shows, counted as unavailable; the event loop is told at most once a second.
    Whatever fails, the socket is read on.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from functools import partial
from typing import Any, NamedTuple

import structlog

from relay.address import addresses, format_address
from relay.clock import Clock
from relay.config import Udp
from relay.event import Event, Reader, Reading, Refusal
from relay.ingest import udp_socket
from relay.ingest.ack import error_ack, stored_ack
from relay.ingest.burst import Burst, Datagram, burst
from relay.ingest.gather import report
from relay.ingest.guard import Networks
from relay.ingest.inflate import GZIP_MAGIC, inflate
from relay.ingest.wake import Origin, Wake
from relay.listening import open_sockets
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
_REST_S, _LONG_REST_S = 0.002, 0.01
"""After a wake that read something, until the next: each wake and its commit cost more than an event."""
_LONG_REST_BYTES = 2 << 20
"""Of the kernel's buffer: room for a burst of a thousand datagrams, whatever we do. With less, or with somebody
waiting for an answer, the rest is short."""
_LOG_INTERVAL_MS = 1_000

_log = structlog.get_logger(__name__)


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
        self._rest_s = _REST_S
        self._watching = False
        """Whether the event loop wakes us when a datagram comes."""
        self._next_wake: asyncio.Handle | None = None
        """Else we wake by ourselves; with neither, when an append ends."""
        self._uncommitted = 0
        self._kernel_drops = 0
        self._bad_gate = Gate(metrics.log_lines_suppressed, per_ms=_LOG_INTERVAL_MS)

    @property
    def address(self) -> str:
        """What is listened on, the port as bound; empty before `start`."""
        return format_address(self._socket.getsockname()) if self._socket else ""

    async def start(self) -> None:
        """Listen. Raises ListenError."""
        first = addresses(self._settings.listen)[:1]
        self._socket, *others = await open_sockets(first, Udp().listen, socket.SOCK_DGRAM, "udp.listen")
        for each in others:
            each.close()
        self._burst = burst(self._socket, _DATAGRAMS_PER_WAKE)
        given = udp_socket.ask_receive_buffer(self._socket, self._settings.receive_buffer_bytes)
        self._metrics.udp_receive_buffer_bytes.set(given)
        if given >= _LONG_REST_BYTES and not self._settings.ack:
            self._rest_s = _LONG_REST_S
        self._read_on()

    def stop(self) -> None:
        """Read what the kernel still holds, as far as the outbox takes it, and close.

        What was read is committed by the outbox's own close; answers to it are not sent any more.
        """
        if self._socket is None:
            return
        self._sleep()
        try:
            self._take_in_all()
            for _ in range(_WAKES_AT_STOP):
                if not self._outbox.room() or not self._read():
                    break
                self._take_in_all()
            self.refresh()
        finally:
            self._socket.close()
            self._socket = None

    def refresh(self) -> None:
        """Count what the kernel dropped since the last call; it keeps a 32-bit counter per socket."""
        drops = None if self._socket is None else udp_socket.kernel_drops(self._socket)
        if drops is not None:
            self._dropped["kernel"].inc((drops - self._kernel_drops) % 2**32)
            self._kernel_drops = drops

    # --- reading

    def _read_on(self) -> None:
        """Wake when there is something to read, unless that is settled already."""
        if self._socket is None or self._watching or self._next_wake is not None:
            return
        loop = asyncio.get_running_loop()
        if self._uncommitted >= _MAX_UNCOMMITTED:
            return
        if self._is_behind():
            self._next_wake = loop.call_soon(self._wake)
        else:
            loop.add_reader(self._socket, self._wake)
            self._watching = True

    def _sleep(self, delay_s: float | None = None) -> None:
        """Read nothing for so long, or until `_read_on`."""
        loop = asyncio.get_running_loop()
        if self._watching and self._socket is not None:
            loop.remove_reader(self._socket)
            self._watching = False
        if self._next_wake is not None:
            self._next_wake.cancel()
            self._next_wake = None
        if delay_s is not None and self._socket is not None:
            self._next_wake = loop.call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._next_wake = None
        try:
            self._take_turn()
        except BaseException:
            self._sleep(_PAUSE_S)  # else nothing might wake us any more, or the same bug at once
            raise

    def _take_turn(self) -> None:
        """Take in what the last wake left, or else what the socket holds, and settle when to wake next."""
        if self._uncommitted >= _MAX_UNCOMMITTED:
            self._sleep()
            return
        if not self._outbox.room():
            self._sleep(_PAUSE_S)
            return
        read = 0 if self._is_behind() else self._read()
        self._take_in()
        if self._uncommitted >= _MAX_UNCOMMITTED:
            self._sleep()  # until an append ends
        elif read == _DATAGRAMS_PER_WAKE or self._is_behind():
            self._sleep(0)
        elif read:
            self._sleep(self._rest_s)
        else:
            self._read_on()

    def _read(self) -> int:
        """How many datagrams of the socket are to be taken in now."""
        assert self._burst is not None
        try:
            self._left.extend(self._burst())
        except OSError as error:
            self._log_bad("the socket failed", str(error))
        return len(self._left)

    def _take_in(self) -> None:
        """Append what some of the datagrams hold."""
        try:
            wake = self._read_together()
        except Exception as bug:  # whose datagram it is shows when each is read by itself
            self._report("datagrams could not be read together", bug)
            wake = None
        wake = wake or self._read_each()
        if wake.events:
            self._received.inc(len(wake.events))
            self._append(wake)

    def _take_in_all(self) -> None:
        while self._is_behind():
            self._take_in()

    def _is_behind(self) -> bool:
        """Whether not all is looked at that was read from the socket."""
        return bool(self._left) or self._long is not None

    def _read_together(self) -> Wake | None:
        """All that is left, if each is a plain event and comes from where it may."""
        if len(self._left) < 2 or self._long is not None:
            return None
        bodies = [data for data, _ in self._left]
        sizes = list(map(len, bodies))
        if sum(sizes) > _BYTES_PER_WAKE or max(sizes) > self._max_body_bytes:
            return None
        senders = [sender for _, sender in self._left]
        if not all(self._networks.allows(sender[0]) for sender in set(senders)):
            return None
        events = self.reader.read_singles(bodies)
        if events is None:
            return None
        wake = Wake(events, [Origin(1, size, sender) for size, sender in zip(sizes, senders, strict=True)])
        self._left.clear()
        return wake

    def _read_each(self) -> Wake:
        """What is left, one by one, up to a wake's bytes."""
        wake = Wake([], [])
        wake_bytes = 0
        while self._is_behind() and wake_bytes < _BYTES_PER_WAKE:
            if self._long is not None:
                wake_bytes += _SLICE_BYTES
                self._read_slice(self._long, wake)
                continue
            data, sender = self._left.popleft()
            try:
                wake_bytes += self._read_datagram(data, sender, wake)
            except Exception as bug:
                self._failed(bug, len(data), sender)
                break  # nobody knows how long it took
        return wake

    def _read_datagram(self, data: bytes, sender: Any, wake: Wake) -> int:
        """Returns how many bytes were looked at, inflated."""
        if not self._networks.allows(sender[0]):
            self._drop("network", sender)
            return 0
        size_bytes = len(data)
        if size_bytes > self._max_body_bytes:
            self._drop("truncated", sender)
            return 0
        body = inflate(data, "gzip", self._max_body_bytes) if data[:2] == GZIP_MAGIC else data
        if isinstance(body, str):
            refusal = Refusal(body, "the datagram's gzip is corrupt or inflates to more than http.max_body")
            self._taken(refusal, size_bytes, sender, wake)
            return self._max_body_bytes
        if len(body) > _BYTES_PER_WAKE:
            self._long = _Long(self.reader.reading_datagram(body), size_bytes, sender)
            return 0
        self._taken(self.reader.read_datagram(body), size_bytes, sender, wake)
        return len(body)

    def _read_slice(self, long: _Long, wake: Wake) -> None:
        try:
            next(long.reading)
        except StopIteration as done:
            self._long = None
            self._taken(done.value, long.size_bytes, long.sender, wake)
        except Exception as bug:
            self._long = None
            self._failed(bug, long.size_bytes, long.sender)

    def _taken(self, events: list[Event] | Refusal, size_bytes: int, sender: Any, wake: Wake) -> None:
        if isinstance(events, Refusal):
            self._log_bad(events.reason, events.error)
            self._refuse(events.reason, events.error, size_bytes, sender)
        else:
            wake.events.extend(events)
            wake.origins.append(Origin(len(events), size_bytes, sender))

    def _drop(self, reason: str, sender: Any) -> None:
        self._dropped[reason].inc()
        self._log_bad(reason, sender[0])

    def _failed(self, bug: Exception, size_bytes: int, sender: Any) -> None:
        self._report("a datagram could not be read", bug)
        self._refuse("unavailable", "the relay failed on this datagram", size_bytes, sender)

    def _refuse(self, reason: str, error: str, size_bytes: int, sender: Any) -> None:
        self._received.inc()
        self._rejected[reason].inc()
        if self._settings.ack:
            self._send(error_ack(error, size_bytes), sender)

    def _log_bad(self, reason: str, detail: str) -> None:
        if self._bad_gate.admit("bad", self._now_ms()) is not None:
            _log.warning("a datagram was not taken", reason=reason, detail=detail)

    def _report(self, message: str, bug: Exception) -> None:
        if self._bad_gate.admit(message, self._now_ms()) is not None:
            report(message, bug)

    # --- keeping

    def _append(self, wake: Wake) -> None:
        self._uncommitted += len(wake.events)
        try:
            appended = self._outbox.append(wake.events, callers=len(wake.origins) if self._settings.ack else 0)
        except Exception as bug:  # as if it had failed later: so it is counted, answered and told
            appended = asyncio.get_running_loop().create_future()
            appended.set_exception(bug)
        appended.add_done_callback(partial(self._appended, wake))

    def _appended(self, wake: Wake, outcome: asyncio.Future[int]) -> None:
        """What the outbox said of one append."""
        count = len(wake.events)
        self._uncommitted -= count
        error = OutboxError("the append was abandoned") if outcome.cancelled() else outcome.exception()
        try:
            if error is None:
                duplicates = outcome.result()
                self._accepted.inc(count - duplicates)
                self._duplicate.inc(duplicates)
                if self._settings.ack:
                    self._acknowledge(wake)
            elif isinstance(error, OutboxFull) and len(wake.origins) > 1:
                for each in wake.apart():
                    self._append(each)
            else:
                self._not_kept(wake, error)
        finally:
            self._read_on()

    def _not_kept(self, wake: Wake, error: BaseException) -> None:
        """Count the loss, and leave the next ones to the kernel's buffer for a moment."""
        self._rejected["full" if isinstance(error, OutboxFull) else "unavailable"].inc(len(wake.events))
        self._log_bad("the outbox did not take it", str(error))
        if self._settings.ack:
            for origin in wake.origins:
                self._send(error_ack(str(error), origin.size_bytes), origin.sender)
        if not isinstance(error, OutboxShareTaken):  # then other devices' datagrams may be kept
            self._sleep(_PAUSE_S)
        if not isinstance(error, OutboxError):
            raise error

    def _acknowledge(self, wake: Wake) -> None:
        for events, (origin,) in wake.apart():
            self._send(stored_ack([event.event_id for event in events], origin.size_bytes), origin.sender)

    def _send(self, ack: bytes, receiver: Any) -> None:
        if self._socket is None or not ack:
            return
        try:
            self._socket.sendto(ack, receiver)
        except OSError as error:  # an answer is a courtesy: the sender may be gone, or its buffer full
            _log.debug("an answer was not sent", error=str(error))

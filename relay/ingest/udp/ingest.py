"""UDP for apps: datagrams become events in the outbox, as many per wake as are there.

asyncio's datagram transport reads one datagram per turn of the loop and lost 40 % at a rate that this way of reading
took without loss: own sockets, drained per wake by one call of the kernel each.

Rules:
1.  A datagram is stored whole or not at all, and none suffers for another: what one wake read of a socket is appended
    in one call, and if the outbox has no room for all of it, datagram by datagram.
2.  While the outbox has no room, cannot keep up, or fails, nothing is read: the kernel's buffer takes the wait, and
    what the kernel then drops is counted. Memory holds at most `_MAX_UNCOMMITTED` events and one wake's.
3.  Small datagrams are read before expensive ones (`datagrams`): each wake reads the sockets, and then takes one step
    of the backlog.
4.  What is bad is counted by reason and logged at most once a second in all.
5.  A response (udp.ack) is sent only after the commit, and only to allowed networks; see `ack`.
6.  A bug costs the datagram in which it shows, counted as unavailable; the event loop is told at most once a second.
    Whatever fails, the sockets are read on.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from functools import partial
from typing import Any

import structlog

from relay.config import Udp
from relay.event.reader import Reader, Rejection
from relay.http.guard import Networks
from relay.ingest.append_coalescer import report
from relay.ingest.udp import socket as udp_socket
from relay.ingest.udp.datagrams import Datagrams, Received
from relay.ingest.udp.read_batch import Wake
from relay.ingest.udp.recvmmsg import Datagram, burst
from relay.ingest.udp.responses import Responses
from relay.outbox import Outbox, OutboxError, OutboxFull, OutboxShareUsed
from relay.runtime.address import format_address
from relay.runtime.clock import Clock
from relay.runtime.listening import open_sockets
from relay.runtime.log import Gate
from relay.runtime.metrics import REJECT_REASONS, UDP_DROP_REASONS, Metrics

_DATAGRAMS_PER_WAKE = 64
"""Of each socket: about a millisecond of work; HTTP is served in between."""
_WAKES_AT_STOP = 256
_STEPS_AT_STOP = 256
"""Of the backlog: less than a second, so that expensive datagrams do not delay the stop."""
_MAX_UNCOMMITTED = 10_000
_PAUSE_S = 0.1
_REST_S, _LONG_REST_S = 0.002, 0.01
"""After a wake that read something, until the next: each wake and its commit cost more than an event."""
_LONG_REST_BYTES = 2 << 20
"""Of the kernel's buffer: room for a burst of a thousand datagrams, whatever we do. With less, or with somebody
waiting for a response, the rest is short."""
_LOG_INTERVAL_MS = 1_000

_log = structlog.get_logger(__name__)


class _Source:
    """A socket, and what was read from it and not looked at yet."""

    def __init__(self, receiving: socket.socket) -> None:
        self.socket = receiving
        self.left: deque[Datagram] = deque()
        self._burst = burst(receiving, _DATAGRAMS_PER_WAKE)
        self._kernel_drops = 0

    def read(self) -> int:
        """Read datagrams unless some are left; return how many there are to look at. Raises OSError."""
        if not self.left:
            self.left.extend(self._burst())
        return len(self.left)

    def new_kernel_drops(self) -> int:
        """Return how many datagrams the kernel dropped since the last call; it has a 32-bit counter per socket."""
        drops = udp_socket.kernel_drops(self.socket)
        if drops is None:
            return 0
        before, self._kernel_drops = self._kernel_drops, drops
        return (drops - before) % 2**32


class UdpIngest:
    """Reads the sockets of `udp.listen` from `start` to `stop`."""

    def __init__(
        self,
        reader: Reader,
        outbox: Outbox,
        settings: Udp,
        max_body_bytes: int,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        """`max_body_bytes` bounds a datagram as it comes. Raises ValueError for a bad network."""
        self._outbox = outbox
        self._settings = settings
        self._metrics = metrics
        self._now_ms = clock.monotonic_ms
        self._received = metrics.events_received.labels("udp")
        self._accepted = metrics.events_accepted.labels("udp")
        self._duplicate = metrics.events_duplicate.labels("udp")
        self._rejected = {reason: metrics.events_rejected.labels("udp", reason) for reason in REJECT_REASONS}
        self._dropped = {reason: metrics.udp_datagrams_dropped.labels(reason) for reason in UDP_DROP_REASONS}
        networks = Networks(settings.allowed_networks)
        self._datagrams = Datagrams(reader, max_body_bytes, settings.receive_buffer_bytes, networks, self)
        self._sources: list[_Source] = []
        self._responses = Responses((), enabled=False)
        self._rest_s = _REST_S
        self._watching = False
        """Whether the event loop wakes us when a datagram comes."""
        self._next_wake: asyncio.Handle | None = None
        """Else we wake by ourselves; with neither, when an append ends."""
        self._uncommitted = 0
        self._bad_gate = Gate(metrics.log_lines_suppressed, per_ms=_LOG_INTERVAL_MS)
        self._wake_measured = metrics.longest_step.measured(self._wake)

    @property
    def reader(self) -> Reader:
        """May be replaced when the configuration is read again."""
        return self._datagrams.reader

    @reader.setter
    def reader(self, reader: Reader) -> None:
        self._datagrams.reader = reader

    @property
    def addresses(self) -> list[str]:
        """What is listened on, ports as bound; empty before `start`."""
        return [format_address(source.socket.getsockname()) for source in self._sources]

    async def start(self) -> None:
        """Listen. Raises ListenError."""
        sockets = await open_sockets(self._settings.listen, Udp().listen, socket.SOCK_DGRAM, "udp.listen")
        self._sources = [_Source(each) for each in sockets]
        self._responses = Responses(sockets, enabled=self._settings.ack)
        given = min(udp_socket.ask_receive_buffer(each, self._settings.receive_buffer_bytes) for each in sockets)
        self._metrics.udp_receive_buffer_bytes.set(given)
        if given >= _LONG_REST_BYTES and not self._settings.ack:
            self._rest_s = _LONG_REST_S
        self._read_on()

    def stop(self) -> None:
        """Read what the kernel still holds, as far as the outbox takes it, and close.

        What was read is committed by the outbox's own close; responses to it are not sent any more. Expensive
        datagrams that cannot be read within a second are dropped and counted.
        """
        if not self._sources:
            return
        self._sleep()
        try:
            self._take_in_all()
            for _ in range(_WAKES_AT_STOP):
                if not self._outbox.room() or not self._read():
                    break
                self._take_in_all()
            self._end_backlog()
            self.refresh()
        finally:
            for source in self._sources:
                source.socket.close()
            self._sources = []

    def refresh(self) -> None:
        """Count what the kernel dropped since the last call."""
        for source in self._sources:
            self._dropped["kernel"].inc(source.new_kernel_drops())

    # --- reading

    def _read_on(self) -> None:
        """Wake when there is something to read, unless that is settled already."""
        if not self._sources or self._watching or self._next_wake is not None:
            return
        loop = asyncio.get_running_loop()
        if self._uncommitted >= _MAX_UNCOMMITTED:
            return
        if self._is_behind():
            self._next_wake = loop.call_soon(self._wake_measured)
        else:
            for source in self._sources:
                loop.add_reader(source.socket, self._wake_measured)
            self._watching = True

    def _sleep(self, delay_s: float | None = None) -> None:
        """Read nothing for so long, or until `_read_on`."""
        loop = asyncio.get_running_loop()
        if self._watching:
            for source in self._sources:
                loop.remove_reader(source.socket)
            self._watching = False
        if self._next_wake is not None:
            self._next_wake.cancel()
            self._next_wake = None
        if delay_s is not None and self._sources:
            self._next_wake = loop.call_later(delay_s, self._wake_measured)

    def _wake(self) -> None:
        self._next_wake = None
        try:
            self._take_turn()
        except BaseException:
            self._sleep(_PAUSE_S)  # else nothing might wake us any more, or the same bug at once
            raise

    def _take_turn(self) -> None:
        """Take in what the last wake left or else what the sockets hold, and settle when to wake next."""
        if self._uncommitted >= _MAX_UNCOMMITTED:
            self._sleep()
            return
        if not self._outbox.room():
            self._sleep(_PAUSE_S)
            return
        read = self._read()
        self._take_in()
        if self._datagrams.has_backlog and self._uncommitted < _MAX_UNCOMMITTED:
            self._append(self._datagrams.read_step())
        if self._uncommitted >= _MAX_UNCOMMITTED:
            self._sleep()  # until an append ends
        elif read >= _DATAGRAMS_PER_WAKE or self._is_behind():
            self._sleep(0)
        elif read:
            self._sleep(self._rest_s)
        else:
            self._read_on()

    def _read(self) -> int:
        """Return how many datagrams of the sockets are to be taken in now, at most of one socket."""
        most = 0
        for source in self._sources:
            try:
                most = max(most, source.read())
            except OSError as error:
                self._log_bad("the socket failed", str(error))
        return most

    def _take_in(self) -> None:
        """Append what some of the datagrams hold."""
        for source in self._sources:
            if source.left:
                self._append(self._datagrams.read_small(source.left, source.socket))

    def _take_in_all(self) -> None:
        while any(source.left for source in self._sources):
            self._take_in()

    def _end_backlog(self) -> None:
        """Read as much of the backlog as a stop may."""
        for _ in range(_STEPS_AT_STOP):
            if not self._datagrams.has_backlog:
                return
            self._append(self._datagrams.read_step())
        self._datagrams.drop_backlog()

    def _is_behind(self) -> bool:
        """Whether not all is looked at that was read from the sockets."""
        return self._datagrams.has_backlog or any(source.left for source in self._sources)

    # --- what is not events

    def dropped(self, reason: str, sender: Any) -> None:
        self._dropped[reason].inc()
        self._log_bad(reason, sender[0])

    def refused(self, rejection: Rejection, received: Received) -> None:
        self._log_bad(rejection.reason, rejection.error)
        self._refuse(rejection.reason, rejection.error, received)

    def failed(self, bug: Exception, received: Received) -> None:
        self._report("a datagram could not be read", bug)
        self._refuse("unavailable", "the relay failed on this datagram", received)

    def could_not_read_together(self, bug: Exception) -> None:
        self._report("datagrams could not be read together", bug)

    def _refuse(self, reason: str, error: str, received: Received) -> None:
        self._received.inc()
        self._rejected[reason].inc()
        self._responses.refused(error, received)

    def _log_bad(self, reason: str, detail: str) -> None:
        if self._bad_gate.admit("bad", self._now_ms()) is not None:
            _log.warning("a datagram was not taken", reason=reason, detail=detail)

    def _report(self, message: str, bug: Exception) -> None:
        if self._bad_gate.admit(message, self._now_ms()) is not None:
            report(message, bug)

    # --- storing

    def _append(self, wake: Wake | None) -> None:
        if wake is None or not wake.events:
            return
        self._received.inc(len(wake.events))
        self._append_received(wake)

    def _append_received(self, wake: Wake) -> None:
        self._uncommitted += len(wake.events)
        try:
            appended = self._outbox.append(wake.events, callers=len(wake.origins) if self._settings.ack else 0)
        except Exception as bug:  # as if it had failed later: so it is counted, responded to and reported
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
                self._responses.stored(wake)
            elif isinstance(error, OutboxFull) and len(wake.origins) > 1:
                for each in wake.apart():
                    self._append_received(each)
            else:
                self._not_stored(wake, error)
        finally:
            self._read_on()

    def _not_stored(self, wake: Wake, error: BaseException) -> None:
        """Count the loss, and leave the next ones to the kernel's buffer for a moment."""
        self._rejected["full" if isinstance(error, OutboxFull) else "unavailable"].inc(len(wake.events))
        self._log_bad("the outbox did not take it", str(error))
        self._responses.not_stored(wake, str(error))
        if not isinstance(error, OutboxShareUsed):  # then other devices' datagrams may be stored
            self._sleep(_PAUSE_S)
        if not isinstance(error, OutboxError):
            raise error

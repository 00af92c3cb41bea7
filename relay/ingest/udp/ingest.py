"""Receive events over UDP and append them to the outbox.

asyncio's datagram transport reads one datagram per turn of the event loop, and lost 40 % of the datagrams at a rate
that this module receives without loss. It reads each socket with one system call per wake.

Rules:
1.  A datagram is stored as a whole or not at all, and datagrams do not affect each other. The events that one wake read
    from a socket are appended in one call. If the outbox has no room for all, each datagram is appended separately.
2.  While the outbox has no room, is too slow, or fails, the sockets are not read. Datagrams stay in the kernel's
    buffer, and the relay counts the datagrams that the kernel drops. Memory contains at most `_MAX_UNCOMMITTED` events
    plus the events of one wake.
3.  Small datagrams are read before expensive ones (`datagrams`). Each wake reads the sockets, and then runs one step
    of the backlog.
4.  Rejected datagrams are counted by reason. At most one per second is logged.
5.  A response (udp.ack) is sent only after the commit, and only to allowed networks; see `ack`.
6.  An exception affects only the datagram that causes it. The datagram is counted as unavailable, and the exception is
    reported to the event loop at most once per second. Reading continues after every failure.
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
from relay.ingest.append_coalescer import report_bug
from relay.ingest.udp import socket as udp_socket
from relay.ingest.udp.datagrams import Datagrams, ReceivedDatagram
from relay.ingest.udp.read_batch import ReadBatch
from relay.ingest.udp.recvmmsg import Datagram, burst
from relay.ingest.udp.responses import Responses
from relay.outbox import Outbox, OutboxError, OutboxFull, OutboxShareUsed
from relay.runtime.address import format_address
from relay.runtime.clock import Clock
from relay.runtime.listening import open_sockets
from relay.runtime.log import Gate
from relay.runtime.metrics import REJECT_REASONS, UDP_DROP_REASONS, Metrics

_DATAGRAMS_PER_WAKE = 64
"""Datagrams per socket and wake: about 1 ms of work. HTTP is served between wakes."""
_WAKES_AT_STOP = 256
_STEPS_AT_STOP = 256
"""Steps of the backlog at a stop: less than a second, so that expensive datagrams do not delay the stop."""
_MAX_UNCOMMITTED = 10_000
_PAUSE_S = 0.1
_LINGER_S, _LONG_LINGER_S = 0.002, 0.01
"""Time from a wake that read datagrams to the next wake. A wake and its commit cost more than an event."""
_LONG_LINGER_BUFFER_BYTES = 2 << 20
"""Smallest receive buffer for the long linger time: room for a burst of a thousand datagrams. With a smaller buffer,
or with udp.ack, the linger time is short."""
_LOG_INTERVAL_MS = 1_000

_log = structlog.get_logger(__name__)


class _Source:
    """A socket, with the datagrams that were received from it and are not processed yet."""

    def __init__(self, receiving: socket.socket) -> None:
        self.socket = receiving
        self.unread: deque[Datagram] = deque()
        self._burst = burst(receiving, _DATAGRAMS_PER_WAKE)
        self._kernel_drops = 0

    def read(self) -> int:
        """Receive datagrams if all earlier ones are processed; return the number of unread ones. Raises OSError."""
        if not self.unread:
            self.unread.extend(self._burst())
        return len(self.unread)

    def new_kernel_drops(self) -> int:
        """Return how many datagrams the kernel dropped since the last call, from its 32-bit counter per socket."""
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
        """`max_body_bytes` limits the size of a received datagram. Raises ValueError for an invalid network."""
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
        self._linger_s = _LINGER_S
        self._watching = False
        """Whether the event loop calls `_wake` when a datagram arrives."""
        self._next_wake: asyncio.Handle | None = None
        """The scheduled call of `_wake`. Without it and without `_watching`, the end of an append schedules one."""
        self._uncommitted = 0
        self._log_gate = Gate(metrics.log_lines_suppressed, per_ms=_LOG_INTERVAL_MS)
        self._wake_measured = metrics.longest_step.measured(self._wake)

    @property
    def reader(self) -> Reader:
        """A reload of the configuration may replace the reader."""
        return self._datagrams.reader

    @reader.setter
    def reader(self, reader: Reader) -> None:
        self._datagrams.reader = reader

    @property
    def addresses(self) -> list[str]:
        """The bound addresses with their ports; empty before `start`."""
        return [format_address(source.socket.getsockname()) for source in self._sources]

    async def start(self) -> None:
        """Listen. Raises ListenError."""
        sockets = await open_sockets(self._settings.listen, Udp().listen, socket.SOCK_DGRAM, "udp.listen")
        self._sources = [_Source(each) for each in sockets]
        self._responses = Responses(sockets, enabled=self._settings.ack)
        given = min(udp_socket.ask_receive_buffer(each, self._settings.receive_buffer_bytes) for each in sockets)
        self._metrics.udp_receive_buffer_bytes.set(given)
        if given >= _LONG_LINGER_BUFFER_BYTES and not self._settings.ack:
            self._linger_s = _LONG_LINGER_S
        self._schedule_wake()

    def stop(self) -> None:
        """Read the datagrams in the kernel's buffer while the outbox has room, then close the sockets.

        Closing the outbox commits the appended events. No responses are sent to them. Expensive datagrams that cannot
        be read within a second are dropped and counted.
        """
        if not self._sources:
            return
        self._pause()
        try:
            self._append_all_read()
            for _ in range(_WAKES_AT_STOP):
                if not self._outbox.room() or not self._read():
                    break
                self._append_all_read()
            self._read_backlog_at_stop()
            self.refresh()
        finally:
            for source in self._sources:
                source.socket.close()
            self._sources = []

    def refresh(self) -> None:
        """Count the datagrams that the kernel dropped since the last call."""
        for source in self._sources:
            self._dropped["kernel"].inc(source.new_kernel_drops())

    # --- reading

    def _schedule_wake(self) -> None:
        """Schedule the next wake, unless one is scheduled already."""
        if not self._sources or self._watching or self._next_wake is not None:
            return
        loop = asyncio.get_running_loop()
        if self._uncommitted >= _MAX_UNCOMMITTED:
            return
        if self._has_unprocessed():
            self._next_wake = loop.call_soon(self._wake_measured)
        else:
            for source in self._sources:
                loop.add_reader(source.socket, self._wake_measured)
            self._watching = True

    def _pause(self, delay_s: float | None = None) -> None:
        """Stop reading for `delay_s`, or until `_schedule_wake` is called if it is None."""
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
            self._process_wake()
        except BaseException:
            self._pause(_PAUSE_S)  # Ensures another wake, and delays a repetition of the same exception.
            raise

    def _process_wake(self) -> None:
        """Process unread datagrams, or receive new ones, and schedule the next wake."""
        if self._uncommitted >= _MAX_UNCOMMITTED:
            self._pause()
            return
        if not self._outbox.room():
            self._pause(_PAUSE_S)
            return
        read = self._read()
        self._append_read()
        if self._datagrams.has_backlog and self._uncommitted < _MAX_UNCOMMITTED:
            self._append(self._datagrams.read_step())
        if self._uncommitted >= _MAX_UNCOMMITTED:
            self._pause()  # The end of an append schedules the next wake.
        elif read >= _DATAGRAMS_PER_WAKE or self._has_unprocessed():
            self._pause(0)
        elif read:
            self._pause(self._linger_s)
        else:
            self._schedule_wake()

    def _read(self) -> int:
        """Receive datagrams from the sockets; return the largest number of unread datagrams of one socket."""
        most = 0
        for source in self._sources:
            try:
                most = max(most, source.read())
            except OSError as error:
                self._log_rejected("the socket failed", str(error))
        return most

    def _append_read(self) -> None:
        """Append the events of unread datagrams, up to the limit of a call for each socket."""
        for source in self._sources:
            if source.unread:
                self._append(self._datagrams.read_small(source.unread, source.socket))

    def _append_all_read(self) -> None:
        while any(source.unread for source in self._sources):
            self._append_read()

    def _read_backlog_at_stop(self) -> None:
        """Run at most `_STEPS_AT_STOP` steps of the backlog, then drop the rest."""
        for _ in range(_STEPS_AT_STOP):
            if not self._datagrams.has_backlog:
                return
            self._append(self._datagrams.read_step())
        self._datagrams.drop_backlog()

    def _has_unprocessed(self) -> bool:
        """Return whether received datagrams are not processed yet."""
        return self._datagrams.has_backlog or any(source.unread for source in self._sources)

    # --- rejected datagrams

    def dropped(self, reason: str, sender: Any) -> None:
        self._dropped[reason].inc()
        self._log_rejected(reason, sender[0])

    def rejected(self, rejection: Rejection, received: ReceivedDatagram) -> None:
        self._log_rejected(rejection.reason, rejection.error)
        self._reject(rejection.reason, rejection.error, received)

    def failed(self, bug: Exception, received: ReceivedDatagram) -> None:
        self._report("a datagram could not be read", bug)
        self._reject("unavailable", "the relay failed on this datagram", received)

    def reading_together_failed(self, bug: Exception) -> None:
        self._report("datagrams could not be read together", bug)

    def _reject(self, reason: str, error: str, received: ReceivedDatagram) -> None:
        self._received.inc()
        self._rejected[reason].inc()
        self._responses.rejected(error, received)

    def _log_rejected(self, reason: str, detail: str) -> None:
        if self._log_gate.admit("bad", self._now_ms()) is not None:
            _log.warning("a datagram was rejected", reason=reason, detail=detail)

    def _report(self, message: str, bug: Exception) -> None:
        if self._log_gate.admit(message, self._now_ms()) is not None:
            report_bug(message, bug)

    # --- storing

    def _append(self, batch: ReadBatch | None) -> None:
        if batch is None or not batch.events:
            return
        self._received.inc(len(batch.events))
        self._append_received(batch)

    def _append_received(self, batch: ReadBatch) -> None:
        self._uncommitted += len(batch.events)
        try:
            appended = self._outbox.append(batch.events, callers=len(batch.datagrams) if self._settings.ack else 0)
        except Exception as bug:  # Handled like a failed append: counted, reported and sent as a response.
            appended = asyncio.get_running_loop().create_future()
            appended.set_exception(bug)
        appended.add_done_callback(partial(self._appended, batch))

    def _appended(self, batch: ReadBatch, outcome: asyncio.Future[int]) -> None:
        """Handle the outcome of one append."""
        count = len(batch.events)
        self._uncommitted -= count
        error = OutboxError("the append was cancelled") if outcome.cancelled() else outcome.exception()
        try:
            if error is None:
                duplicates = outcome.result()
                self._accepted.inc(count - duplicates)
                self._duplicate.inc(duplicates)
                self._responses.stored(batch)
            elif isinstance(error, OutboxFull) and len(batch.datagrams) > 1:
                for each in batch.per_datagram():
                    self._append_received(each)
            else:
                self._not_stored(batch, error)
        finally:
            self._schedule_wake()

    def _not_stored(self, batch: ReadBatch, error: BaseException) -> None:
        """Count the rejected events, and pause, so that the next datagrams stay in the kernel's buffer."""
        self._rejected["full" if isinstance(error, OutboxFull) else "unavailable"].inc(len(batch.events))
        self._log_rejected("not stored", str(error))
        self._responses.not_stored(batch, str(error))
        if not isinstance(error, OutboxShareUsed):  # With a used-up share, other devices' events can still be stored.
            self._pause(_PAUSE_S)
        if not isinstance(error, OutboxError):
            raise error

"""Receive events over UDP and append them to the outbox.

asyncio's datagram transport reads one datagram per turn of the event loop, and lost 40 % of the datagrams at a rate
that this module receives without loss. It reads each socket with one system call per wake (`state` defines when).

Rules:
1.  A datagram is stored as a whole or not at all, and datagrams do not affect each other. The events that one wake read
    from a socket are appended in one call. If the outbox has no room for all, each datagram is appended separately.
2.  While the outbox has no room, is too slow, or fails, the sockets are not read. Datagrams stay in the kernel's
    buffer, and the relay counts the datagrams that the kernel drops. Memory contains at most `_MAX_UNCOMMITTED` events
    plus the events of one wake.
3.  Small datagrams are read before expensive ones (`datagrams`). Each wake reads the sockets, and then runs one step
    of the expensive datagrams.
4.  A response (udp.ack) is sent only after the commit, and only to allowed networks (`responses`).
5.  An exception affects only the datagram that causes it. The datagram is counted as unavailable, and the exception is
    reported to the event loop at most once per second (`outcomes`). Reading continues after every failure.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from functools import partial

import structlog

from relay.config import Udp
from relay.event.reader import Reader
from relay.http.guard import Networks
from relay.ingest.udp.datagrams import Datagrams
from relay.ingest.udp.expensive import ExpensiveDatagrams
from relay.ingest.udp.outcomes import Outcomes
from relay.ingest.udp.read_batch import ReadBatch
from relay.ingest.udp.sockets import DATAGRAMS_PER_READ, UdpSockets
from relay.ingest.udp.state import FULL, STOPPED, WATCHING, Coalescing, Full, Paused, UdpInput, UdpState, next_state
from relay.outbox import AppendResult, DeviceRejected, Outbox, OutboxError, OutboxFull
from relay.runtime.clock import Clock
from relay.runtime.listening import open_sockets
from relay.runtime.metrics import Metrics

_READS_AT_STOP = 256
_STEPS_AT_STOP = 256
"""Steps of expensive datagrams at a stop: less than a second, so that expensive datagrams do not delay the stop."""
_MAX_UNCOMMITTED = 10_000
_LINGER_MS, _LONG_LINGER_MS = 2, 10
"""Time from a wake that read datagrams to the next wake. A wake and its commit cost more than an event."""
_LONG_LINGER_BUFFER_BYTES = 2 << 20
"""Smallest receive buffer for the long linger time: room for a burst of a thousand datagrams. With a smaller buffer,
or with udp.ack, the linger time is short."""

_TIMED = (Coalescing, Paused)

_log = structlog.get_logger(__name__)


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
        passed: Sequence[socket.socket] = (),
    ) -> None:
        """`max_body_bytes` limits the size of a received datagram. Raises ValueError for an invalid network.

        Sockets in `passed` replace the addresses of `settings`. Their receive buffer is unchanged, because the process
        that created it may set a larger one.
        """
        self._outbox = outbox
        self._settings = settings
        self._now_ms = clock.monotonic_ms
        self._outcomes = Outcomes(metrics, clock.monotonic_ms)
        self._expensive = ExpensiveDatagrams(settings.receive_buffer_bytes, self._outcomes)
        networks = Networks(settings.allowed_networks)
        self._datagrams = Datagrams(reader, max_body_bytes, networks, self._outcomes, self._expensive)
        self._passed = passed
        self._sockets = UdpSockets()
        self._state: UdpState = STOPPED
        self._next_wake: asyncio.Handle | None = None
        """The scheduled call of `_wake` while the state is Coalescing or Paused."""
        self._uncommitted = 0
        """Number of events in appends that have not ended."""
        self._measured_wake = metrics.longest_step.measured(self._wake)

    def __repr__(self) -> str:
        return f"<UdpIngest {self._state} uncommitted={self._uncommitted} has_backlog={bool(self._expensive)}>"

    def use_reader(self, reader: Reader) -> None:
        """Read with another reader, after a reload of the configuration."""
        self._datagrams.use_reader(reader)

    @property
    def addresses(self) -> list[str]:
        """The bound addresses with their ports; empty before `start`."""
        return self._sockets.addresses

    async def start(self) -> None:
        """Listen. Raises ListenError."""
        sockets = self._passed or await open_sockets(
            self._settings.listen, Udp().listen, socket.SOCK_DGRAM, "udp.listen"
        )
        self._sockets = UdpSockets(sockets)
        self._sockets.ask_receive_buffer(0 if self._passed else self._settings.receive_buffer_bytes)
        self._outcomes.receive_buffer_set(self._sockets.receive_buffer_bytes)
        if self._settings.ack:
            self._outcomes.respond_from(sockets)
        self._change(UdpInput.STARTED)

    def stop(self) -> None:
        """Read the datagrams in the kernel's buffer while the outbox has room, then close the sockets.

        Datagrams of passed sockets stay in the kernel's buffer for the next relay.
        Closing the outbox commits the appended events. No responses are sent to them. Expensive datagrams that cannot
        be read within a second are dropped and counted.
        """
        if not self._sockets:
            return
        self._change(UdpInput.STOPPED)
        try:
            self._append_all_received()
            for _ in range(0 if self._passed else _READS_AT_STOP):
                if not self._outbox.room() or not self._sockets.read(self._outcomes.socket_failed):
                    break
                self._append_all_received()
            for _ in range(_STEPS_AT_STOP):
                if self._expensive:
                    self._append(self._expensive.read_step())
            self._expensive.drop_all()
            self.refresh()
        finally:
            self._sockets.close()

    def refresh(self) -> None:
        """Count the datagrams that the kernel dropped since the last call."""
        self._outcomes.kernel_dropped(self._sockets.new_kernel_drops())

    # --- the state

    @property
    def _linger_ms(self) -> int:
        has_room = self._sockets.receive_buffer_bytes >= _LONG_LINGER_BUFFER_BYTES
        return _LONG_LINGER_MS if has_room and not self._settings.ack else _LINGER_MS

    def _change(self, happened: UdpInput) -> None:
        """Change the state, and watch the sockets or schedule the next wake as the new state requires."""
        assert self._uncommitted >= 0, self
        before, now_ms = self._state, self._now_ms()
        after = self._state = next_state(before, happened, now_ms, self._linger_ms)
        if after is before:
            return
        if before is WATCHING:
            self._sockets.unwatch()
        elif self._next_wake is not None:
            self._next_wake.cancel()
            self._next_wake = None
        if after is WATCHING:
            self._sockets.watch(self._measured_wake)
        elif isinstance(after, _TIMED):
            delay_s = (after.until_ms - now_ms) / 1000
            self._next_wake = asyncio.get_running_loop().call_later(delay_s, self._measured_wake)
        if isinstance(after, (Paused, Full)) and type(after) is not type(before):
            _log.debug("the relay reads no datagrams for now", state=repr(after))
        assert (self._next_wake is not None) == isinstance(after, _TIMED), self
        assert after is not FULL or self._uncommitted, f"no append will end: {self}"

    def _wake(self) -> None:
        self._next_wake = None
        try:
            self._change(self._read_and_append())
        except BaseException:
            self._change(UdpInput.HINDERED)  # Ensures another wake, and delays a repetition of the same exception.
            raise

    # --- reading

    def _read_and_append(self) -> UdpInput:
        """Read received datagrams or receive new ones, run one step of the expensive ones, and append the events."""
        if self._uncommitted >= _MAX_UNCOMMITTED:
            return UdpInput.LIMIT_REACHED
        if not self._outbox.room():
            return UdpInput.HINDERED
        read = self._sockets.read(self._outcomes.socket_failed)
        has_more = self._append_received() or read >= DATAGRAMS_PER_READ
        if self._expensive and self._uncommitted < _MAX_UNCOMMITTED:
            self._append(self._expensive.read_step())
        if self._uncommitted >= _MAX_UNCOMMITTED:
            return UdpInput.LIMIT_REACHED
        if has_more or self._expensive:
            return UdpInput.READ_SOME
        return UdpInput.READ_ALL if read else UdpInput.READ_NOTHING

    def _append_received(self) -> bool:
        """Append the events of received datagrams, up to the limit of a call for each socket.

        Return whether received datagrams are left.
        """
        are_left = False
        for unprocessed, receiver in self._sockets.unprocessed():
            self._append(self._datagrams.read_small(unprocessed, receiver))
            are_left = are_left or bool(unprocessed)
        return are_left

    def _append_all_received(self) -> None:
        while self._append_received():
            pass

    # --- storing

    def _append(self, batch: ReadBatch | None) -> None:
        if batch is not None and batch.events:
            self._outcomes.received(batch)
            self._append_counted(batch)

    def _append_counted(self, batch: ReadBatch) -> None:
        self._uncommitted += len(batch.events)
        try:
            appended = self._outbox.append(batch.events, callers=len(batch.senders) if self._settings.ack else 0)
        except Exception as bug:  # Handled like a failed append: counted, reported and sent as a response.
            appended = asyncio.get_running_loop().create_future()
            appended.set_exception(bug)
        appended.add_done_callback(partial(self._appended, batch))

    def _appended(self, batch: ReadBatch, outcome: asyncio.Future[AppendResult]) -> None:
        """Handle the outcome of one append."""
        self._uncommitted -= len(batch.events)
        error = OutboxError("the append was cancelled") if outcome.cancelled() else outcome.exception()
        try:
            if error is None:
                self._outcomes.stored(batch, outcome.result().duplicates)
            elif isinstance(error, OutboxFull) and len(batch.senders) > 1:
                for each in batch.per_datagram():
                    self._append_counted(each)
            else:
                self._not_stored(batch, error)
        finally:
            if self._uncommitted < _MAX_UNCOMMITTED:
                self._change(UdpInput.APPEND_ENDED)

    def _not_stored(self, batch: ReadBatch, error: BaseException) -> None:
        """Count the rejected events, and pause, so that the next datagrams stay in the kernel's buffer."""
        self._outcomes.not_stored(batch, error)
        if not isinstance(error, DeviceRejected):
            self._change(UdpInput.HINDERED)
        if not isinstance(error, OutboxError):
            raise error

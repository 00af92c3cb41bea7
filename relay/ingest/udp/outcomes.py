"""What became of the datagrams: counters, the log, and the responses of udp.ack.

Rejected datagrams are counted by reason. At most one per second is logged, and so is at most one exception.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from relay.event.reader import Rejection
from relay.ingest.append_coalescer import report_bug, report_rejected
from relay.ingest.udp.read_batch import ReadBatch, ReceivedDatagram
from relay.ingest.udp.responses import Responses
from relay.outbox import OutboxError
from relay.runtime.log import Gate, hide_secrets
from relay.runtime.metrics import REJECT_REASONS, UDP_DROP_REASONS, Metrics

_LOG_INTERVAL_MS = 1_000
_LOGGED_BYTES, _SHOWN_CHARS = 1_024, 80
"""A secret is masked in more bytes than are shown, so that its beginning is not."""

_log = structlog.get_logger(__name__)


class Outcomes:
    """Counts, logs and responds. Without `respond_from` it sends no response."""

    def __init__(self, metrics: Metrics, now_ms: Callable[[], int]) -> None:
        """`now_ms` returns monotonic time."""
        self._received = metrics.events_received.labels("udp")
        self._accepted = metrics.events_accepted.labels("udp")
        self._duplicate = metrics.events_duplicate.labels("udp")
        self._rejected = {reason: metrics.events_rejected.labels("udp", reason) for reason in REJECT_REASONS}
        self._dropped = {reason: metrics.udp_datagrams_dropped.labels(reason) for reason in UDP_DROP_REASONS}
        self._receive_buffer_bytes = metrics.udp_receive_buffer_bytes
        self._log_gate = Gate(metrics.log_lines_suppressed, per_ms=_LOG_INTERVAL_MS)
        self._feed = metrics.feed
        self._now_ms = now_ms
        self._responses: Responses | None = None

    def respond_from(self, sockets: Sequence[socket.socket]) -> None:
        """Send responses from now on. `sockets` are all sockets of the listener."""
        self._responses = Responses(sockets)

    def receive_buffer_set(self, given_bytes: int) -> None:
        """Export the size of the receive buffer that the kernel set."""
        self._receive_buffer_bytes.set(given_bytes)

    # --- datagrams without events

    def kernel_dropped(self, count: int) -> None:
        self._dropped["kernel"].inc(count)

    def dropped(self, reason: str, sender: Any) -> None:
        self._dropped[reason].inc()
        self._log_rejected(reason, str(sender[0]))

    def rejected(self, rejection: Rejection, received: ReceivedDatagram) -> None:
        self._log_rejected(rejection.reason, rejection.error, received)
        self._reject(rejection.reason, rejection.error, received)

    def failed(self, bug: Exception, received: ReceivedDatagram) -> None:
        self._report("a datagram could not be read", bug)
        self._reject("unavailable", "the relay failed on this datagram", received)

    def reading_together_failed(self, bug: Exception) -> None:
        self._report("datagrams could not be read together", bug)

    def socket_failed(self, error: OSError) -> None:
        self._log_rejected("the socket failed", str(error))

    # --- events

    def received(self, batch: ReadBatch) -> None:
        self._received.inc(len(batch.events))

    def stored(self, batch: ReadBatch, duplicates: int) -> None:
        self._accepted.inc(len(batch.events) - duplicates)
        self._duplicate.inc(duplicates)
        if self._responses is not None:
            self._responses.stored(batch)

    def not_stored(self, batch: ReadBatch, error: BaseException) -> None:
        reason = error.reason if isinstance(error, OutboxError) else OutboxError.reason
        self._rejected[reason].inc(len(batch.events))
        self._log_rejected("not stored", str(error))
        report_rejected(self._feed, batch.events, error)
        if self._responses is not None:
            self._responses.not_stored(batch, str(error))

    def _reject(self, reason: str, error: str, received: ReceivedDatagram) -> None:
        """Count one received and rejected event: the number of events of a rejected datagram is unknown."""
        self._received.inc()
        self._rejected[reason].inc()
        self._feed.changed("rejected", [received.data], reason, error)
        if self._responses is not None:
            self._responses.rejected(error, received)

    def _log_rejected(self, reason: str, detail: str, received: ReceivedDatagram | None = None) -> None:
        if self._log_gate.admit("bad", self._now_ms()) is None:
            return
        start = "" if received is None else hide_secrets(repr(received.data[:_LOGGED_BYTES]))[:_SHOWN_CHARS]
        sender = "" if received is None else str(received.sender[0])
        _log.warning("a datagram was rejected", reason=reason, detail=detail, sender=sender, datagram=start)

    def _report(self, message: str, bug: Exception) -> None:
        if self._log_gate.admit(message, self._now_ms()) is not None:
            report_bug(message, bug)

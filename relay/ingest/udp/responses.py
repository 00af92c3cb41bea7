"""Send the responses of udp.ack. `ack` composes them."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any

import structlog

from relay.ingest.udp import socket as udp_socket
from relay.ingest.udp.ack import CHATTY_PORTS, error_response, is_response, stored_response
from relay.ingest.udp.datagrams import ReceivedDatagram
from relay.ingest.udp.read_batch import ReadBatch
from relay.runtime.address import ip_of

_CACHED_SENDERS = 1_024

_log = structlog.get_logger(__name__)


class Responses:
    """Responds to datagrams that `sockets` received. Without `enabled` it sends no response."""

    def __init__(self, sockets: Iterable[socket.socket], *, enabled: bool) -> None:
        self.enabled = enabled
        names = [each.getsockname() for each in sockets]
        self._own = {(ip_of(name[0]), name[1]) for name in names}
        self._every_interface_ports = {port for ip, port in self._own if ip is not None and ip.is_unspecified}
        self._is_silent = lru_cache(_CACHED_SENDERS)(self._decide)
        """Returns for host and port of a sender whether a response could start an endless exchange."""

    def stored(self, batch: ReadBatch) -> None:
        """Send each sender the ids of its stored events."""
        if self.enabled:
            for events, (datagram,), receiver in batch.per_datagram():
                ids = [event.event_id for event in events]
                self._send(stored_response(ids, datagram.size_bytes), datagram.sender, receiver)

    def not_stored(self, batch: ReadBatch, error: str) -> None:
        """Send each sender the reason why its events are not stored."""
        if self.enabled:
            for datagram in batch.datagrams:
                self._send(error_response(error, datagram.size_bytes), datagram.sender, batch.receiver)

    def rejected(self, error: str, received: ReceivedDatagram) -> None:
        """Send the sender of a rejected datagram the error."""
        if self.enabled and not is_response(received.data):
            self._send(error_response(error, len(received.data)), received.sender, received.receiver)

    def _send(self, response: bytes, sender: Any, receiver: socket.socket) -> None:
        if not response or self._is_silent(sender[0], sender[1]) or receiver.fileno() < 0:
            return
        try:
            receiver.sendto(response, sender)
        except OSError as error:  # A response is best effort: the sender may have closed its socket.
            _log.debug("a response was not sent", error=str(error))

    def _decide(self, host: str, port: int) -> bool:
        ip = ip_of(host)
        place = host if isinstance(ip, IPv6Address) else str(ip)
        return (
            port in CHATTY_PORTS
            or (ip, port) in self._own
            or (port in self._every_interface_ports and udp_socket.is_local(place))
        )

"""Send the responses of udp.ack.

Rules:
1.  A response is smaller than its datagram. The relay can therefore not amplify a flood, and an exchange of responses
    ends.
2.  The relay sends no response to a response, to its own sockets, or to a service that replies to everything. A forged
    datagram can therefore not start an endless exchange.
"""

from __future__ import annotations

import json
import re
import socket
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any

import msgspec
import structlog

from relay.ingest.udp.read_batch import ReadBatch, ReceivedDatagram
from relay.ingest.udp.sockets import is_local
from relay.runtime.address import ip_of

CHATTY_PORTS = frozenset({7, 13, 17, 19, 37})
"""Services that reply to every datagram: echo, daytime, qotd, chargen, time (RFC 862, 867, 865, 864, 868)."""

_LEAST_TEXT_CHARACTERS = 20
"""Smallest length of a cut error text: enough to name a field."""
_LEAST_ERROR = b'{"error":"invalid"}'
_KEYS = frozenset({"stored", "count", "error"})
_looks_like_response = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"(?:stored|count|error)"').match
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_CACHED_SENDERS = 1_024

_log = structlog.get_logger(__name__)


class Responses:
    """Responds to datagrams that `sockets` received."""

    def __init__(self, sockets: Iterable[socket.socket]) -> None:
        names = [each.getsockname() for each in sockets]
        self._own = {(ip_of(name[0]), name[1]) for name in names}
        self._every_interface_ports = {port for ip, port in self._own if ip is not None and ip.is_unspecified}
        self._is_silent = lru_cache(_CACHED_SENDERS)(self._decide)
        """Returns for host and port of a sender whether a response could start an endless exchange."""

    def stored(self, batch: ReadBatch) -> None:
        """Send each sender the ids of its stored events."""
        for events, _, (size,), (sender,), receiver in batch.per_datagram():
            self._send(stored_response([event.event_id for event in events], size), sender, receiver)

    def not_stored(self, batch: ReadBatch, error: str) -> None:
        """Send each sender the reason why its events are not stored."""
        for size, sender in zip(batch.sizes, batch.senders, strict=True):
            self._send(error_response(error, size), sender, batch.receiver)

    def rejected(self, error: str, received: ReceivedDatagram) -> None:
        """Send the sender of a rejected datagram the error."""
        if not is_response(received.data):
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
            port in CHATTY_PORTS or (ip, port) in self._own or (port in self._every_interface_ports and is_local(place))
        )


def stored_response(event_ids: Sequence[bytes], datagram_bytes: int) -> bytes:
    """Return `{"stored":[...],"count":N}`, or `{"count":N}` if the ids do not fit, or b"" if that does not fit either.

    `event_ids` are UUIDs of 16 bytes. The response is smaller than `datagram_bytes`, the size of the datagram.
    """
    count = len(event_ids)
    # Each id takes 36 characters, two quotes and a comma.
    if 39 * count + len('{"stored":[],"count":}') - 1 + len(str(count)) < datagram_bytes:
        return _compact({"stored": [str(uuid.UUID(bytes=event_id)) for event_id in event_ids], "count": count})
    counted = _compact({"count": count})
    return counted if len(counted) < datagram_bytes else b""


def error_response(error: str, datagram_bytes: int) -> bytes:
    """Return `{"error":"..."}`, smaller than the datagram of `datagram_bytes`; a text that does not fit is cut.

    Return `{"error":"invalid"}` if hardly any text fits, and b"" if that does not fit either.
    """
    text = error.encode("ascii", "replace").decode()
    response = _compact({"error": text})
    excess_bytes = len(response) - (datagram_bytes - 1)
    if excess_bytes <= 0:
        return response
    cut = text[: max(0, len(text) - excess_bytes - len("..."))]  # Each character takes at least one byte.
    if len(cut) >= _LEAST_TEXT_CHARACTERS:
        return _compact({"error": f"{cut}..."})
    return _LEAST_ERROR if len(_LEAST_ERROR) < datagram_bytes else b""


def is_response(datagram: bytes) -> bool:
    """Return whether a rejected datagram is a response of a relay, possibly a damaged one."""
    if not _looks_like_response(datagram):
        return False
    try:
        return _decode_object(datagram).keys() <= _KEYS
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return True


def _compact(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()

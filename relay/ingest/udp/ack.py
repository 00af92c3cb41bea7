"""Compose the responses to datagrams (udp.ack), and recognize datagrams that get no response.

Rules:
1.  A response is smaller than its datagram. The relay can therefore not amplify a flood, and an exchange of responses
    ends.
2.  The relay sends no response to a response, to its own sockets, or to a service that replies to everything. A forged
    datagram can therefore not start an endless exchange.

Pure.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence

import msgspec

CHATTY_PORTS = frozenset({7, 13, 17, 19, 37})
"""Services that reply to every datagram: echo, daytime, qotd, chargen, time (RFC 862, 867, 865, 864, 868)."""

_LEAST_TEXT_CHARACTERS = 20
"""Smallest length of a cut error text: enough to name a field."""
_LEAST_ERROR = b'{"error":"invalid"}'
_KEYS = frozenset({"stored", "count", "error"})
_looks_like_response = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"(?:stored|count|error)"').match
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


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

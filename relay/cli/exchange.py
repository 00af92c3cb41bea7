"""One HTTP/1.1 request of a command, on a new connection.

Another server may listen at the relay's address. The whole exchange therefore has one deadline, the response has a
limit in bytes, and every response that is not complete HTTP/1.x raises `InvalidHttp`. This module imports no HTTP
library, because `relay healthcheck` starts every few seconds on small processors.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from relay.cli.common import Place
from relay.runtime.clock import SystemClock

MAX_HEAD_BYTES = 65_536
MAX_BODY_BYTES = 32 << 20
"""Enough for a page of 100 dead letters of 64 KiB each, also if JSON escapes many of their characters."""
_READ_BYTES = 65_536
_STATUS = re.compile(rb"HTTP/1\.[01] ([2-5][0-9]{2})(?: |\r\n)")


class InvalidHttp(Exception):
    """The response is not complete HTTP/1.x, or it is too large. The message names the received data."""


class RawResponse(NamedTuple):
    status: int
    body: bytes


class _Stream:
    """A socket with one deadline for all reads and writes. They raise TimeoutError after it."""

    def __init__(self, place: Place, timeout_s: float) -> None:
        self._clock = SystemClock()
        self.extend_time(timeout_s)
        family = socket.AF_UNIX if place.socket_path else socket.AF_INET6 if ":" in place.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._address: str | tuple[str, int] = place.socket_path or (place.host, place.port)
        self.buffer = bytearray()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._limit_time()
        self._socket.connect(self._address)
        self._limit_time()
        self._socket.sendall(data)

    def read_more(self) -> bool:
        """Read once. Return False at the end of the stream."""
        self._limit_time()
        part = self._socket.recv(_READ_BYTES)
        self.buffer += part
        return bool(part)

    def extend_time(self, timeout_s: float) -> None:
        """Move the deadline."""
        self._end_ms = self._clock.monotonic_ms() + timeout_s * 1000

    def _limit_time(self) -> None:
        left_s = (self._end_ms - self._clock.monotonic_ms()) / 1000
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left_s)


def exchange(
    place: Place, method: str, path: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float
) -> RawResponse:
    """Return the response. Raises OSError without one in `timeout_s`, and InvalidHttp if it is not HTTP/1.x."""
    with _Stream(place, timeout_s) as stream:
        stream.send(_request(method, path, headers, body))
        status, head = _status_and_head(stream)
        return RawResponse(status, _body(stream, head))


def follow(place: Place, path: str, headers: Mapping[str, str], timeout_s: float) -> Iterator[RawResponse]:
    """Yield the lines of a response without an end, or a complete response with another status than 200.

    Raises OSError if nothing is received for `timeout_s`, and InvalidHttp if it is not HTTP/1.x.
    """
    with _Stream(place, timeout_s) as stream:
        stream.send(_request("GET", path, headers, None))
        status, head = _status_and_head(stream)
        if status != 200:
            yield RawResponse(status, _body(stream, head))
            return
        while True:
            *lines, rest = stream.buffer.split(b"\n")
            stream.buffer = rest
            yield from (RawResponse(status, bytes(line)) for line in lines)
            if len(rest) > MAX_HEAD_BYTES:
                raise InvalidHttp(f"a line of more than {MAX_HEAD_BYTES:,} bytes")
            stream.extend_time(timeout_s)
            if not stream.read_more():
                return


def _request(method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


def _status_and_head(stream: _Stream) -> tuple[int, bytes]:
    head = _head(stream)
    status = _STATUS.match(head)
    if status is None:
        raise InvalidHttp(f"no HTTP/1.1 response but {bytes(head[:60])!r}")
    return int(status[1]), head


def _head(stream: _Stream) -> bytes:
    while (end := stream.buffer.find(b"\r\n\r\n")) < 0:
        if len(stream.buffer) > MAX_HEAD_BYTES:
            raise InvalidHttp(f"a response head of more than {MAX_HEAD_BYTES:,} bytes")
        if not stream.read_more():
            if not stream.buffer:
                raise ConnectionResetError("the connection was closed without a response")
            raise InvalidHttp(f"a truncated response head {bytes(stream.buffer[:60])!r}")
    head = bytes(stream.buffer[: end + 2])
    del stream.buffer[: end + 4]
    return head


def _body(stream: _Stream, head: bytes) -> bytes:
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }
    if b"transfer-encoding" in fields:
        return _chunks(stream)
    length = fields.get(b"content-length")
    if length is None:
        while stream.read_more():
            _require_size(len(stream.buffer))
        return bytes(stream.buffer)
    if not re.fullmatch(rb"[0-9]{1,18}", length):
        raise InvalidHttp(f"the content length {length[:60]!r}")
    _require_size(int(length))
    return _exactly(stream, int(length))


def _chunks(stream: _Stream) -> bytes:
    body = bytearray()
    while True:
        while (end := stream.buffer.find(b"\r\n")) < 0:
            if len(stream.buffer) > MAX_HEAD_BYTES or not stream.read_more():
                raise InvalidHttp("a truncated response body")
        line = bytes(stream.buffer[:end]).partition(b";")[0].strip()
        del stream.buffer[: end + 2]
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", line):
            raise InvalidHttp(f"the chunk size {line[:60]!r}")
        size = int(line, 16)
        if not size:
            return bytes(body)
        _require_size(len(body) + size)
        body += _exactly(stream, size + 2)[:size]


def _exactly(stream: _Stream, size: int) -> bytes:
    while len(stream.buffer) < size:
        if not stream.read_more():
            raise InvalidHttp("a truncated response body")
    content = bytes(stream.buffer[:size])
    del stream.buffer[:size]
    return content


def _require_size(size: int) -> None:
    if size > MAX_BODY_BYTES:
        raise InvalidHttp(f"a response of more than {MAX_BODY_BYTES:,} bytes")

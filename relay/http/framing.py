"""Find the end of a request's body in the received data: a known length, or chunks (RFC 9112, 7.1).

The decoders are strict: two programs that find different ends of one body allow requests to be smuggled.

Pure.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

_MAX_LINE_BYTES = 4_096
"""Bytes of a chunk's size with its extensions, or of a trailer field."""
_MAX_TRAILER_BYTES = 32_768
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
"""15 digits: a size below 2**60."""
_TRAILER_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class Decoded(NamedTuple):
    part: bytes
    rest: bytes | None
    """The data after the end of the body; None if the body continues."""


class BodyDecoder(Protocol):
    def feed(self, data: bytes) -> Decoded | None:
        """Return the part of the body in `data`; None if the framing is invalid."""


class FixedBody:
    """A body with a Content-Length."""

    def __init__(self, body_bytes: int) -> None:
        self._missing_bytes = body_bytes

    def feed(self, data: bytes) -> Decoded | None:
        part = data[: self._missing_bytes]
        self._missing_bytes -= len(part)
        return Decoded(part, None if self._missing_bytes else data[len(part) :])


class ChunkedBody:
    """A body in chunks. The trailer fields are checked and ignored."""

    def __init__(self) -> None:
        self._missing_bytes = 0
        """Missing bytes of the current chunk with its line break; 0 between chunks."""
        self._line = b""
        """The received part of an incomplete line."""
        self._trailer_bytes: int | None = None
        """Size of the received trailer fields; None before the last chunk."""

    def feed(self, data: bytes) -> Decoded | None:
        parts: list[bytes] = []
        at = 0
        while at < len(data):
            if self._missing_bytes:
                end = min(at + self._missing_bytes, len(data))
                if not self._take_chunk(data[at:end], parts):
                    return None
                at = end
                continue
            end = data.find(b"\n", at) + 1
            line = self._line + data[at : end or len(data)]
            if len(line) > _MAX_LINE_BYTES:
                return None
            if not end:
                self._line = line
                break
            self._line, at = b"", end
            if not line.endswith(b"\r\n") or not self._take_line(line[:-2]):
                return None
            if line == b"\r\n":
                return Decoded(b"".join(parts), data[at:])
        return Decoded(b"".join(parts), None)

    def _take_chunk(self, data: bytes, parts: list[bytes]) -> bool:
        """Take data of a chunk and of the line break after it; return False if the line break is another one."""
        content_bytes = max(self._missing_bytes - 2, 0)
        parts.append(data[:content_bytes])
        line_break = data[content_bytes:]
        self._missing_bytes -= len(data)
        return b"\r\n".startswith(line_break) if self._missing_bytes else b"\r\n".endswith(line_break)

    def _take_line(self, line: bytes) -> bool:
        """Take the size of a chunk or a trailer field; return False if it is invalid."""
        if self._trailer_bytes is not None:
            self._trailer_bytes += len(line)
            return not line or (self._trailer_bytes <= _MAX_TRAILER_BYTES and bool(_TRAILER_LINE.fullmatch(line)))
        size = _SIZE_LINE.fullmatch(line)
        if size is None:
            return False
        chunk_bytes = int(size[1], 16)
        if chunk_bytes:
            self._missing_bytes = chunk_bytes + 2
        else:
            self._trailer_bytes = 0
        return True

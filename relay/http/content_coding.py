"""Undo the compression of received bodies and datagrams, within bounds.

Rules:
1.  No output beyond the limit is ever made. A bomb costs what the limit costs.
2.  A truncated or corrupt stream, and a stream with other data behind it, is rejected.
3.  A stream may have any number of members (gzip, RFC 1952, 2.2) or frames (zstd). The input is read in pieces, so that
    a member costs no copy of all that follows it: 20,000 empty members take 10 ms, and not 370.
4.  A long stream is inflated in steps, between which the event loop does other work.

Pure: bytes in, bytes or a fault out.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Generator, Mapping
from typing import Any, Literal, Protocol

InflateError = Literal["too_large", "malformed"]
"""HTTP answers 413, 400."""
Inflating = Generator[None, None, bytes | InflateError]
"""A stream on its way. The last step returns the body or the fault."""

GZIP_MAGIC = b"\x1f\x8b"
"""Begins no JSON."""

_PIECE_BYTES = 4_096
"""Input given to a decompressor at once."""
_STEP_BYTES = 131_072
"""Work of one step: some 0.5 ms."""
_MEMBER_BYTES = 512
"""Work of a member, beside its input and output."""
_ZSTD_WINDOW_LOG = 23
"""8 MiB, what RFC 8878 asks every decoder to support; a frame may claim far more."""


class _Member(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def inflate(data: bytes, coding: str, max_bytes: int) -> bytes | InflateError:
    """Return `data` without `coding`, which must be one of `CODINGS`."""
    steps = inflating(data, coding, max_bytes)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            body: bytes | InflateError = done.value
            return body


def inflate_at_once(data: bytes, coding: str, max_bytes: int, *, padded: bool = False) -> bytes | InflateError | None:
    """Return what `inflating` returns if one step is enough, else None."""
    try:
        next(inflating(data, coding, max_bytes, padded=padded))
    except StopIteration as done:
        body: bytes | InflateError = done.value
        return body
    return None


def inflating(data: bytes, coding: str, max_bytes: int, *, padded: bool = False) -> Inflating:
    """Do what `inflate` does, in steps. With `padded`, NUL bytes may follow the last member."""
    parts: list[bytes] = []
    room, at, work_bytes = max_bytes, 0, 0
    while True:
        try:
            member = _OPENERS[coding](data[at : at + 2])
            work_bytes += _MEMBER_BYTES
            while not member.eof:
                piece = data[at : at + _PIECE_BYTES] if member.needs_input else b""
                at += len(piece)
                # One byte more than there is room for: the limit itself is allowed.
                part = member.decompress(piece, min(room + 1, _STEP_BYTES))
                if not part and not piece and not member.eof:
                    return "malformed"
                parts.append(part)
                room -= len(part)
                if room < 0:
                    return "too_large"
                work_bytes += len(piece) + len(part)
                if work_bytes >= _STEP_BYTES:
                    work_bytes = 0
                    yield
        except _ERRORS:
            return "malformed"
        at -= len(member.unused_data)
        if at == len(data) or (padded and not data[at:].strip(b"\0")):
            return parts[0] if len(parts) == 1 else b"".join(parts)
        if coding == "deflate":
            return "malformed"


class _Zlib:
    """A member in one of zlib's formats, with the interface of zstd's decompressor."""

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits=wbits)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        tail = self._inner.unconsumed_tail
        return self._inner.decompress(tail + data if tail else data, max_length)


def _open_gzip(_start: bytes) -> _Member:
    return _Zlib(16 + zlib.MAX_WBITS)


def _open_deflate(start: bytes) -> _Member:
    """`deflate` means the zlib format (RFC 9110, 8.4.1.2), but some clients send it raw."""
    zlib_format = len(start) >= 2 and start[0] & 0x0F == zlib.DEFLATED and (start[0] << 8 | start[1]) % 31 == 0
    return _Zlib(zlib.MAX_WBITS if zlib_format else -zlib.MAX_WBITS)


def _zstd() -> tuple[dict[str, Callable[[bytes], _Member]], tuple[type[Exception], ...]]:
    """zstd where the interpreter has it (Python 3.14)."""
    try:
        zstd: Any = importlib.import_module("compression.zstd")
    except ModuleNotFoundError:
        return {}, ()

    def open_zstd(_start: bytes) -> _Member:
        options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        decompressor: _Member = zstd.ZstdDecompressor(options=options)
        return decompressor

    return {"zstd": open_zstd}, (zstd.ZstdError,)


_ZSTD_OPENER, _ZSTD_ERRORS = _zstd()
_ERRORS: tuple[type[Exception], ...] = (zlib.error, *_ZSTD_ERRORS)
_OPENERS: Mapping[str, Callable[[bytes], _Member]] = {
    "gzip": _open_gzip,
    "deflate": _open_deflate,
    **_ZSTD_OPENER,
}
CODINGS = tuple(_OPENERS)
"""The content codings served, in the order of the Accept-Encoding of a 415."""

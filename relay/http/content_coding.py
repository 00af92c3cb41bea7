"""Inflate received bodies and datagrams, with limits.

Rules:
1.  The output never exceeds the limit, so a decompression bomb costs no more than a body of that size.
2.  A truncated or corrupt stream is rejected, and so is a stream that is followed by other data.
3.  A stream may have any number of members (gzip, RFC 1952, 2.2) or frames (zstd). The input is read in pieces, so that
    each member does not copy the rest of the input: 20,000 empty members take 10 instead of 370 ms.
4.  A long stream is inflated in steps. Between steps the event loop does other work.

Pure.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Generator, Mapping
from typing import Any, Literal, Protocol

InflateError = Literal["too_large", "malformed"]
"""The HTTP status is 413 or 400."""
Inflating = Generator[None, None, bytes | InflateError]
"""The inflating of a stream in steps. The last step returns the body or the error."""

GZIP_MAGIC = b"\x1f\x8b"
"""The first bytes of gzip. No JSON text starts with them."""

_PIECE_BYTES = 4_096
"""Bytes of input per call of a decompressor."""
_STEP_BYTES = 131_072
"""Input plus output of one step: about 0.5 ms of work."""
_MEMBER_BYTES = 512
"""Cost of a member in addition to its input and output, in bytes of equivalent work."""
_ZSTD_WINDOW_LOG = 23
"""8 MiB, the window that every decoder should support (RFC 8878). A frame may request much more."""


class _Member(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def inflate_at_once(data: bytes, coding: str, max_bytes: int, *, padded: bool = False) -> bytes | InflateError | None:
    """Return the result of `inflating` if one step is enough, else None."""
    try:
        next(inflating(data, coding, max_bytes, padded=padded))
    except StopIteration as done:
        body: bytes | InflateError = done.value
        return body
    return None


def inflating(data: bytes, coding: str, max_bytes: int, *, padded: bool = False) -> Inflating:
    """Decode `data` from `coding`, one of `CODINGS`, in steps. With `padded`, NUL bytes may follow the last member."""
    parts: list[bytes] = []
    room, at, work_bytes = max_bytes, 0, 0
    while True:
        try:
            member = _OPENERS[coding](data[at : at + 2])
            work_bytes += _MEMBER_BYTES
            while not member.eof:
                piece = data[at : at + _PIECE_BYTES] if member.needs_input else b""
                at += len(piece)
                # One byte more than the remaining room, to distinguish "at the limit" from "above the limit".
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
    """A member in one of zlib's formats, with the interface of the zstd decompressor."""

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
    """Open the zlib format, which "deflate" means (RFC 9110, 8.4.1.2), or raw deflate, which some clients send."""
    zlib_format = len(start) >= 2 and start[0] & 0x0F == zlib.DEFLATED and (start[0] << 8 | start[1]) % 31 == 0
    return _Zlib(zlib.MAX_WBITS if zlib_format else -zlib.MAX_WBITS)


def _zstd() -> tuple[dict[str, Callable[[bytes], _Member]], tuple[type[Exception], ...]]:
    """Return the opener and the exceptions of zstd if the interpreter has it (Python 3.14)."""
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
"""The accepted content codings, in the order of the Accept-Encoding header of a 415."""

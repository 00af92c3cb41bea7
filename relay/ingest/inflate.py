"""Undoing compression of what apps send, within bounds.

1.  No output beyond the limit is ever made: a bomb costs what the limit costs.
2.  A stream that is cut short, corrupt, or followed by anything else is refused, not guessed at.
3.  Members (gzip) and frames (zstd) of one stream are few: each costs a fresh decompressor however
    little it holds, and 20,000 empty ones stopped an event loop for 0.37 s.

Pure: bytes in, bytes or a fault out.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

InflateFault = Literal["too_large", "malformed"]
"""HTTP answers 413, 400."""

GZIP_MAGIC = b"\x1f\x8b"
"""Begins no JSON."""

_MAX_MEMBERS = 64
_ZSTD_WINDOW_LOG = 23
"""8 MiB, what RFC 8878 asks every decoder to support; a frame may claim far more."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def inflate(data: bytes, coding: str, max_bytes: int) -> bytes | InflateFault:
    """`data` without `coding`, which must be one of `CODINGS`."""
    open_member = _OPENERS[coding]
    parts: list[bytes] = []
    room = max_bytes
    for _ in range(_MAX_MEMBERS):
        try:
            member = open_member(data)
            # one byte more than there is room for: the limit itself is allowed
            part = member.decompress(data, room + 1)
        except _ERRORS:
            return "malformed"
        if len(part) > room:
            return "too_large"
        parts.append(part)
        room -= len(part)
        if not member.eof:
            return "malformed"
        data = member.unused_data
        if not data:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        if coding == "deflate":
            return "malformed"
    return "malformed"


def _open_gzip(_data: bytes) -> _Decompressor:
    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


def _open_deflate(data: bytes) -> _Decompressor:
    """`deflate` means the zlib format (RFC 9110, 8.4.1.2), but some clients send it raw."""
    zlib_format = len(data) >= 2 and data[0] & 0x0F == zlib.DEFLATED and (data[0] << 8 | data[1]) % 31 == 0
    return zlib.decompressobj(wbits=zlib.MAX_WBITS if zlib_format else -zlib.MAX_WBITS)


def _zstd() -> tuple[dict[str, Callable[[bytes], _Decompressor]], tuple[type[Exception], ...]]:
    """zstd where the interpreter has it (Python 3.14)."""
    try:
        zstd: Any = importlib.import_module("compression.zstd")
    except ModuleNotFoundError:
        return {}, ()

    def open_zstd(_data: bytes) -> _Decompressor:
        options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        decompressor: _Decompressor = zstd.ZstdDecompressor(options=options)
        return decompressor

    return {"zstd": open_zstd}, (zstd.ZstdError,)


_ZSTD_OPENER, _ZSTD_ERRORS = _zstd()
_ERRORS: tuple[type[Exception], ...] = (zlib.error, *_ZSTD_ERRORS)
_OPENERS: Mapping[str, Callable[[bytes], _Decompressor]] = {
    "gzip": _open_gzip,
    "deflate": _open_deflate,
    **_ZSTD_OPENER,
}
CODINGS = tuple(_OPENERS)
"""The content codings served, in the order of the Accept-Encoding of a 415."""

"""Decode the body of a response: content encoding, byte order mark and JSON.

The size is bounded: the caller reads at most 64 KiB, and at most 64 KiB are decompressed or parsed.
"""

from __future__ import annotations

import codecs
import json
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

MAX_BYTES = 64 * 1024
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # zlib.h, inflateInit2: the format is detected
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # Before UTF-16, because its mark begins with the mark of UTF-16.
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_member = json.JSONDecoder().raw_decode
_SPACE = " \t\r\n"


def decoded(body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the body as UTF-8 without byte order mark and content encoding; unchanged if it cannot be decoded."""
    plain = body
    for coding in reversed([each.strip().lower() for each in headers.get("content-encoding", "").split(",")]):
        if coding in ("gzip", "x-gzip", "deflate"):
            plain = _inflated(plain)
    for mark, encoding in _BYTE_ORDER_MARKS:
        if plain.startswith(mark):
            return plain[len(mark) :].decode(encoding, "replace").encode()
    return plain


def content_of(body: bytes) -> Any:
    """Return the JSON value of a decoded body; None if it is not JSON.

    For an object that was cut at 64 KiB, return its complete members.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _whole_members(body.decode("utf-8", "ignore")) if len(body) >= MAX_BYTES else None


def _inflated(body: bytes) -> bytes:
    for window in (_GZIP_OR_ZLIB, -zlib.MAX_WBITS):  # "deflate" without a header is common (RFC 9110, 8.4.1.2)
        inflate = zlib.decompressobj(window)
        try:
            return inflate.decompress(body, MAX_BYTES)
        except zlib.error:
            continue
    return body


def _whole_members(text: str) -> dict[str, Any] | None:
    """Return the complete members of an object that was cut; None if the text is not the beginning of one object."""
    text = text.lstrip(_SPACE)
    if not text.startswith("{"):
        return None
    members: dict[str, Any] = {}
    at = 1
    try:
        while True:
            name, at = _member(text, _skip(text, at, "{,"))
            value, at = _member(text, _skip(text, at, ":"))
            members[name] = value
            end = text[at:].lstrip(_SPACE) if text[at : at + 1] not in ("", ",") else ""
            if end.startswith("}"):
                # The object ends before the cut. Text after it means that this is not the JSON of the API.
                return None if end[1:].strip(_SPACE) else members
    except (ValueError, IndexError, RecursionError, TypeError):
        return members


def _skip(text: str, at: int, separators: str) -> int:
    """Return where the next value begins, after whitespace and separators."""
    while text[at] in _SPACE or text[at] in separators:
        at += 1
    return at

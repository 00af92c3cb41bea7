"""Read events fast: accept only events that are proven to be strict JSON, and leave all others to the strict reader.

The proof: msgspec decodes the event into the types below and encodes the result. If the encoded text equals the
input (except for space between tokens, and `\\/`), the input is strict JSON: no repeated field, no integer beyond
64 bits, no lone surrogates, and no deeper nesting than the types allow. The result None means "not proven", not
"invalid". The caller checks everything that the types do not express: presence, UUIDs, times and blanks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Annotated, Any, Literal, Required, TypedDict

import msgspec

from relay.event.rules import MAX_DEVICE_ID_CHARACTERS, MAX_TENANT_ID, MIN_TENANT_ID

_MAX_INTEGER = 2**63 - 1
_Integer = Annotated[int, msgspec.Meta(ge=-_MAX_INTEGER - 1, le=_MAX_INTEGER)]
_Plain = str | _Integer | float | bool | None
# msgspec supports recursive types for classes only. The strict reader reads events with deeper nesting.
_Nested1 = _Plain | list[_Plain] | dict[str, _Plain]
_Nested2 = _Plain | list[_Nested1] | dict[str, _Nested1]
_Nested3 = _Plain | list[_Nested2] | dict[str, _Nested2]
_Nested4 = _Plain | list[_Nested3] | dict[str, _Nested3]
_Nested5 = _Plain | list[_Nested4] | dict[str, _Nested4]


class Source(TypedDict, total=False):
    platform: Literal["ios", "android", "web", "tv"]
    device_id: Annotated[str, msgspec.Meta(max_length=MAX_DEVICE_ID_CHARACTERS)]
    app_version: str
    os_version: str
    device_model: str


class Subject(TypedDict):
    type: str
    id: str


class Fields(TypedDict, total=False):
    """The fields of an event, by name."""

    event_id: str
    event_type: Required[str]
    tenant_id: Annotated[int, msgspec.Meta(ge=MIN_TENANT_ID, le=MAX_TENANT_ID)]
    source: Source
    subject: Subject
    context: dict[str, _Nested4]
    occurred_at: str


_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_any = msgspec.json.Decoder(dict[str, _Nested5]).decode
"""Decodes an event with unknown fields, which `Fields` would drop."""
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_format = msgspec.json.format
_NOT_DECODED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Every exception that msgspec raises for invalid input; only the first is its own type."""

DecodeLines = Callable[[bytes], list[Any]]

_MIN_EVENT_BYTES = len('{"event_type":"a"}')
_BACKSLASH = ord("\\")
_FRAME_STYLES = (
    (b'{"events":[', b",", b"]}"),
    (b'{"events": [', b", ", b"]}"),
    (b"[", b",", b"]"),
    (b"[", b", ", b"]"),
)
"""Opening, separator and closing of a batch, as common JSON writers write them."""
PIECE_BYTES = 32_768
"""Bytes of a batch that one step splits. A piece with large events may have four times as many."""
_MAX_OPENING_BYTES = 64
"""Limit for the start of an element up to its first colon. A writer starts all elements with the same bytes."""
_MAX_CUTS = 4
"""Positions at which `_splitting` tries to cut a piece before it leaves the batch to the strict reader."""


def read(body: bytes) -> Fields | None:
    """Return the fields of one event without surrounding space; None if the event is not proven."""
    try:
        fields = _decode_fields(body)
        canonical = _encode(fields)
        if canonical != body:
            # The replacement may also change an escaped backslash before a slash. No string then ends at another
            # position, so the proof still holds.
            compact = _format(body.replace(b"\\/", b"/"), indent=-1)
            if canonical != compact and _encode(_decode_any(body)) != compact:
                return None
    except _NOT_DECODED:
        return None
    if _BACKSLASH in body and b"\\u0000" in body:
        return None
    return fields


def read_compact(body: bytes) -> Fields | None:
    """Return the same as `read` for an event written without spaces; None for any other."""
    try:
        fields = _decode_fields(body)
        return fields if _encode(fields) == body else None
    except _NOT_DECODED:
        return None


def read_together(bodies: Sequence[bytes], decode_lines: DecodeLines) -> list[Any] | None:
    """Return the decoded fields of each body, in half of the time of `read`.

    Return None unless every body is proven and written without spaces. The bodies are joined by line breaks, then
    decoded and encoded at once. The number of decoded events must equal the number of bodies, so no body contains
    a line break, and each line proves one body. `decode_lines` decodes into types that accept no more than Fields does.
    """
    lines = b"\n".join(bodies)
    try:
        fields = decode_lines(lines)
        if len(fields) != len(bodies) or _encode_lines(fields) != lines + b"\n":
            return None
    except _NOT_DECODED:
        return None
    return None if _BACKSLASH in lines and b"\\u0000" in lines else fields


def source_opening(body: bytes) -> int:
    """Return the offset of the source's opening brace in a body that `read` accepted; -1 if it is ambiguous.

    The body must have a source.
    """
    name = b'"source"'
    # Proven text contains no needless escapes in names. A name that occurs once is therefore the event's own field.
    return body.index(b"{", body.index(name)) if body.count(name) == 1 else -1


def splitting(body: bytes, piece_bytes: int = PIECE_BYTES) -> Generator[None, None, list[bytes] | None]:
    """Return the unchanged elements of a batch, in steps; None if the body is not a batch in a common style.

    The elements joined by the separator are exactly the body. The body therefore contains nothing else, and it is
    strict JSON if each element is.
    """
    for opening, comma, closing in _FRAME_STYLES:
        if body.startswith(opening) and body.endswith(closing):
            elements = yield from _splitting(body, len(opening), len(body) - len(closing), comma, piece_bytes)
            if elements:
                return elements
    return None


def _splitting(
    body: bytes, start: int, end: int, comma: bytes, piece_bytes: int
) -> Generator[None, None, list[bytes] | None]:
    """Cut the body where an element may start with the same bytes as the first one, and prove each piece."""
    elements: list[bytes] = []
    separator = comma + body[start : start + _MAX_OPENING_BYTES].partition(b":")[0]
    while start < end:
        cut = _cut(body, start, end, separator, piece_bytes)
        for _ in range(_MAX_CUTS):
            piece = _elements(body[start:cut], comma) if cut > 0 else None
            if piece or cut in (-1, end):
                break
            cut = body.rfind(separator, start + 1, cut)  # The cut may be inside a nested array: try the one before.
        if not piece:
            return None
        elements += piece
        start = cut + len(comma)
        if start < end:
            yield
    return elements


def _cut(body: bytes, start: int, end: int, separator: bytes, piece_bytes: int) -> int:
    """Return the offset at which the piece that starts at `start` may end; -1 if the piece would be too long."""
    if end - start <= piece_bytes:
        return end
    cut = body.rfind(separator, start + 1, start + piece_bytes)
    if cut < 0:
        cut = body.find(separator, start + 1, start + 4 * piece_bytes)
    return end if cut < 0 and end - start <= 4 * piece_bytes else cut


def _elements(piece: bytes, comma: bytes) -> list[bytes] | None:
    try:
        raws = _decode_array(b"[%b]" % piece)
    except _NOT_DECODED:
        return None
    if len(raws) * _MIN_EVENT_BYTES > len(piece):
        return None  # The elements are too short for events. The strict reader rejects them in steps.
    elements = [bytes(raw) for raw in raws]
    return elements if comma.join(elements) == piece else None

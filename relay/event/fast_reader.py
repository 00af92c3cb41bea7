"""The quick reader of events: accepts only what it can prove, and leaves the rest to the slow one.

The proof: msgspec decodes an event into the types below and encodes what it got. If that gives the same text
back (but for space between tokens, and `\\/`), then the text is strict JSON with no field twice, no integer
beyond 64 bits, no half surrogates, and no deeper nesting than the types have. None of its answers is a refusal.
What the types cannot say (presence, UUIDs, times, blanks) is the caller's to check.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Annotated, Literal, Required, TypedDict, TypeVar

import msgspec

from relay.event.rules import MAX_DEVICE_ID_CHARACTERS, MAX_TENANT_ID, MIN_TENANT_ID

T = TypeVar("T")

_MAX_INTEGER = 2**63 - 1
_Integer = Annotated[int, msgspec.Meta(ge=-_MAX_INTEGER - 1, le=_MAX_INTEGER)]
_Plain = str | _Integer | float | bool | None
# msgspec has recursive types for classes only; what is nested deeper is the slow reader's
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
    """An event's fields by name."""

    event_id: str
    event_type: Required[str]
    tenant_id: Annotated[int, msgspec.Meta(ge=MIN_TENANT_ID, le=MAX_TENANT_ID)]
    source: Source
    subject: Subject
    context: dict[str, _Nested4]
    occurred_at: str


_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_any = msgspec.json.Decoder(dict[str, _Nested5]).decode
"""For events with fields that are not in Fields, which drops them."""
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
decode_lines = msgspec.json.Decoder(Fields).decode_lines
_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_format = msgspec.json.format
_NOT_DECODED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Everything msgspec raises for bytes it does not take; only the first is its own."""

_LEAST_EVENT_BYTES = len('{"event_type":"a"}')
_BACKSLASH = ord("\\")
_FRAME_STYLES = (
    (b'{"events":[', b",", b"]}"),
    (b'{"events": [', b", ", b"]}"),
    (b"[", b",", b"]"),
    (b"[", b", ", b"]"),
)
"""Opening, separator and closing of a batch as the common JSON writers put them."""
PIECE_BYTES = 32_768
"""Of a batch, split in one step; a piece of larger events may have four times as many."""
_MAX_OPENING_BYTES = 64
"""Of an element, up to the colon behind its first name; one writer begins all elements with these bytes."""
_CUTS = 4
"""Places where one piece may be cut, before the batch is left to the slow reader."""


def read(body: bytes) -> Fields | None:
    """The fields of one event without space around it, or None if nothing is proven."""
    try:
        fields = _decode_fields(body)
        canonical = _encode(fields)
        if canonical != body:
            # of a pair `\\` and `/` this makes an escaped slash: no string ends elsewhere, so the proof holds
            compact = _format(body.replace(b"\\/", b"/"), indent=-1)
            if canonical != compact and _encode(_decode_any(body)) != compact:
                return None
    except _NOT_DECODED:
        return None
    if _BACKSLASH in body and b"\\u0000" in body:
        return None
    return fields


def read_compact(body: bytes) -> Fields | None:
    """What `read` says of an event that is written without spaces; None of any other."""
    try:
        fields = _decode_fields(body)
        return fields if _encode(fields) == body else None
    except _NOT_DECODED:
        return None


def read_together(bodies: Sequence[bytes], decode_lines: Callable[[bytes], list[T]]) -> Sequence[T] | None:
    """What `read` says of each, at two thirds of its price; None unless all are proven and written without spaces.

    Joined by line breaks they are decoded and encoded at once. As many come out as went in, so that none of them
    holds a line break itself, and each line is the proof of one. `decode_lines` decodes into Fields, or into other
    types that take no more than Fields does.
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
    """Where the source's opening brace is in a body that `read` took and that has a source; -1 if not sure."""
    name = b'"source"'
    # proven text writes names without needless escapes: if it is there once, it is the event's own
    return body.index(b"{", body.index(name)) if body.count(name) == 1 else -1


def split(body: bytes) -> list[bytes] | None:
    """Return what `splitting` returns, in one step: for a body of at most `PIECE_BYTES`."""
    for opening, comma, closing in _FRAME_STYLES:
        if body.startswith(opening) and body.endswith(closing):
            elements = _elements(body[len(opening) : -len(closing)], comma)
            if elements:
                return elements
    return None


def splitting(body: bytes, piece_bytes: int = PIECE_BYTES) -> Generator[None, None, list[bytes] | None]:
    """Return the elements of a batch as they stand, in steps; None if the body is no batch in a common style.

    Joined again they are the body. So the body contains nothing else, and is strict if each element is.
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
    """Cut the body where an element may begin as the first one does, and prove each piece."""
    elements: list[bytes] = []
    separator = comma + body[start : start + _MAX_OPENING_BYTES].partition(b":")[0]
    while start < end:
        cut = _cut(body, start, end, separator, piece_bytes)
        for _ in range(_CUTS):
            piece = _elements(body[start:cut], comma) if cut > 0 else None
            if piece or cut in (-1, end):
                break
            cut = body.rfind(separator, start + 1, cut)  # it may be inside a nested array
        if not piece:
            return None
        elements += piece
        start = cut + len(comma)
        yield
    return elements


def _cut(body: bytes, start: int, end: int, separator: bytes, piece_bytes: int) -> int:
    """Where the piece that begins at `start` may end; -1 if it would be too long."""
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
    if len(raws) * _LEAST_EVENT_BYTES > len(piece):
        return None  # these are no events; the slow reader takes its time in steps
    elements = [bytes(raw) for raw in raws]
    return elements if comma.join(elements) == piece else None

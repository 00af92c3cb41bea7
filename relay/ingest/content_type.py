"""Decide by its headers how a request's body is to be read.

Rules, from the contract and from the upstream's framework, which reads a body as JSON if its type contains "/json" or
"+json":
1.  The types for lines, and the rejected JSON text sequences (RFC 7464), are looked for first.
2.  Only the type itself counts, not its parameters, so that no form can be taken for JSON.
3.  Events are stored byte for byte, and no charset is converted. So with a charset other than UTF-8 the body must be
    ASCII, which most charsets share with UTF-8.

Pure. The answers name the received value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from relay.http.content_coding import CODINGS
from relay.http.response import Response, error_response

BodyKind = Literal["json", "lines"]

KINDS: Mapping[str, BodyKind] = {
    "": "json",
    "application/json": "json",
    "text/plain": "json",
    "application/x-ndjson": "lines",
    "application/ndjson": "lines",
    "application/jsonl": "lines",
    "application/x-jsonlines": "lines",
}
"""The types with a name of their own. Further ones are read as JSON, see `body_type`."""
CODING_NAMES: Mapping[str, str] = {"x-gzip": "gzip", **{coding: coding for coding in CODINGS}}
"""Content codings by every name that a client may use (RFC 9110, 8.4.1.3)."""
_UTF_8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii", ""})
_SHOWN_CHARACTERS = 80


class BodyType(NamedTuple):
    kind: BodyKind
    ascii_only: bool = False
    """Whether the charset is another than UTF-8. Then only bytes that are ASCII can be read."""


def body_type(content_type: str) -> BodyType | None:
    """Return how to read a body with this Content-Type; None if not at all."""
    media_type, *parameters = content_type.lower().split(";")
    media_type = media_type.strip()
    kind = KINDS.get(media_type)
    if kind is None and "json-seq" not in media_type and ("/json" in media_type or "+json" in media_type):
        kind = "json"
    return None if kind is None else BodyType(kind, not all(map(_is_utf_8, parameters)))


def _is_utf_8(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() != "charset" or value.strip(" \t\"'") in _UTF_8


def content_coding(values: Sequence[str]) -> str | None:
    """Return the coding that Content-Encoding headers name, one of CODINGS or ""; None if it is not accepted."""
    names = [name for value in values for part in value.split(",") if (name := part.strip().lower())]
    codings = [name for name in names if name != "identity"]
    if not codings:
        return ""
    return CODING_NAMES.get(codings[0]) if len(codings) == 1 else None


def wrong_type(content_type: str) -> Response:
    """Return the 415 to a type that is not read. It closes the connection, because the body was not read."""
    return error_response(
        415,
        f"Content-Type {_shown(content_type)} is not accepted. Send application/json or another JSON type, text/plain "
        "or none, or application/x-ndjson for one event per line.",
        close=True,
    )


def wrong_charset(content_type: str) -> Response:
    """Return the 415 to a body that is not ASCII, in a charset that is not read."""
    return error_response(
        415,
        f"Content-Type {_shown(content_type)} with a body that is not ASCII is not accepted. Send the body in UTF-8.",
    )


def wrong_coding(values: Sequence[str]) -> Response:
    """Return the 415 to a coding that is not undone. It closes the connection, because the body was not read."""
    return error_response(
        415,
        f"Content-Encoding {_shown(', '.join(values))} is not accepted. Send one of {', '.join(CODINGS)}, or none.",
        headers=(("Accept-Encoding", ", ".join(CODINGS)),),
        close=True,
    )


def _shown(value: str) -> str:
    """Return a header's value in quotes, cut and without what a terminal or a log could take for its own."""
    cut = value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}..."
    return '"' + "".join(each if each.isprintable() else ascii(each)[1:-1] for each in cut) + '"'

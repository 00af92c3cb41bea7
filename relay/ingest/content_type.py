"""Decide from the headers how to read the body of a request.

Rules, from the contract and from the upstream's framework, which reads a body as JSON if its type contains "/json" or
"+json":
1.  The types for lines, and the rejected JSON text sequences (RFC 7464), have precedence over this rule.
2.  Parameters of the type are ignored, so that the content type of a form never counts as JSON.
3.  Events are stored byte for byte, without conversion of the charset. With a charset other than UTF-8 the body must
    therefore be ASCII, which most charsets share with UTF-8.

Pure. The error messages quote the received value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from relay.event.reader import BodyKind
from relay.http.content_coding import CODINGS
from relay.http.response import Response, error_response

KINDS: Mapping[str, BodyKind] = {
    "": "json",
    "application/json": "json",
    "text/plain": "json",
    "application/x-ndjson": "lines",
    "application/ndjson": "lines",
    "application/jsonl": "lines",
    "application/x-jsonlines": "lines",
}
"""The types that are accepted by name. `body_type` accepts further types as JSON."""
CODING_NAMES: Mapping[str, str] = {"x-gzip": "gzip", **{coding: coding for coding in CODINGS}}
"""Content codings by each accepted name (RFC 9110, 8.4.1.3)."""
_UTF_8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii", ""})
_SHOWN_CHARACTERS = 80


class BodyType(NamedTuple):
    kind: BodyKind
    ascii_only: bool = False
    """Whether only ASCII bodies are accepted, because the charset is not UTF-8."""


def body_type(content_type: str) -> BodyType | None:
    """Return how to read a body with this Content-Type; None if the type is not accepted."""
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
    """Return the coding that the Content-Encoding headers name, one of CODINGS or ""; None if it is not accepted."""
    names = [name for value in values for part in value.split(",") if (name := part.strip().lower())]
    codings = [name for name in names if name != "identity"]
    if not codings:
        return ""
    return CODING_NAMES.get(codings[0]) if len(codings) == 1 else None


def wrong_type(content_type: str) -> Response:
    """Return the 415 for a type that is not accepted. It closes the connection, because the body was not read."""
    return error_response(
        415,
        f"Content-Type {_shown(content_type)} is not accepted. Send application/json or another JSON type, text/plain "
        "or none, or application/x-ndjson for one event per line.",
        close=True,
    )


def wrong_charset(content_type: str) -> Response:
    """Return the 415 for a body that is not ASCII in a charset other than UTF-8."""
    return error_response(
        415,
        f"Content-Type {_shown(content_type)} with a body that is not ASCII is not accepted. Send the body in UTF-8.",
    )


def wrong_coding(values: Sequence[str]) -> Response:
    """Return the 415 for a coding that is not accepted. It closes the connection, because the body was not read."""
    return error_response(
        415,
        f"Content-Encoding {_shown(', '.join(values))} is not accepted. Send one of {', '.join(CODINGS)}, or none.",
        headers=(("Accept-Encoding", ", ".join(CODINGS)),),
        close=True,
    )


def _shown(value: str) -> str:
    """Return a header's value in quotes, cut, with unprintable characters escaped."""
    cut = value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}..."
    return '"' + "".join(each if each.isprintable() else ascii(each)[1:-1] for each in cut) + '"'

"""Received text, made safe for a terminal.

The relay, the upstream, or another server at the relay's address may send any characters. Escape sequences and
bidirectional marks could change the displayed text, and a line break could imitate a line of the command.
Every command passes received text through this module before it prints the text. JSON output needs no escaping,
because `json.dumps` escapes every character outside of ASCII.
"""

from __future__ import annotations

from typing import Any

MAX_CHARS = 500
"""Length of one printed text, unless the caller gives another limit."""


def printable(text: str, max_chars: int | None = MAX_CHARS) -> str:
    """Return `text` on one line, with every unprintable character escaped, cut to `max_chars` (None: not cut)."""
    if max_chars is not None and len(text) > max_chars:
        text = text[:max_chars] + "…"
    if not text.isprintable():
        text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return text if max_chars is None or len(text) <= max_chars else text[: max_chars - 1] + "…"


def printable_values(value: Any) -> Any:
    """Return the JSON value with `printable` strings and field names."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [printable_values(each) for each in value]
    if isinstance(value, dict):
        return {printable(name): printable_values(each) for name, each in value.items()}
    return value


def printable_lines(text: str) -> str:
    """Return `text` with its line breaks, and every other unprintable character escaped."""
    return "\n".join(printable(line, None) for line in text.split("\n"))

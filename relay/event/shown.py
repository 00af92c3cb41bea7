"""Describe a received value in an error message, cut and safe to print.

Rules:
1.  The description is short for every value. A string is cut before it is processed; of a list or object only the
    size is shown.
2.  Control and format characters, blanks other than a space, and lone surrogates are written as JSON escapes, so that
    they cannot affect a terminal or a log.

Pure. Independent of the fields of an event.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from relay.event.strict_json import Object
from relay.event.values import BLANK_ENDS

Mask = Callable[[str], str]
"""Replaces the relay's own secrets in a text."""

MAX_QUOTED_CHARACTERS = 60
"""Length of a quoted string, including escapes."""
_BEGINNING_CHARACTERS = 30
"""Length of the beginning of a body."""
_MAX_MASKED_CHARACTERS = 1_024
"""Length of the start of a string in which `mask` looks for secrets. Longer than a quotation plus a key."""


def unmasked(text: str) -> str:
    """Return the text unchanged."""
    return text


def shown(value: object, mask: Mask = unmasked) -> str:
    """Return a phrase such as `2.5`, `"roku"`, `a list of 3 items` or `a string of 300 characters: "aaa..."`."""
    if isinstance(value, str):
        quoted, is_whole = _quoted(mask(value[:_MAX_MASKED_CHARACTERS]))
        is_whole = is_whole and len(value) <= _MAX_MASKED_CHARACTERS
        return f'"{quoted}"' if is_whole else f'a string of {len(value)} characters: "{quoted}..."'
    if isinstance(value, Object):
        return _counted("an", "object", "field", len(value))
    if isinstance(value, list):
        return _counted("a", "list", "item", len(value))
    return json.dumps(value)


def beginning(body: bytes, mask: Mask) -> str:
    """Return the quoted beginning of a body, which may be anything."""
    return shown(mask(body[:_MAX_MASKED_CHARACTERS].decode(errors="replace"))[:_BEGINNING_CHARACTERS])


def _counted(article: str, kind: str, part: str, count: int) -> str:
    return f"{article} {kind} of {count} {part}{'' if count == 1 else 's'}" if count else f"an empty {kind}"


def _quoted(text: str) -> tuple[str, bool]:
    """Return the start of the text that fits into a quotation, and whether it is the whole text."""
    quoted = ""
    for character in text:
        safe = character.isprintable() and character not in '"\\' and (character == " " or character not in BLANK_ENDS)
        quoted_more = quoted + (character if safe else json.dumps(character)[1:-1])
        if len(quoted_more) > MAX_QUOTED_CHARACTERS:
            return quoted, False
        quoted = quoted_more
    return quoted, True

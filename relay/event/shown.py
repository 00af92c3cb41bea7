"""Describe a received value in an error message: what it is, cut and safe to print.

Rules:
1.  The text is short, whatever the value: a string is cut before it is looked at, a list or object is only counted.
2.  Quoted text has no character that a terminal, a log or a reader could take for something else: control and format
    characters, blanks other than a space, and half surrogate pairs are written as JSON escapes.

Pure. Knows nothing of fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from relay.event.strict_json import Object
from relay.event.values import BLANK_ENDS

Mask = Callable[[str], str]
"""Replaces the secrets in a text that the relay knows."""

MAX_QUOTED_CHARACTERS = 60
"""Of a string, escapes included."""
_MAX_MASKED_CHARACTERS = 1_024
"""The beginning of a string in which secrets are looked for; a key is shorter than what is not quoted of this."""


def unmasked(text: str) -> str:
    """Return the text as it is: there is no secret to hide."""
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


def _counted(article: str, kind: str, part: str, count: int) -> str:
    return f"{article} {kind} of {count} {part}{'' if count == 1 else 's'}" if count else f"an empty {kind}"


def _quoted(text: str) -> tuple[str, bool]:
    """Return what fits of a text, and whether that is all of it."""
    quoted = ""
    for character in text:
        safe = character.isprintable() and character not in '"\\' and (character == " " or character not in BLANK_ENDS)
        quoted_more = quoted + (character if safe else json.dumps(character)[1:-1])
        if len(quoted_more) > MAX_QUOTED_CHARACTERS:
            return quoted, False
        quoted = quoted_more
    return quoted, True

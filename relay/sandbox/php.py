"""What a PHP application makes of a JSON body.

Owns the quirks of the language and of the framework's input middleware, so that `validate` can be rules
only. Sources: PHP's json_decode (depth 512, integers beyond 64 bits become floats, the whole body is null for
invalid UTF-8, a byte order mark, a lone surrogate, NaN) and Laravel's TrimStrings and ConvertEmptyStringsToNull.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

MAX_DEPTH = 512
_TRIMMED = "\0\ufeff\u200b\u200e" + "".join(filter(str.isspace, map(chr, range(0x3001))))
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def decode(body: bytes) -> object:
    """The body's value, or None if PHP cannot decode it (which it does not tell from `null`)."""
    try:
        value: object = json.loads(str(body, "utf-8"), parse_constant=_not_json, parse_int=_integer)
        if _SURROGATE_ESCAPE.search(body):
            json.dumps(value, ensure_ascii=False).encode()  # fails for a surrogate without its other half
    except (ValueError, RecursionError):
        return None
    return None if deeper_than(value, MAX_DEPTH) else value


def deeper_than(value: object, depth: int) -> bool:
    """Whether arrays and objects nest more than `depth` levels; a scalar has none."""
    level = [value] if isinstance(value, dict | list) else []
    while level:
        if depth == 0:
            return True
        depth -= 1
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
    return False


def clean(value: object) -> object:
    """As the input middleware leaves a value: strings trimmed, empty ones null."""
    return value.strip(_TRIMMED) or None if isinstance(value, str) else value


def _integer(digits: str) -> int | float:
    if len(digits) > 20:
        return float(digits)
    number = int(digits)
    return number if -(2**63) <= number < 2**63 else float(number)


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")

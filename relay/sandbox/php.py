"""Read a JSON body, texts and times as a PHP application reads them.

Owns the quirks of the language and of the framework's input middleware, so that `validate` can be rules
only. Sources: PHP's json_decode (depth 512, integers beyond 64 bits become floats, the whole body is null for
invalid UTF-8, a byte order mark, a lone surrogate, NaN), Laravel's TrimStrings and ConvertEmptyStringsToNull, and
PHP's strtotime and date_parse. The relay's own rules share no code with these, so that each tests the other.
"""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import date
from typing import NoReturn

MAX_DEPTH = 512
_TRIMMED_CATEGORIES = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})
"""Unicode categories that are trimmed: white space, control and format characters."""
_TRIMMED_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0\U0001d159")
_DATE = re.compile(
    r"(?:(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"|(?P<basic_year>[0-9]{4})(?P<basic_month>[0-9]{2})(?P<basic_day>[0-9]{2})"
    r"|(?P<week_year>[0-9]{4})-?W(?:0[1-9]|[1-4][0-9]|5[0-3])(?:-?[0-7])?)"
    r"(?P<rest>.*)",
    re.DOTALL,
)
_TIME = re.compile(
    r"(?:[Tt](?:[01]?[0-9]|2[0-4])(?:[0-5][0-9](?:[0-5][0-9]|60)?)?"
    r"|[Tt ](?:[01]?[0-9]|2[0-4]):[0-5]?[0-9](?::(?:[0-5]?[0-9]|60)(?P<fraction>\.[0-9]+)?)?)?"
    r"(?: ?(?:Z|UTC|GMT|[+-](?:[01]?[0-9]|2[0-3])(?::?[0-5][0-9])?))?",
    re.IGNORECASE,
)
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def decode(body: bytes) -> object:
    """Return the body's value, or None if PHP cannot decode it. PHP returns null for both."""
    try:
        value: object = json.loads(str(body, "utf-8"), parse_constant=_not_json, parse_int=_integer)
        if _SURROGATE_ESCAPE.search(body):
            json.dumps(value, ensure_ascii=False).encode()  # Fails for an unpaired surrogate.
    except (ValueError, RecursionError):
        return None
    return None if deeper_than(value, MAX_DEPTH) else value


def deeper_than(value: object, depth: int) -> bool:
    """Return whether arrays and objects are nested in more than `depth` levels. A scalar has no level."""
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
    """Return a value after the input middleware: it trims strings, and replaces empty strings by null."""
    if not isinstance(value, str):
        return value
    start, end = 0, len(value)
    while start < end and _is_trimmed(value[start]):
        start += 1
    while start < end and _is_trimmed(value[end - 1]):
        end -= 1
    return value[start:end] or None


def _is_trimmed(character: str) -> bool:
    return unicodedata.category(character) in _TRIMMED_CATEGORIES or character in _TRIMMED_LETTERS


def is_date(text: str) -> bool:
    """Return whether `strtotime`, `date_parse` and `checkdate` accept a trimmed text as a date.

    Only ISO 8601 forms are implemented. PHP also reads names of months, and "@" with an epoch.
    """
    found = _DATE.fullmatch(text)
    if found is None:
        return False
    time = _TIME.fullmatch(found["rest"])
    if time is None or (found["basic_year"] and time["fraction"]):
        return False
    if found["week_year"]:
        return found["week_year"] != "0000"
    numbers = (
        found.group("year", "month", "day") if found["year"] else found.group("basic_year", "basic_month", "basic_day")
    )
    try:
        date(*map(int, numbers))
    except ValueError:
        return False
    return True


def _integer(digits: str) -> int | float:
    if len(digits) > 20:
        return float(digits)
    number = int(digits)
    return number if -(2**63) <= number < 2**63 else float(number)


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")

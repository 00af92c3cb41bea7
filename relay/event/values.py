"""Check single values of an event as the upstream's framework does: blanks, UUIDs, times, integers.

The source is the documentation of the upstream's API. Rules:
1.  The relay accepts no form that the framework rejects. One such event makes the upstream reject its whole batch.
2.  The framework trims every string before it validates it. A UUID, time or platform may therefore have surrounding
    blanks, a string of blanks counts as missing, and device ids that differ only in surrounding blanks are one device.

Pure. Independent of fields and messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from struct import iter_unpack

_BLANK_SPANS = (
    (0x0, 0x20),
    (0x7F, 0xA0),
    (0x600, 0x605),
    (0x890, 0x891),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x2000, 0x200F),
    (0x2028, 0x202F),
    (0x205F, 0x206F),
    (0xFFF9, 0xFFFB),
    (0x13430, 0x1343F),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0020, 0xE007F),
)
_OTHER_BLANKS = (
    "\u00ad\u034f\u061c\u06dd\u070f\u08e2\u1680\u180e\u2800\u3000\u3164\ufeff\uffa0"
    "\U000110bd\U000110cd\U0001d159\U000e0001"
)
BLANKS = (
    "\u00ad\u034f\u061c\u06dd\u070f\u08e2\u1680\u180e\u2800\u3000\u3164\ufeff\uffa0"
    "\U000110bd\U000110cd\U0001d159\U000e0001"
)
BLANKS = "".join(chr(code) for first, last in _BLANK_SPANS for code in range(first, last + 1)) + _OTHER_BLANKS
"""Every character that the framework may trim: white space, control and format characters, invisible letters.

Of the control characters the framework trims only NUL and white space, of the format characters many.
"""
BLANK_ENDS = frozenset(BLANKS) | {""}
"""`text[:1]` or `text[-1:]` of a text that needs trimming; "" stands for an empty text."""

_MAX_WHOLE_FLOAT = 10**15
"""From this value on PHP writes a float with an exponent, which the framework does not accept as an integer."""


def trimmed(text: str) -> str:
    """Return the text without surrounding blanks."""
    return text.strip(BLANKS) if text[:1] in BLANK_ENDS or text[-1:] in BLANK_ENDS else text


def are_trimmed(texts: Iterable[str]) -> bool:
    """Return whether no text has surrounding blanks or is empty."""
    return BLANK_ENDS.isdisjoint([text[:1] for text in texts]) and BLANK_ENDS.isdisjoint([text[-1:] for text in texts])


def is_blank(text: str) -> bool:
    """Return whether the framework treats the text as missing."""
    return text[:1] in BLANK_ENDS and not text.strip(BLANKS)


def whole(value: object) -> int | None:
    """Return a JSON number as an integer (2 for 2 and for 2.0), or None if it is not an integer."""
    if type(value) is float and value.is_integer() and abs(value) < _MAX_WHOLE_FLOAT:
        return int(value)
    return value if type(value) is int else None  # isinstance() would accept True.


# --- UUIDs ---------------------------------------------------------------------------------------------------

_from_hex = bytes.fromhex  # The lookup of the attribute takes a quarter of the time of a call.


_is_uuid4 = re.compile("[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}").fullmatch


def uuid4_bytes(text: str) -> bytes:
    """Return the 16 bytes of a version 4 UUID in 8-4-4-4-12 form, in either case; else b"" (RFC 9562)."""
    return _from_hex(text.replace("-", "")) if _is_uuid4(text) else b""


def all_uuid4_bytes(texts: Sequence[str]) -> Sequence[bytes]:
    """Return `uuid4_bytes` of each text, in half of the time; an empty sequence if a text is not such a UUID."""
    if not all(map(_is_uuid4, texts)):
        return ()
    return [uuid for (uuid,) in iter_unpack("16s", _from_hex("".join(texts).replace("-", "")))]


# --- times ---------------------------------------------------------------------------------------------------


def _date(dash: str) -> str:
    """Return the pattern of a valid calendar date from 0001-01-01 on. The framework checks the calendar, too."""
    day_28 = f"(?:0[1-9]|1[0-2]){dash}(?:0[1-9]|1[0-9]|2[0-8])"
    day_30 = f"(?:0[13-9]|1[0-2]){dash}(?:29|30)"
    day_31 = f"(?:0[13578]|1[02]){dash}31"
    leap_year = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
    return f"(?!0000)(?:[0-9]{{4}}{dash}(?:{day_28}|{day_30}|{day_31})|{leap_year}{dash}02{dash}29)"


_WEEK_DATE = "(?!0000)[0-9]{4}-?W(?:0[1-9]|[1-4][0-9]|5[0-3])(?:-?[1-7])?"
_HOUR, _MINUTE, _SECOND = "(?:[01][0-9]|2[0-4])", "[0-5][0-9]", "(?:[0-5][0-9]|60)"
_EXTENDED_TIME = rf"{_HOUR}(?::{_MINUTE}(?::{_SECOND}(?:\.[0-9]+)?)?)"
_BASIC_TIME = f"{_HOUR}(?:{_MINUTE}(?:{_SECOND})?)?"
"""Basic format. PHP reads it only after a T, and without a fraction."""
_ZONE = "(?:[Zz]|[Uu][Tt][Cc]|[Gg][Mm][Tt]|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)"
_NO_FRACTION = r"(?![^.]*\.)"

MOMENT = f"(?:{_date('-')}|{_NO_FRACTION}{_date('')}|{_WEEK_DATE})(?:[Tt ]{_EXTENDED_TIME}|[Tt]{_BASIC_TIME}) ?{_ZONE}"
"""A time that `is_moment` accepts, as a regular expression."""
_is_moment = re.compile(MOMENT).fullmatch
_parse_moment = datetime.fromisoformat


def is_moment(text: str) -> bool:
    """Return whether a trimmed text is a date and time with a zone that PHP reads as ISO 8601 defines it.

    This includes all of RFC 3339 with the years 0001 to 9999, and ISO 8601 in basic format and with weeks. Compared
    with PHP 8.2 (`strtotime`, `date_parse`, `checkdate`): PHP accepts every such form and reads the same instant.
    """
    shape = text[10:20:3]
    # For these two shapes Python's parser accepts nothing that PHP rejects, and takes half the time of the pattern.
    if (shape == "T::." and text[23:] == "Z") or (shape == "T::Z" and len(text) == 20):
        try:
            _parse_moment(text)
        except ValueError:
            pass  # Python does not support leap seconds; the pattern does.
        else:
            return True
    return _is_moment(text) is not None

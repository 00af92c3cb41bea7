"""Parse the delay that a server requests, in the formats that servers use.

A time is relative to the Date of the response, because the clock of a TV box may be wrong by decades. The first valid
header counts. A value may be a number (also fractional, with a plus sign or an "s"), a Unix time, an ISO 8601 time, an
HTTP date, or a list of them, of which the first counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

_EPOCH_SECONDS_ABOVE = 1e9
_EPOCH_MS_ABOVE = 1e11
_NUMBER = re.compile(r"([+-]?[0-9]{1,15}(?:\.[0-9]{1,9})?)\s*s?", re.ASCII)
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.]{5,15}(?:[Zz]|[+-][0-9:]{2,5})", re.ASCII)
_PARAMETER = re.compile(r"(?:^|[;,\s])(?:t|reset)=([0-9]{1,15}(?:\.[0-9]{1,9})?)", re.ASCII)
_HEADERS = ("retry-after", "ratelimit-reset", "ratelimit", "x-ratelimit-reset", "x-rate-limit-reset", "retry-after-ms")
HEADERS = (*_HEADERS, "date", "age")
"""The headers that this module reads."""


def requested_ms(headers: Mapping[str, str], wall_ms: int) -> int | None:
    """Return the requested delay in milliseconds, or None if the server names none.

    `headers` by lower-case name; `wall_ms`: this machine's Unix time, for a response without a Date.
    """
    server_ms = http_date_ms(headers.get("date"))
    now_ms = wall_ms if server_ms is None else server_ms
    for name in _HEADERS:
        text = headers.get(name, "").strip()
        if not text:
            continue
        if name == "ratelimit":
            found = _PARAMETER.search(text)
            text = found[1] if found else ""
        delay_ms = _delay_ms(text, now_ms, 1 if name == "retry-after-ms" else 1000)
        if delay_ms is not None:
            return delay_ms
    return None


@lru_cache(maxsize=8)  # All responses of one second have the same date.
def http_date_ms(text: str | None) -> int | None:
    """Return Unix milliseconds, or None. HTTP dates are UTC (RFC 9110, 5.6.7), also without a time zone."""
    if not text:
        return None
    try:
        date = parsedate_to_datetime(text)
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError):
        return None


def _delay_ms(text: str, now_ms: int, unit_ms: int) -> int | None:
    """Return the delay in the value of a header. `unit_ms` is the unit of a small number, in milliseconds."""
    for candidate in (text, text.split(",", maxsplit=1)[0].strip()):
        number = _NUMBER.fullmatch(candidate)
        if number is not None:
            value = float(number[1])
            if value > _EPOCH_MS_ABOVE:
                return max(0, int(value) - now_ms)
            if value > _EPOCH_SECONDS_ABOVE:
                return max(0, int(value * 1000) - now_ms)
            return max(0, int(value * unit_ms))
        at_ms = _iso_ms(candidate) if _ISO.fullmatch(candidate) else http_date_ms(candidate)
        if at_ms is not None:
            return max(0, at_ms - now_ms)
    return None


def _iso_ms(text: str) -> int | None:
    try:
        return int(datetime.fromisoformat(text.upper()).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None

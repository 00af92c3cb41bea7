"""What each answer of the upstream means: THE table of the contract's section 7.

The only module that knows a status code. It says what an answer means for the request; what that
means for devices and routes (hold, halve, probe) is `schedule`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import msgspec

from relay.policy.html_words import html_words, without_status

WORDS_MAX_CHARS = 256
_EPOCH_SECONDS_FROM = 1_000_000_000  # an X-RateLimit-Reset above this is a Unix time, below it a delay
_NAMED = re.compile(r'events"?\s*[./\[,]+\s*"?(\d+)\b', re.ASCII)
_INDEX_MAX_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `headers` by lower-case name, `body` at most 64 KiB, the key already masked in both."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    wall_ms: int
    """Our wall clock when it came; used only where the server sent a date but no Date header."""
    mask: Callable[[str], str] = str
    """Masks the key once more in what was made of the body: undoing escapes and tags may put it together."""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Refused, timed out, cut short, not TLS, not HTTP: whether the upstream took the events is unknown."""

    words: str
    never_sent: bool = False
    """There was no connection, so it was none of the upstream's business."""
    lost_kept_connection: bool = False
    """A kept connection closed before the first byte of the response."""
    proxy_status: int | None = None
    """The status with which the proxy refused the connection; `words` say that it was the proxy."""
    while_sending: bool = False
    """The request timed out before the upstream's host had acknowledged all of its bytes."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """All events of the request are the upstream's now."""


@dataclass(frozen=True, slots=True)
class Refused:
    """At least one event is bad. `named` maps indexes in the request to the upstream's words; empty: unnamed."""

    status: int
    words: str
    named: Mapping[int, str] = field(default_factory=dict)
    about_events: bool = True
    """Whether the answer is one to events (400, 422), or another 4xx that could be about anything."""


@dataclass(frozen=True, slots=True)
class TooLarge:
    status: int
    words: str


@dataclass(frozen=True, slots=True)
class RateLimited:
    words: str
    asked_ms: int | None
    limit: int | None
    """X-RateLimit-Limit, if one above 0 was said."""


@dataclass(frozen=True, slots=True)
class Unauthorized:
    words: str


@dataclass(frozen=True, slots=True)
class Misconfigured:
    words: str


@dataclass(frozen=True, slots=True)
class Failing:
    words: str
    asked_ms: int | None = None
    status: int | None = None
    """None if there was no answer."""
    while_sending: bool = False
    """The batch timed out while the relay was sending it: the link is slow, or nobody reads."""


@dataclass(frozen=True, slots=True)
class Again:
    """The very same request is to be sent again at once, on a fresh connection: it met one that was about to close."""

    words: str


_DELIVERED = Delivered()

Verdict = Delivered | Refused | TooLarge | RateLimited | Unauthorized | Misconfigured | Failing | Again


def verdict(answer: Answer | NoAnswer, events: int) -> Verdict:
    """What the answer to a request with `events` events means."""
    if isinstance(answer, NoAnswer):
        return _no_answer(answer)
    status, content = answer.status, _json(answer.body)
    succeeded = 200 <= status < 300
    if succeeded and not (isinstance(content, dict) and content.get("success") is False):
        return _DELIVERED
    said = _said(answer, content)
    words = clean(f"{status} {said}", answer.mask)
    match status:
        case _ if succeeded:
            return Failing(clean(f"{status} but success is false: {said}", answer.mask), None, status)
        case 401 | 403:
            return Unauthorized(words)
        case 404 | 405 | 410 | 501:
            return Misconfigured(words)
        case 413:
            return TooLarge(status, words)
        case 429:
            return RateLimited(words, _asked_ms(answer), _positive(answer.headers.get("x-ratelimit-limit")))
        case 408 | 425 | 499:
            return Failing(words, _asked_ms(answer), status)
        case _ if 400 <= status < 500:
            # a 400 in HTML is a server's or proxy's own (plain HTTP to a TLS port, say), not the API's about an event
            about_events = status == 422 or (status == 400 and not answer.body.lstrip().startswith(b"<"))
            return Refused(status, words, _named(content, events, answer.mask), about_events)
        case _ if 300 <= status < 400:
            target = redirect_target(answer.headers.get("location", ""))
            words = clean(f"{status}{target} {said}", answer.mask)
            return Misconfigured(f"{words} (redirects are not followed: one would carry the key away)")
        case _:
            return Failing(words, _asked_ms(answer), status)


def _no_answer(answer: NoAnswer) -> Verdict:
    """What it means that there was no response: a proxy's own status is judged as the upstream's would be."""
    if answer.lost_kept_connection:
        return Again(answer.words)
    match answer.proxy_status:
        case 401 | 403 | 407:
            return Unauthorized(answer.words)
        case 404 | 405 | 410 | 501 | 511:
            return Misconfigured(answer.words)
        case status if status is not None and 300 <= status < 400:
            return Misconfigured(answer.words)
        case _:
            return Failing(answer.words, while_sending=answer.while_sending)


def redirect_target(location: str) -> str:
    """Return words for the scheme and host of a Location header. Its path and query may hold secrets."""
    try:
        url = urlsplit(location)
        host = url.hostname or ""
    except ValueError:
        return ""
    if not host:
        return " redirects to another path of the same host" if location else ""
    return f" redirects to {url.scheme or 'the same scheme'}://{host}"


def server_date_ms(headers: Mapping[str, str]) -> int | None:
    """The upstream's own clock, Unix milliseconds, from its Date header."""
    return _http_date_ms(headers.get("date"))


def _named(content: Any, events: int, mask: Callable[[str], str]) -> dict[int, str]:
    """Which events a body names, by index; empty if it names none, or one that is not there.

    Shapes: {"errors": {"events.3.source.platform": ["..."]}} and lists of objects or sentences that
    hold such a path, under "errors" or "detail". A body that names an index out of range counts by
    something we do not know: none of its names is believed.
    """
    if not isinstance(content, dict):
        return {}
    named: dict[int, list[str]] = {}
    for path, words in _complaints(content.get("errors") or content.get("detail")):
        found = _NAMED.search(path)
        if found is None:
            continue
        digits = found[1]
        if len(digits) > _INDEX_MAX_DIGITS or int(digits) >= events:
            return {}
        index = int(digits)
        named.setdefault(index, []).append(words)
    return {index: clean("; ".join(words), mask) for index, words in named.items()}


def _complaints(errors: Any) -> Iterator[tuple[str, str]]:
    """(path, words) of every complaint in a validation error's body."""
    if isinstance(errors, dict):
        for path, words in errors.items():
            texts = words if isinstance(words, list) else [words]
            yield str(path), " ".join(text if isinstance(text, str) else _text(text) for text in texts)
    elif isinstance(errors, list):
        for complaint in errors:
            text = complaint if isinstance(complaint, str) else _text(complaint)
            yield text, text


def _asked_ms(answer: Answer) -> int | None:
    """How long the server asks us to wait; None if it does not say, or not in a way that makes sense.

    Dates are taken relative to the server's own Date header: a TV box's clock may be decades off.
    """
    headers = answer.headers
    server_now_ms = server_date_ms(headers) or answer.wall_ms
    retry_after = headers.get("retry-after", "").strip()
    seconds = _integer(retry_after)
    if seconds is not None:
        return max(0, seconds) * 1000
    date_ms = _http_date_ms(retry_after)
    if date_ms is not None:
        return max(0, date_ms - server_now_ms)
    reset = _integer(headers.get("x-ratelimit-reset"))
    if reset is None or reset < 0:
        return None
    return max(0, reset * 1000 - server_now_ms) if reset >= _EPOCH_SECONDS_FROM else reset * 1000


def _integer(text: str | None) -> int | None:
    """A short decimal integer, else None."""
    stripped = (text or "").strip()
    return int(stripped) if re.fullmatch(r"-?[0-9]{1,15}", stripped) else None


def _positive(text: str | None) -> int | None:
    number = _integer(text)
    return number if number is not None and number > 0 else None


@lru_cache(maxsize=8)  # all answers of a second have one date
def _http_date_ms(text: str | None) -> int | None:
    """Unix milliseconds. HTTP dates are UTC (RFC 9110, 5.6.7), also in the forms that do not say so."""
    if not text:
        return None
    try:
        date = parsedate_to_datetime(text)
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError):
        return None


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _said(answer: Answer, content: Any) -> str:
    """The upstream's own words without the status: the body's message if it has one, else its text."""
    said = ""
    if isinstance(content, dict):
        said = next((content[k] for k in ("error", "message", "detail") if isinstance(content.get(k), str)), "")
    if said:
        return without_status(said, answer.status)
    text = answer.body.decode("utf-8", "replace")
    if "<" in text:
        return html_words(text, answer.status, answer.mask)
    return without_status(answer.mask(text)[: 4 * WORDS_MAX_CHARS], answer.status)


def clean(text: str, mask: Callable[[str], str] = str) -> str:
    """One printable line of at most WORDS_MAX_CHARS: fit for logs, pages and the database; masked before it is cut."""
    line = " ".join((text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)).split())
    line = mask(line)
    return line if len(line) <= WORDS_MAX_CHARS else line[: WORDS_MAX_CHARS - 1] + "…"


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()

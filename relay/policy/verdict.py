"""What each answer of the upstream means: THE table of the contract's section 7.

The only module that knows a status code. It says what an answer means for the request; what that
means for devices and routes (hold, halve, probe) is `schedule`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from relay.policy.html_text import html_text, without_status
from relay.policy.named_events import named, rejected_in_success
from relay.policy.requested_delay import http_date_ms, requested_ms
from relay.policy.response_body import content_of, decoded

MESSAGE_MAX_CHARS = 256
_NOT_ABOUT_EVENTS = frozenset(
    (402, 404, 405, 406, 409, 410, 411, 412, 415, 417, 418, 419, 421, 423, 424, 426, 428, 431, 451, 501)
)
"""Statuses of proxies, hosters and CDNs that are about the connection, the account or the place."""
_OF_THE_API = {"success", "errors", "message"}


@dataclass(frozen=True, slots=True)
class UpstreamResponse:
    """A whole answer; `headers` by lower-case name, `body` at most 64 KiB, the key already masked in both."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    wall_ms: int
    """Our wall clock when it came; used only where the server sent a date but no Date header."""
    mask: Callable[[str], str] = str
    """Masks the key once more in what was made of the body: undoing escapes and tags may put it together."""


@dataclass(frozen=True, slots=True)
class NoResponse:
    """Refused, timed out, cut short, not TLS, not HTTP: whether the upstream took the events is unknown."""

    message: str
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
    """The upstream accepted the events of the request, except those it rejected by name."""

    status: int = 202
    rejected: Mapping[int, str] = field(default_factory=dict)
    """The upstream's message by index in the request."""


@dataclass(frozen=True, slots=True)
class EventsRejected:
    """At least one event is bad. `named` maps indexes in the request to the upstream's words; empty: unnamed."""

    status: int
    message: str
    named: Mapping[int, str] = field(default_factory=dict)
    about_events: bool = True
    """Whether the answer is one to events (400, 422), or another 4xx that could be about anything."""


@dataclass(frozen=True, slots=True)
class BatchTooLarge:
    status: int
    message: str


@dataclass(frozen=True, slots=True)
class RateLimited:
    message: str
    retry_after_ms: int | None
    limit: int | None
    """X-RateLimit-Limit, if one above 0 was said."""


@dataclass(frozen=True, slots=True)
class Unauthorized:
    message: str


@dataclass(frozen=True, slots=True)
class Misconfigured:
    message: str


@dataclass(frozen=True, slots=True)
class Failing:
    message: str
    retry_after_ms: int | None = None
    status: int | None = None
    """None if there was no answer."""
    while_sending: bool = False
    """The batch timed out while the relay was sending it: the link is slow, or nobody reads."""


@dataclass(frozen=True, slots=True)
class Resend:
    """The very same request is to be sent again at once, on a fresh connection: it met one that was about to close."""

    message: str


Verdict = Delivered | EventsRejected | BatchTooLarge | RateLimited | Unauthorized | Misconfigured | Failing | Resend


def verdict(response: UpstreamResponse | NoResponse, events: int) -> Verdict:
    """What the answer to a request with `events` events means."""
    if isinstance(response, NoResponse):
        return _without_response(response)
    response = replace(response, body=decoded(response.body, response.headers))
    status, content = response.status, content_of(response.body)
    if 200 <= status < 300:
        return _success(response, content, events)
    message = clean(f"{status} {_quoted(response, content)}", response.mask)
    match status:
        case 401 | 403 | 407:
            return Unauthorized(message)
        case 511:
            return Misconfigured(message)
        case _ if 300 <= status < 400:
            target = redirect_target(response.headers.get("location", ""))
            message = clean(f"{status}{target} {_quoted(response, content)}", response.mask)
            return Misconfigured(f"{message} (redirects are not followed: one would carry the key away)")
        case _ if status in _NOT_ABOUT_EVENTS or (status == 400 and response.body.lstrip().startswith(b"<")):
            return Misconfigured(message)
        case 413:
            return BatchTooLarge(status, message)
        case 429:
            return RateLimited(message, _retry_after_ms(response), _positive(response.headers.get("x-ratelimit-limit")))
        case 408 | 425 | 499:
            return Failing(message, _retry_after_ms(response), status)
        case _ if 400 <= status < 500:
            found = named(content, events, partial(clean, mask=response.mask))
            return EventsRejected(status, message, found, status in (400, 422))
        case _:
            return Failing(message, _retry_after_ms(response), status)


def _without_response(response: NoResponse) -> Verdict:
    """What it means that there was no response: a proxy's own status is judged as the upstream's would be."""
    if response.lost_kept_connection:
        return Resend(response.message)
    match response.proxy_status:
        case 401 | 403 | 407:
            return Unauthorized(response.message)
        case status if status is not None and (status in _NOT_ABOUT_EVENTS or status == 511 or 300 <= status < 400):
            return Misconfigured(response.message)
        case _:
            return Failing(response.message, while_sending=response.while_sending)


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


def _success(response: UpstreamResponse, content: Any, events: int) -> Verdict:
    """What a 2xx means: it counts as delivered only if the API itself responded, and accepted the events.

    Captive portals, firewalls, error pages and single-page applications respond 200 in the API's place.
    """
    status = response.status
    if status in (201, 202, 204) and not response.body.strip():
        return Delivered(status)
    if not isinstance(content, dict) or not ("success" in content or _has_error(content)):
        return Misconfigured(_not_the_api(response))
    if content.get("success") is not True or _has_error(content):
        return Failing(
            clean(f"{status} but success is false: {_quoted(response, content)}", response.mask), None, status
        )
    if status not in (200, 201, 202):
        return Misconfigured(_not_the_api(response))
    rejected = rejected_in_success(content, events, partial(clean, mask=response.mask))
    if rejected is None:
        return Delivered(status)
    if 0 < len(rejected) < events:
        return Delivered(status, rejected)
    return EventsRejected(
        status, clean(f"{status} with rejected events: {_quoted(response, content)}", response.mask), rejected
    )


def is_from_api(response: UpstreamResponse) -> bool:
    """Return whether the API itself responded, not a proxy or portal in its place: only then its Date is believed."""
    content = content_of(decoded(response.body, response.headers))
    if 200 <= response.status < 300:
        return isinstance(_success(response, content, 0), Delivered | EventsRejected)
    return response.status in (401, 422, 429) and isinstance(content, dict) and bool(_OF_THE_API & content.keys())


def _has_error(content: Mapping[str, Any]) -> bool:
    return _is_error(content.get("error")) or _is_error(content.get("errors"))


def _is_error(value: Any) -> bool:
    """Return whether a member says that something failed. A number does, also 0."""
    return not (value is None or value is False or (isinstance(value, str | list | dict) and not value))


def _not_the_api(response: UpstreamResponse) -> str:
    """Return a message that says so and quotes the beginning of the response."""
    text_quoted = _quoted(response, None) or "an empty body"
    return clean(
        f"{response.status} is not the API's response but a portal's, proxy's or web page's: {text_quoted}",
        response.mask,
    )


def server_date_ms(headers: Mapping[str, str]) -> int | None:
    """Return the upstream's clock, Unix milliseconds, from its Date and Age; None without a Date."""
    date_ms = http_date_ms(headers.get("date"))
    age_s = _integer(headers.get("age")) if date_ms is not None else None
    # A cache adds how long it has kept the response (RFC 9111, 5.1).
    return date_ms if date_ms is None or age_s is None or age_s < 0 else date_ms + 1000 * age_s


def _retry_after_ms(response: UpstreamResponse) -> int | None:
    """How long the server asks us to wait; None if it does not say, or not in a way that makes sense."""
    return requested_ms(response.headers, response.wall_ms)


def _integer(text: str | None) -> int | None:
    """A short decimal integer, else None."""
    stripped = (text or "").strip()
    return int(stripped) if re.fullmatch(r"-?[0-9]{1,15}", stripped) else None


def _positive(text: str | None) -> int | None:
    number = _integer(text)
    return number if number is not None and number > 0 else None


def _quoted(response: UpstreamResponse, content: Any) -> str:
    """The upstream's own words without the status: the body's message if it has one, else its text."""
    text_quoted = ""
    if isinstance(content, dict):
        text_quoted = next((content[k] for k in ("error", "message", "detail") if isinstance(content.get(k), str)), "")
    if text_quoted:
        return without_status(text_quoted, response.status)
    text = response.body.decode("utf-8", "replace")
    if "<" in text:
        return html_text(text, response.status, response.mask)
    return without_status(response.mask(text)[: 4 * MESSAGE_MAX_CHARS], response.status)


def clean(text: str, mask: Callable[[str], str] = str) -> str:
    """One printable line of at most WORDS_MAX_CHARS: fit for logs, pages and the database; masked before it is cut."""
    line = " ".join((text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)).split())
    line = mask(line)
    return line if len(line) <= MESSAGE_MAX_CHARS else line[: MESSAGE_MAX_CHARS - 1] + "…"

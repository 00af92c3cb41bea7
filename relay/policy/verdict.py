"""The verdict on each response of the upstream. `docs/use/errors.md` describes them for operators.

No other module decides by status codes. The verdict states what a response means for the request. `judgement` decides
the consequences for device queues and endpoints (pause, halve, probe).
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
"""Statuses of proxies, hosters and CDNs that are about the connection, the account or the URL."""
_OF_THE_API = {"success", "errors", "message"}


@dataclass(frozen=True, slots=True)
class UpstreamResponse:
    """A complete response: `headers` by lower-case name, `body` of at most 64 KiB, the key masked in both."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    wall_ms: int
    """Unix time of this machine at the response, for a requested date in a response without a Date header."""
    mask: Callable[[str], str] = str
    """Masks the key in texts derived from the body, because removing escapes and tags may restore it."""


@dataclass(frozen=True, slots=True)
class NoResponse:
    """A connection error or timeout, or a response that is not HTTP. The upstream may have accepted the events."""

    message: str
    never_sent: bool = False
    """No connection was established, so the upstream did not receive the request."""
    is_unreachable: bool = False
    """Nothing of the request left this machine: no route, no name, no connection, or a reset before its first byte."""
    lost_kept_connection: bool = False
    """A reused connection was closed before the first byte of the response."""
    proxy_status: int | None = None
    """The status with which the proxy rejected the connection. `message` names the proxy."""
    while_sending: bool = False
    """The request timed out before the host of the upstream had acknowledged all of its bytes."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The upstream accepted the events of the request, except events that it rejected by index."""

    status: int = 202
    rejected: Mapping[int, str] = field(default_factory=dict)
    """Messages of the upstream by index in the request."""


@dataclass(frozen=True, slots=True)
class EventsRejected:
    """At least one event is bad. `named` contains messages by index in the request; empty: the response names none."""

    status: int
    message: str
    named: Mapping[int, str] = field(default_factory=dict)
    about_events: bool = True
    """Whether the status is about events (400, 422) and not another 4xx with an unknown reason."""


@dataclass(frozen=True, slots=True)
class BatchTooLarge:
    """The body of the request is too large for the upstream or a proxy (413)."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class RateLimited:
    """The request exceeded a rate limit (429)."""

    message: str
    retry_after_ms: int | None
    """The delay that the server requests, in milliseconds; None without a request."""
    limit: int | None
    """The value of X-RateLimit-Limit if it is above 0."""


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """The upstream or a proxy rejected the key (401, 403, 407)."""

    message: str
    status: int | None = None
    """None if a proxy responded instead."""

    @property
    def may_be_content(self) -> bool:
        """Whether a firewall may have responded to the content of an event."""
        return self.status == 403


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """The response is not from the API at this URL, so the URL or the network needs a correction."""

    message: str
    status: int | None = None
    """None if a proxy responded instead."""

    @property
    def may_be_content(self) -> bool:
        """Whether a firewall or an error page may have responded to the content of an event."""
        return self.status in (404, 405, 406, 501) or (self.status is not None and 200 <= self.status < 400)


@dataclass(frozen=True, slots=True)
class Failing:
    """The upstream is temporarily unavailable, or an event of the request makes it fail."""

    message: str
    retry_after_ms: int | None = None
    status: int | None = None
    """None without a response."""
    while_sending: bool = False
    """The batch timed out while the relay sent it: the link is slow or the upstream does not read."""

    @property
    def may_be_content(self) -> bool:
        return True

    @property
    def is_lost(self) -> bool:
        """Whether the request was sent and received no response at all."""
        return self.status is None and not self.while_sending


@dataclass(frozen=True, slots=True)
class NothingLeft:
    """Nothing of the request left this machine. This costs the upstream nothing and says nothing about it."""

    message: str


@dataclass(frozen=True, slots=True)
class Resend:
    """Send the same request again immediately on a new connection, because the reused one was being closed."""

    message: str


Verdict = (
    Delivered
    | EventsRejected
    | BatchTooLarge
    | RateLimited
    | Unauthorized
    | Misconfigured
    | Failing
    | NothingLeft
    | Resend
)


def verdict(response: UpstreamResponse | NoResponse, events: int) -> Verdict:
    """Return the verdict on the response to a request with `events` events."""
    if isinstance(response, NoResponse):
        return _without_response(response)
    response = replace(response, body=decoded(response.body, response.headers))
    status, content = response.status, content_of(response.body)
    if 200 <= status < 300:
        return _success(response, content, events)
    message = clean(f"{status} {_quote(response, content)}", response.mask)
    match status:
        case 401 | 403 | 407:
            return Unauthorized(message, status)
        case 511:
            return Misconfigured(message, status)
        case _ if 300 <= status < 400:
            target = redirect_target(response.headers.get("location", ""))
            message = clean(f"{status}{target} {_quote(response, content)}", response.mask)
            return Misconfigured(
                f"{message} (redirects are not followed, because the key would be sent to another URL)", status
            )
        case _ if status in _NOT_ABOUT_EVENTS or (status == 400 and response.body.lstrip().startswith(b"<")):
            return Misconfigured(message, status)
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
    """Return the verdict without a response. The status of a proxy counts like a status of the upstream."""
    if response.lost_kept_connection:
        return Resend(response.message)
    if response.is_unreachable:
        return NothingLeft(response.message)
    match response.proxy_status:
        case 401 | 403 | 407:
            return Unauthorized(response.message)
        case status if status is not None and (status in _NOT_ABOUT_EVENTS or status == 511 or 300 <= status < 400):
            return Misconfigured(response.message)
        case _:
            return Failing(response.message, while_sending=response.while_sending)


def redirect_target(location: str) -> str:
    """Return a description of a Location header by scheme and host only: path and query may contain secrets."""
    try:
        url = urlsplit(location)
        host = url.hostname or ""
    except ValueError:
        return ""
    if not host:
        return " redirects to another path of the same host" if location else ""
    return f" redirects to {url.scheme or 'the same scheme'}://{host}"


def _success(response: UpstreamResponse, content: Any, events: int) -> Verdict:
    """Return the verdict on a 2xx: delivered only if the API itself responded and accepted the events.

    Captive portals, firewalls, error pages and single-page applications also respond 200.
    """
    status = response.status
    if status in (201, 202, 204) and not response.body.strip():
        return Delivered(status)
    if not isinstance(content, dict) or not ("success" in content or _has_error(content)):
        return Misconfigured(_not_the_api(response), status)
    if content.get("success") is not True or _has_error(content):
        return Failing(
            clean(f"{status} but success is false: {_quote(response, content)}", response.mask), None, status
        )
    if status not in (200, 201, 202):
        return Misconfigured(_not_the_api(response), status)
    rejected = rejected_in_success(content, events, partial(clean, mask=response.mask))
    if rejected is None:
        return Delivered(status)
    if 0 < len(rejected) < events:
        return Delivered(status, rejected)
    return EventsRejected(
        status, clean(f"{status} with rejected events: {_quote(response, content)}", response.mask), rejected
    )


def is_from_api(response: UpstreamResponse) -> bool:
    """Return whether the API itself responded and not a proxy or portal. Only the API's Date is trusted."""
    content = content_of(decoded(response.body, response.headers))
    if 200 <= response.status < 300:
        return isinstance(_success(response, content, 0), Delivered | EventsRejected)
    return response.status in (401, 422, 429) and isinstance(content, dict) and bool(_OF_THE_API & content.keys())


def _has_error(content: Mapping[str, Any]) -> bool:
    return _is_error(content.get("error")) or _is_error(content.get("errors"))


def _is_error(value: Any) -> bool:
    """Return whether the value of a member reports an error. A number does, also 0."""
    return not (value is None or value is False or (isinstance(value, str | list | dict) and not value))


def _not_the_api(response: UpstreamResponse) -> str:
    """Return a message about a response that is not from the API, with the beginning of that response."""
    quoted = _quote(response, None) or "an empty body"
    return clean(
        f"{response.status} is not a response of the API but of a portal, a proxy or a web page: {quoted}",
        response.mask,
    )


def server_date_ms(headers: Mapping[str, str]) -> int | None:
    """Return the time of the upstream's clock from Date and Age, in Unix milliseconds; None without a Date."""
    date_ms = http_date_ms(headers.get("date"))
    age_s = _integer(headers.get("age")) if date_ms is not None else None
    # A cache adds the age of the response (RFC 9111, 5.1).
    return date_ms if date_ms is None or age_s is None or age_s < 0 else date_ms + 1000 * age_s


def _retry_after_ms(response: UpstreamResponse) -> int | None:
    """Return the delay that the server requests; None without a valid value."""
    return requested_ms(response.headers, response.wall_ms)


def _integer(text: str | None) -> int | None:
    """Return a decimal integer of at most 15 digits; None for other text."""
    stripped = (text or "").strip()
    return int(stripped) if re.fullmatch(r"-?[0-9]{1,15}", stripped) else None


def _positive(text: str | None) -> int | None:
    number = _integer(text)
    return number if number is not None and number > 0 else None


def _quote(response: UpstreamResponse, content: Any) -> str:
    """Return the message of the response body, or its text, without the status at its beginning."""
    quoted = ""
    if isinstance(content, dict):
        quoted = next((content[k] for k in ("error", "message", "detail") if isinstance(content.get(k), str)), "")
    if quoted:
        return without_status(quoted, response.status)
    text = response.body.decode("utf-8", "replace")
    if "<" in text:
        return html_text(text, response.status, response.mask)
    return without_status(response.mask(text)[: 4 * MESSAGE_MAX_CHARS], response.status)


def clean(text: str, mask: Callable[[str], str] = str) -> str:
    """Return one printable line of at most MESSAGE_MAX_CHARS characters, masked before it is cut."""
    line = " ".join((text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)).split())
    line = mask(line)
    return line if len(line) <= MESSAGE_MAX_CHARS else line[: MESSAGE_MAX_CHARS - 1] + "…"

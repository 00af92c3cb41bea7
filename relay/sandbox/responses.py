"""The sandbox's responses: those of the documentation, the framework, a proxy and a CDN.

A response is named by its status (503) or by a key of `VARIANTS` ("503_maintenance"). This module decides the body of
each status: the application's JSON, nginx's HTML for the responses of a proxy, and Cloudflare's HTML from 520 on.
The module is pure and does not depend on connections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple

import msgspec

from relay.sandbox import validate

HeaderFields = tuple[tuple[str, str], ...]


class ScriptedResponse(NamedTuple):
    status: int
    body: bytes
    headers: HeaderFields = (("Content-Type", "application/json"),)
    proxy: bool = False
    """Whether a proxy sends this response, before key, limits and validation are checked."""

    def adding(self, headers: Sequence[tuple[str, str]]) -> ScriptedResponse:
        """Return the response with further headers, which replace headers of the same name."""
        names = {name.lower() for name, _ in headers}
        remaining = tuple(header for header in self.headers if header[0].lower() not in names)
        return self._replace(headers=(*remaining, *headers))


class RequestEvents(NamedTuple):
    """The properties of a request that its response depends on."""

    events: int
    bad: Sequence[int]
    """Indexes of the rejected events, in order."""
    bad_ids: Sequence[str] = ("",)
    """The event_ids of these events."""


def reason_phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return {499: "Client Closed Request", 419: "unknown status"}.get(status, "")


def _json(status: int, value: object) -> ScriptedResponse:
    return ScriptedResponse(status, msgspec.json.encode(value))


def _html(status: int, title: str, *, proxy: bool = True) -> ScriptedResponse:
    head, heading = f"<head><title>{title}</title></head>", f"<center><h1>{title}</h1></center>"
    page = f"<html>\r\n{head}\r\n<body>\r\n{heading}\r\n</body>\r\n</html>\r\n"
    return ScriptedResponse(status, page.encode(), (("Content-Type", "text/html"),), proxy)


def _nginx(status: int) -> ScriptedResponse:
    return _html(status, f"{status} {reason_phrase(status)}").adding([("Server", "nginx")])


_CLOUDFLARE = {
    520: "Web server is returning an unknown error",
    521: "Web server is down",
    522: "Connection timed out",
    523: "Origin is unreachable",
    524: "A timeout occurred",
    525: "SSL handshake failed",
    526: "Invalid SSL certificate",
    527: "Railgun Error",
    530: "Origin DNS error (error code: 1016)",
}


def _cloudflare(status: int, title: str) -> ScriptedResponse:
    return _html(status, f"playtv-api | {status}: {title}").adding([("Server", "cloudflare"), ("CF-RAY", "8f-SBX")])


BAD_REQUEST = _nginx(400)
PARTIAL = "202_partial"
"""The response that rejects the events it names and accepts the others."""

ACCEPTED = _json(202, {"success": True})
UNAUTHORIZED = _json(401, {"success": False, "error": "Invalid or missing API key"})
TOO_MANY = _json(429, {"success": False, "error": "Too many requests"})
NOT_FOUND = _json(404, {"message": "The route could not be found."})
NOT_ALLOWED = _json(405, {"message": "The method is not supported for this route. Supported methods: POST."}).adding(
    [("Allow", "POST")]
)
NGINX_TOO_LARGE = _nginx(413)
LARAVEL_TOO_LARGE = _json(413, {"message": "The POST data is too large."})


def invalid(errors: Mapping[str, list[str]]) -> ScriptedResponse:
    return ScriptedResponse(422, validate.rejection(errors))


def _redirect(status: int, location: str) -> ScriptedResponse:
    return _html(status, f"Redirecting to {location}", proxy=False).adding([("Location", location)])


def for_browser(response: ScriptedResponse) -> ScriptedResponse:
    """Return the framework's response to the same request without `Accept: application/json`."""
    if response.proxy:
        return response
    if response.status == 422:
        return _redirect(302, "/")
    if response.status == 401:
        return _redirect(302, "/login")
    if response.status == 429:
        return _html(429, "Too Many Requests", proxy=False)
    return response


_BY_STATUS = {
    200: ACCEPTED._replace(status=200),
    201: ACCEPTED._replace(status=201),
    202: ACCEPTED,
    204: ScriptedResponse(204, b"", ()),
    304: ScriptedResponse(304, b"", (), proxy=True),
    401: UNAUTHORIZED,
    404: NOT_FOUND,
    405: NOT_ALLOWED,
    413: NGINX_TOO_LARGE,
    419: _json(419, {"message": "CSRF token mismatch."}),
    429: TOO_MANY,
    500: _json(500, {"message": "Server Error"}),
}
_NGINX = (407, 408, 414, 431, 494, 499, 502, 503, 504, 507)


def _of_status(status: int, request: RequestEvents) -> ScriptedResponse:
    if status == 422:
        return _invalid_named(request)
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 300 <= status < 400:
        return _redirect(status, "/login")
    if status in _NGINX:
        return _nginx(status)
    if status in _CLOUDFLARE:
        return _cloudflare(status, _CLOUDFLARE[status])
    return _json(status, {"message": reason_phrase(status)})


_CONTEXT = "The {} field must be an array."


def _invalid_named(request: RequestEvents) -> ScriptedResponse:
    paths = [f"events.{index}.context" for index in request.bad]
    return invalid({path: [_CONTEXT.format(path)] for path in paths})


def _invalid_index(index: int) -> ScriptedResponse:
    return _invalid_named(RequestEvents(0, (index,)))


def _invalid_translated(request: RequestEvents) -> ScriptedResponse:
    paths = [f"events.{index}.context" for index in request.bad]
    errors = {path: [f"{path} muss ein Array sein."] for path in paths}
    return _json(422, {"message": "Die angegebenen Daten waren ungültig.", "errors": errors})


def _invalid_thousand(request: RequestEvents) -> ScriptedResponse:
    paths = [f"events.{index}.context" for index in request.bad]
    paths += [f"events.{paths[0].split('.')[1]}.context.field_{number}" for number in range(1000 - len(paths))]
    return invalid({path: [_CONTEXT.format(path)] for path in paths})


def _invalid_list(request: RequestEvents) -> ScriptedResponse:
    errors = [{"index": index, "field": "context", "message": "must be an array"} for index in request.bad]
    return _json(422, {"success": False, "errors": errors})


def _partial(request: RequestEvents) -> ScriptedResponse:
    rejected = [
        {"index": index, "event_id": event_id, "errors": {"context": ["must be an array"]}}
        for index, event_id in zip(request.bad, request.bad_ids, strict=True)
    ]
    return _json(202, {"success": True, "accepted": request.events - len(request.bad), "rejected": rejected})


VARIANTS: dict[str, Callable[[RequestEvents], ScriptedResponse]] = {
    "202_empty": lambda _: ScriptedResponse(202, b"", ()),
    "202_html": lambda _: _html(202, "Accepted", proxy=False),
    PARTIAL: _partial,
    "202_success_false": lambda _: _json(202, {"success": False, "error": "Queue is unavailable"}),
    "401_html": lambda _: _html(401, "401 Authorization Required"),
    "403_html": lambda _: _html(403, "Attention Required! | Request blocked"),
    "413_laravel": lambda _: LARAVEL_TOO_LARGE,
    "422_unnamed": lambda _: _json(422, {"message": "The given data was invalid."}),
    "422_events": lambda _: invalid({"events": ["The events field is required."]}),
    "422_wildcard": lambda _: invalid({"events.*.context": [_CONTEXT.format("events.*.context")]}),
    "422_out_of_range": lambda request: _invalid_index(request.events + 10),
    "422_wrong_index": lambda request: _invalid_index((request.bad[-1] + 1) % max(1, request.events)),
    "422_translated": _invalid_translated,
    "422_thousand": _invalid_thousand,
    "422_list": _invalid_list,
    "429_html": lambda _: _html(429, "Too Many Requests", proxy=False),
    "429_cloudflare": lambda _: _cloudflare(429, "You are being rate limited (error code: 1015)"),
    "503_maintenance": lambda _: (
        _json(503, {"message": "Service Unavailable"})._replace(proxy=True).adding([("Retry-After", "60")])
    ),
}


def known(name: int | str) -> bool:
    return name in VARIANTS if isinstance(name, str) else 200 <= name <= 599


def is_proxys(name: int | str) -> bool:
    return make(name, RequestEvents(1, (0,))).proxy


def make(name: int | str, request: RequestEvents) -> ScriptedResponse:
    """Return the response for a status or variant. `request.bad` must not be empty."""
    return VARIANTS[name](request) if isinstance(name, str) else _of_status(name, request)

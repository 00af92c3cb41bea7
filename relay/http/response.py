"""HTTP responses of the relay: small bodies, serialized once and sent any number of times.

A `Response` has no state of a request, so one object can respond to many requests. The headers `Server` and `Date` are
omitted: `Server` would only help attackers, and a device's clock may be wrong by decades. RFC 9110, 6.6.1 forbids
`Date` without a clock, and a cache then uses the time of receipt (RFC 9111, 4.2.3).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from http import HTTPStatus

Headers = Sequence[tuple[str, str]]
Write = Callable[[bytes], bool]
"""Sends a part of a stream. Returns whether the client reads, so that a further part would not be buffered.

Raises ConnectionResetError if the connection was closed.
"""

RETRY_AFTER_S = 5
"""Retry-After of a 503, in seconds."""
RETRY_LATER: Headers = (("Retry-After", str(RETRY_AFTER_S)),)


class Response:
    """A complete response. `raw` has the bytes of its head and body, `head` those of its head."""

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: Headers = (),
        *,
        close: bool = False,
        content_type: str = "application/json",
    ) -> None:
        self.status = status
        self.body = body
        self.closes = close
        self._headers = tuple(headers)
        self._type = content_type
        # A 204 and a 304 have no body (RFC 9110, 8.6).
        has_body = status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        content: Headers = (("Content-Type", content_type), ("Content-Length", str(len(body)))) if has_body else ()
        self.head = _head(status, (*content, *self._headers), close)
        self.raw = self.head + body

    @cached_property
    def closing(self) -> Response:
        """The same response with `Connection: close`."""
        if self.closes:
            return self
        return Response(self.status, self.body, self._headers, close=True, content_type=self._type)

    def with_headers(self, headers: Headers) -> Response:
        extra = (*self._headers, *headers)
        return Response(self.status, self.body, extra, close=self.closes, content_type=self._type)


class Stream:
    """A response whose body has no known length. The connection closes after it.

    `send` is called exactly once, also if the client has closed the connection.
    """

    def __init__(self, headers: Headers, send: Callable[[Write], Awaitable[None]]) -> None:
        self.head = _head(HTTPStatus.OK, headers, close=True)
        self.send = send


def error_response(
    status: int,
    error: str,
    errors: Mapping[str, Sequence[str]] | None = None,
    headers: Headers = (),
    *,
    close: bool = False,
) -> Response:
    """Return a response with `{"success": false, "error": ...}`, and with `errors` by path if given."""
    content: dict[str, object] = {"success": False, "error": error}
    if errors is not None:
        content["errors"] = errors
    return Response(status, json.dumps(content).encode(), headers, close=close)


def _head(status: int, headers: Headers, close: bool) -> bytes:
    lines = [f"HTTP/1.1 {int(status)} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers)]
    if close:
        lines.append("Connection: close")
    return "\r\n".join((*lines, "", "")).encode("latin-1")

"""HTTP responses of the relay: small bodies, serialized once and sent any number of times.

A `Response` has no state of a request, so one object can respond to many requests. The headers `Server` and `Date` are
omitted: `Server` would only help attackers, and a device's clock may be wrong by decades. RFC 9110, 6.6.1 forbids
`Date` without a clock, and a cache then uses the time of receipt (RFC 9111, 4.2.3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from relay.http.body import CLIENT_CLOSED

Headers = Sequence[tuple[str, str]]

RETRY_AFTER_S = 5
"""Retry-After of a 503, in seconds."""
RETRY_LATER: Headers = (("Retry-After", str(RETRY_AFTER_S)),)


class Response(web.StreamResponse):
    """A complete response. `raw` has the bytes of its head and body."""

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: Headers = (),
        *,
        close: bool = False,
        content_type: str = "application/json",
    ) -> None:
        super().__init__(status=status)
        self._content = body
        self._extra = tuple(headers)
        self._close_connection = close
        self._type = content_type
        self._head = _head(status, content_type, len(body), self._extra, close)
        self.raw = self._head + body

    @property
    def keep_alive(self) -> bool:
        return not self._close_connection

    @cached_property
    def closing(self) -> Response:
        """The same response with `Connection: close`."""
        if self._close_connection:
            return self
        return Response(self.status, self._content, self._extra, close=True, content_type=self._type)

    def with_headers(self, headers: Headers) -> Response:
        extra = (*self._extra, *headers)
        return Response(self.status, self._content, extra, close=self._close_connection, content_type=self._type)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the response; wait while the client does not read. Raises ConnectionResetError if the client closed."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError(CLIENT_CLOSED)
        transport.write(self._head if request.method == "HEAD" else self.raw)
        if request.protocol.writing_paused:
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` sends the whole response."""


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


def _head(status: int, content_type: str, body_bytes: int, headers: Headers, close: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):  # These have no body (RFC 9110, 8.6).
        lines += [f"Content-Type: {content_type}", f"Content-Length: {body_bytes}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if close:
        lines.append("Connection: close")
    return "\r\n".join((*lines, "", "")).encode("latin-1")

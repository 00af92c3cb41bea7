"""Responses of the operations interface: JSON or bytes, never cached and never framed.

The policy in `SECURITY_HEADERS` limits the status page to its own files and to requests to its own relay. The same
policy applies to every other response that a browser opens as a document.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from relay.http.response import Response

JSON_TYPE = "application/json"
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class RequestRejected(Exception):
    """A request that gets an error response. The request changed nothing."""

    def __init__(self, status: int, error: str, headers: Mapping[str, str] = {}) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.headers = headers


def json_response(data: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    """Return a response with `data` as its JSON body."""
    return bytes_response(msgspec.json.encode(data), JSON_TYPE, status, headers)


def error_response(status: int, error: str, headers: Mapping[str, str] = {}) -> Response:
    """Return a JSON response with the error message `error`."""
    body = json.dumps({"success": False, "error": error}).encode()
    return bytes_response(body, JSON_TYPE, status, headers)


def bytes_response(body: bytes, content_type: str, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    """Return a response with the security headers."""
    return Response(status, body, tuple({**SECURITY_HEADERS, **headers}.items()), content_type=content_type)

"""Serve the static files: the client for web pages, and the description of the API.

Rules:
1.  A file is created at its first request and cached. Its ETag is a hash of its bytes; a request with that ETag gets
    304.
2.  Pages of allowed origins may load the files with CORS (`<script crossorigin>`). Other cross-site requests are
    rejected: by the listener's guard, and by `Cross-Origin-Resource-Policy` in browsers that do not send
    Sec-Fetch-Site.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any, NamedTuple

import msgspec
from aiohttp import hdrs

from relay.http.request import BodyHandler, Handler, Request
from relay.http.response import Headers, Response, error_response

CLIENT_PATH = "/relay.js"
DESCRIPTION_PATH = "/openapi.json"
JAVASCRIPT = "text/javascript; charset=utf-8"

_CLIENT_MAX_AGE_S = 300
"""Time for which a page may run an old client after an upgrade of the relay."""
_METHODS = "GET, HEAD"
_WRONG_METHOD = error_response(405, f"this path accepts {_METHODS}", headers=(("Allow", _METHODS),))


class StaticFile(NamedTuple):
    content_type: str
    cache_control: str
    body: bytes


class StaticFiles:
    """Serves its files, and passes all other requests to another handler."""

    def __init__(self, makers: Mapping[str, Callable[[], StaticFile]], others: Handler) -> None:
        self._makers = makers
        self._others = others
        self._made: dict[str, tuple[Response, Response, str]] = {}
        """By path: the 200 response, the 304 response, and the ETag."""

    def forget(self) -> None:
        """Clear the cache after a change of the configuration, which the files depend on."""
        self._made.clear()

    def handle(self, request: Request) -> BodyHandler | Response:
        path = request.raw_path
        if path not in self._makers:
            return self._others(request)
        if request.method not in ("GET", "HEAD"):
            return _WRONG_METHOD
        whole, unchanged, etag = self._find(path)
        return unchanged if _shows(etag, request.headers.get(hdrs.IF_NONE_MATCH, "")) else whole

    def _find(self, path: str) -> tuple[Response, Response, str]:
        if path not in self._made:
            file = self._makers[path]()
            etag = f'"{hashlib.sha256(file.body).hexdigest()[:32]}"'
            headers: Headers = (
                ("ETag", etag),
                ("Cache-Control", file.cache_control),
                ("X-Content-Type-Options", "nosniff"),
                ("Cross-Origin-Resource-Policy", "same-origin"),
                ("Vary", "Origin"),
            )
            whole = Response(200, file.body, headers, content_type=file.content_type)
            self._made[path] = (whole, Response(304, b"", headers), etag)
        return self._made[path]


def client() -> StaticFile:
    """Return `relay.js`."""
    body = resources.files("relay").joinpath("clients", "relay.js").read_bytes()
    return StaticFile(JAVASCRIPT, f"public, max-age={_CLIENT_MAX_AGE_S}", body)


def description(data: Mapping[str, Any]) -> StaticFile:
    return StaticFile("application/json", "no-cache", msgspec.json.format(msgspec.json.encode(data), indent=1))


def _shows(etag: str, if_none_match: str) -> bool:
    """Return whether If-None-Match contains the ETag, by weak comparison (RFC 9110, 13.1.2)."""
    shown = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return etag in shown or shown == ["*"]

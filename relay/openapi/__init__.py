"""The OpenAPI 3.1 description at `/openapi.json`: every request of apps and operators, and every response.

Rules:
1.  The facts come from the code that validates and responds: the rules and types of events, the tables of media types,
    codings and routes, and the configured limits. This package adds only the texts.
2.  A listener describes what it serves: the events API and possibly the operations interface, or the operations
    interface only.
3.  The description is created by the first request for it, so that it does not delay events.

This package does not depend on sockets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from relay import __version__
from relay.http.response import RETRY_AFTER_S
from relay.openapi import events, operations
from relay.openapi.events import DescribedLimits
from relay.openapi.shape import Schema, error_content, ref
from relay.ops.server import Route

__all__ = ["DescribedLimits", "describe"]

_ABOUT = (
    "The relay stores analytics events on disk before it responds, and forwards them upstream within its limits. "
    "Every other path is 404 (`Unknown`), every other method of a path 405 (`WrongMethod`). Each GET also accepts HEAD."
)
_ERROR: Schema = {
    "type": "object",
    "properties": {"success": {"const": False}, "error": {"type": "string", "minLength": 1}},
    "required": ["success", "error"],
}


def describe(limits: DescribedLimits | None, routes: Iterable[tuple[str, Route]] = ()) -> dict[str, Any]:
    """Return the OpenAPI object of a listener: events API and files if `limits` is given, operations by `routes`."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Schema] = {"Error": _ERROR}
    headers: dict[str, Any] = {
        "Retry-After": {
            "description": "Seconds until the next attempt. Every 503 of the events API has it.",
            "schema": {"type": "integer", "minimum": RETRY_AFTER_S},
        },
        "WWW-Authenticate": {"schema": {"type": "string", "const": "Bearer"}},
        "Allow": {"description": "The allowed methods.", "schema": {"type": "string"}},
        "Accept-Encoding": {
            "description": "The accepted codings. Only sent if the Content-Encoding caused the error.",
            "schema": {"type": "string"},
        },
    }
    operation_paths = operations.paths(routes)
    if operation_paths:
        paths |= operation_paths
        schemas |= operations.schemas()
    if limits is not None:
        paths |= events.paths(limits)
        schemas |= events.schemas(limits)
        headers |= events.headers(limits)
    else:
        paths |= events.own_path()
        headers |= events.file_headers()
    return {
        "openapi": "3.1.1",
        "info": {"title": "The relay", "version": __version__, "description": _ABOUT, "license": {"name": "MIT"}},
        "paths": {path: _with_head(item) for path, item in sorted(paths.items())},
        "components": {
            "schemas": schemas,
            "headers": headers,
            "responses": {
                "Unknown": {"description": "The path is unknown.", "content": error_content("404")},
                "WrongMethod": {
                    "description": "The path does not allow the method.",
                    "headers": {"Allow": ref("Allow", "headers")},
                    "content": error_content("405"),
                },
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "`ops.token_file`."}},
        },
    }


def _with_head(item: dict[str, Any]) -> dict[str, Any]:
    """Add HEAD to a path with GET: the same responses without a body."""
    if "get" not in item:
        return item
    get = item["get"]
    responses = {
        status: {name: value for name, value in response.items() if name != "content"}
        for status, response in get["responses"].items()
    }
    return {**item, "head": {**get, "summary": f"{get['summary']} (head only)", "responses": responses}}

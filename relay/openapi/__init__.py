"""The OpenAPI 3.1 description at `/openapi.json`: everything an app or an operator may ask, and every answer.

Rules:
1.  It is made from what validates and answers: rules and types of events, tables of media types, codings and routes,
    limits of the configuration. Words are written here; facts are not.
2.  A listener describes what it serves: the HTTP listener the events API, and the operations where they are on
    it; a listener of their own the operations alone.
3.  Made at the first request for it, never on the way of an event.

It must not know sockets, nor change what it describes.
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
    "The relay keeps analytics events on disk before it answers, and forwards them upstream within its limits. "
    "Any other path is 404 (`Unknown`), any other method on a path 405 (`WrongMethod`); HEAD is answered where GET is."
)
_ERROR: Schema = {
    "type": "object",
    "properties": {"success": {"const": False}, "error": {"type": "string", "minLength": 1}},
    "required": ["success", "error"],
}


def describe(limits: DescribedLimits | None, routes: Iterable[tuple[str, Route]] = ()) -> dict[str, Any]:
    """The OpenAPI object of a listener: events API and files if there are `limits`, operations by their `routes`."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Schema] = {"Error": _ERROR}
    headers: dict[str, Any] = {
        "Retry-After": {
            "description": "Seconds; every 503 of an app's request has it.",
            "schema": {"type": "integer", "minimum": RETRY_AFTER_S},
        },
        "WWW-Authenticate": {"schema": {"type": "string", "const": "Bearer"}},
        "Allow": {"description": "The methods there are.", "schema": {"type": "string"}},
        "Accept-Encoding": {
            "description": "The codings there are; only if the Content-Encoding was at fault.",
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
                "Unknown": {"description": "There is nothing at this path.", "content": error_content("404")},
                "WrongMethod": {
                    "description": "The path does not answer this method.",
                    "headers": {"Allow": ref("Allow", "headers")},
                    "content": error_content("405"),
                },
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "`ops.token_file`."}},
        },
    }


def _with_head(item: dict[str, Any]) -> dict[str, Any]:
    """HEAD answers as GET does, without the body."""
    if "get" not in item:
        return item
    get = item["get"]
    responses = {
        status: {name: value for name, value in response.items() if name != "content"}
        for status, response in get["responses"].items()
    }
    return {**item, "head": {**get, "summary": f"{get['summary']} (head only)", "responses": responses}}

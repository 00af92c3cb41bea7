"""Parts of the description of an operation: references, contents, headers, and the responses of the listener."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Schema = dict[str, Any]

_LISTENER: Mapping[str, str] = {
    "400": "The request is not HTTP/1.1.",
    "403": "Host or Origin not allowed (`http.allowed_hosts`, `http.allowed_origins`).",
    "408": "The request was not complete within `http.request_timeout`. The relay closes the connection.",
    "431": "The request head has more than 32 KiB. The relay closes the connection.",
    "503": "The relay is stopping, or has too many connections.",
}
"""Error responses of the listener to any request."""
_HEADERS_OF: Mapping[str, Sequence[str]] = {
    "401": ("WWW-Authenticate",),
    "405": ("Allow",),
    "415": ("Accept-Encoding",),
    "503": ("Retry-After",),
}


class Operation(NamedTuple):
    """The description of a method of a path."""

    summary: str
    statuses: Mapping[str, str]
    """Description of each status, without the error responses of the listener."""
    contents: Mapping[str, Any]
    """Contents of the successful response."""
    headers: Sequence[str] = ()
    """Header components of the successful response."""
    every_headers: Sequence[str] = ()
    """Header components of every response."""
    parameters: Sequence[Mapping[str, Any]] = ()
    tag: str = "events"


def ref(name: str, kind: str = "schemas") -> Schema:
    """Return a reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def content(media_type: str, schema: Schema) -> dict[str, Any]:
    """Return a content object with one media type."""
    return {media_type: {"schema": schema}}


def operation_object(operation: Operation) -> dict[str, Any]:
    """Return an Operation Object with every possible status, including those of the listener."""
    responses = {}
    for status, meaning in sorted({**_LISTENER, **operation.statuses}.items()):
        succeeds = status < "300"
        headers = [*operation.every_headers, *(operation.headers if succeeds else _HEADERS_OF.get(status, ()))]
        response: dict[str, Any] = {"description": meaning}
        contents = operation.contents if succeeds else {} if status == "304" else error_content(status)
        if contents:
            response["content"] = contents
        if headers:
            response["headers"] = {name: ref(name, "headers") for name in headers}
        responses[status] = response
    described: dict[str, Any] = {"summary": operation.summary, "tags": [operation.tag], "responses": responses}
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    return described


def error_content(status: str) -> dict[str, Any]:
    """Return the content of an error response."""
    return content("application/json", ref("InvalidEvents" if status == "422" else "Error"))

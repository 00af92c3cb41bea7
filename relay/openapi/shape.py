"""The parts every operation is described with: references, contents, headers, and the answers all paths share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Schema = dict[str, Any]

_LISTENER: Mapping[str, str] = {
    "400": "Not a request of HTTP/1.1.",
    "403": "Host or Origin not allowed (`http.allowed_hosts`, `http.allowed_origins`).",
    "408": "The request did not arrive within `http.request_timeout`; the connection is closed.",
    "431": "The request head has more than 32 KiB; the connection is closed.",
    "503": "The relay is stopping, or has too many connections.",
}
"""What the listener may answer to any request."""
_HEADERS_OF: Mapping[str, Sequence[str]] = {
    "401": ("WWW-Authenticate",),
    "405": ("Allow",),
    "415": ("Accept-Encoding",),
    "503": ("Retry-After",),
}


class Operation(NamedTuple):
    summary: str
    statuses: Mapping[str, str]
    """What each status means, beyond what the listener answers."""
    contents: Mapping[str, Any]
    """Of the success."""
    headers: Sequence[str] = ()
    """Names of components, of the success."""
    every_headers: Sequence[str] = ()
    """Names of components, of every answer."""
    parameters: Sequence[Mapping[str, Any]] = ()
    tag: str = "events"


def ref(name: str, kind: str = "schemas") -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def content(media_type: str, schema: Schema) -> dict[str, Any]:
    return {media_type: {"schema": schema}}


def operation_object(operation: Operation) -> dict[str, Any]:
    """An Operation Object with every status it can answer, the listener's included."""
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
    return content("application/json", ref("InvalidEvents" if status == "422" else "Error"))

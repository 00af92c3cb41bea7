"""Description of the events API and of the files for apps (contract, section 4)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from relay.event.rules import MAX_ERROR_BYTES, REQUIRED
from relay.event.shown import MAX_QUOTED_CHARACTERS
from relay.http.response import RETRY_AFTER_S
from relay.http.static_files import CLIENT_PATH, DESCRIPTION_PATH, JAVASCRIPT
from relay.ingest.content_type import CODING_NAMES, KINDS
from relay.ingest.events_api import CORS_HEADERS, CORS_MAX_AGE_S, EVENTS_PATH
from relay.openapi.schemas import Schema, body_schemas
from relay.openapi.shape import Operation, content, operation_object, ref
from relay.outbox import EventState

_EVERY_HEADERS = (
    "Access-Control-Allow-Origin",
    "Access-Control-Allow-Credentials",
    "Access-Control-Expose-Headers",
    "Vary",
)
_EXAMPLE = {
    "event_id": "550e8400-e29b-41d4-a716-446655440000",
    "event_type": "post.view",
    "tenant_id": 1,
    "source": {"platform": "tv", "device_id": "A1B2C3D4-E5F6-7890-ABCD-EF1234567890"},
}


class DescribedLimits(NamedTuple):
    """The configured values in the description."""

    max_body_bytes: int
    max_event_bytes: int
    durability: Literal["full", "normal"]
    required: frozenset[str] = REQUIRED
    """Dotted names of the required fields, without the fields that `defaults` supplies."""


def paths(limits: DescribedLimits) -> dict[str, Any]:
    """Return the path items of the events API and the files."""
    return {
        EVENTS_PATH: {"post": _post(limits), "options": _preflight("Preflight request of a browser before POST.")},
        EVENTS_PATH + "/{event_id}": {
            "parameters": [{"name": "event_id", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": _find(),
            "options": _preflight("Preflight request of a browser before GET."),
        },
        CLIENT_PATH: {"get": _file("The client for web pages.", content(JAVASCRIPT, {"type": "string"}))},
        **own_path(),
    }


def own_path() -> dict[str, Any]:
    """Return the path item of the description itself."""
    return {DESCRIPTION_PATH: {"get": _file("This description.", content("application/json", {"type": "object"}))}}


def schemas(limits: DescribedLimits) -> dict[str, Schema]:
    """Return the components of the events API by name."""
    uuid: Schema = {"type": "string", "format": "uuid"}
    return {
        **body_schemas(limits.required),
        "Stored": {"type": "object", "properties": {"success": {"const": True}}, "required": ["success"]},
        "EventState": {
            "type": "object",
            "properties": {"event_id": uuid, "state": {"type": "string", "enum": list(get_args(EventState))}},
            "required": ["event_id", "state"],
        },
        "InvalidEvents": {
            "type": "object",
            "properties": {
                "success": {"const": False},
                "error": {"type": "string"},
                "errors": {
                    "type": "object",
                    "description": "Every error of every event, by path: the allowed and the received value, "
                    f"of which at most {MAX_QUOTED_CHARACTERS} characters are quoted. Beyond "
                    f"{MAX_ERROR_BYTES >> 10} KiB, `error` contains the number of omitted errors.",
                    "minProperties": 1,
                    "propertyNames": {"pattern": r"^events(\.|$)"},
                    "additionalProperties": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                    "examples": [
                        {
                            "events.0.source.platform": [
                                "The events.0.source.platform field must be one of ios, android, web, tv, "
                                'but is "roku".'
                            ]
                        }
                    ],
                },
            },
            "required": ["success", "error", "errors"],
        },
    }


def headers(limits: DescribedLimits) -> dict[str, Any]:
    """Return the components of the response headers that matter to apps."""
    return {
        **file_headers(),
        "Relay-Durability": {
            "description": "full: fsynced to the disk. normal: survives a process crash, but not every power failure.",
            "required": True,
            "schema": {"type": "string", "const": limits.durability},
        },
        "Access-Control-Allow-Methods": {"schema": {"type": "string"}},
        "Access-Control-Allow-Headers": {
            "description": f"The requested headers; {CORS_HEADERS} if none is requested.",
            "schema": {"type": "string"},
        },
        "Access-Control-Max-Age": {"schema": {"type": "integer", "const": CORS_MAX_AGE_S}},
        "Access-Control-Allow-Private-Network": {
            "description": "Sent if the preflight requested it.",
            "schema": {"const": "true"},
        },
        "Access-Control-Allow-Local-Network": {
            "description": "Sent if the preflight requested it.",
            "schema": {"const": "true"},
        },
    }


def file_headers() -> dict[str, Any]:
    """Return the components of the headers of files."""
    text: Schema = {"type": "string"}
    return {
        "Access-Control-Allow-Origin": {"description": "The allowed origin of the requesting page.", "schema": text},
        "Access-Control-Allow-Credentials": {"description": "Sent to an allowed page.", "schema": {"const": "true"}},
        "Access-Control-Expose-Headers": {
            "description": "Further headers that an allowed page may read.",
            "schema": text,
        },
        "Vary": {"description": "The response depends on the Origin.", "schema": text},
        "ETag": {"schema": text},
        "Cache-Control": {"schema": text},
    }


def _post(limits: DescribedLimits) -> dict[str, Any]:
    too_large = f"The body has more than {limits.max_body_bytes} bytes inflated, or an event more than"
    operation = Operation(
        "Store one or more events. Either all are stored, or none.",
        {
            "202": "Stored with the durability in Relay-Durability. Duplicates of stored events count as stored.",
            "400": "The body is not JSON, its encoding is invalid, or it contains no event.",
            "413": f"{too_large} {limits.max_event_bytes}.",
            "415": "Unsupported Content-Type, charset or Content-Encoding. The error names the received value.",
            "422": "At least one event is invalid. No event of the request was stored.",
            "503": f"Outbox or disk full, disk failing, or shutting down. Retry after {RETRY_AFTER_S} s.",
        },
        content("application/json", ref("Stored")),
        headers=("Relay-Durability",),
        every_headers=_EVERY_HEADERS,
        parameters=[
            {
                "name": "Content-Encoding",
                "in": "header",
                "description": "Compression of the body.",
                "schema": {"type": "string", "enum": ["identity", *CODING_NAMES]},
            }
        ],
    )
    described = operation_object(operation)
    described["description"] = (
        "A body without a Content-Type is read as application/json, and so is every type that contains `/json` or "
        "`+json`, except JSON text sequences (json-seq). The charset is UTF-8; another one is accepted if the body "
        "is ASCII."
    )
    described["requestBody"] = {
        "required": True,
        "content": {media_type: _body_content(media_type) for media_type in KINDS if media_type},
    }
    return described


def _body_content(media_type: str) -> dict[str, Any]:
    """Return the description of a body: its JSON schema, or a string with JSON for other media types."""
    if media_type == "application/json":
        return {"schema": ref("Body"), "example": _EXAMPLE}
    if KINDS[media_type] == "json":
        held = {"contentMediaType": "application/json", "contentSchema": ref("Body")}
        return {"schema": {"type": "string", "description": "The same JSON, as `sendBeacon` sends it.", **held}}
    return {"schema": {"type": "string", "description": "One event per line. Empty lines are ignored."}}


def _find() -> dict[str, Any]:
    operation = Operation(
        "Return the state of a recent event.",
        {"200": "The state of the event.", "404": "The event is unknown, or older than `outbox.dedupe_window`."},
        content("application/json", ref("EventState")),
        headers=("Cache-Control",),
        every_headers=_EVERY_HEADERS,
    )
    return operation_object(operation)


def _preflight(summary: str) -> dict[str, Any]:
    cors = [f"Access-Control-Allow-{name}" for name in ("Methods", "Headers", "Private-Network", "Local-Network")]
    operation = Operation(
        summary,
        {"204": "The request is allowed."},
        {},
        headers=(*cors, "Access-Control-Max-Age"),
        every_headers=_EVERY_HEADERS,
    )
    return operation_object(operation)


def _file(summary: str, contents: dict[str, Any]) -> dict[str, Any]:
    operation = Operation(
        summary,
        {"200": "The file.", "304": "The file has the ETag of the request."},
        contents,
        headers=("ETag", "Cache-Control"),
        every_headers=_EVERY_HEADERS,
        parameters=[{"name": "If-None-Match", "in": "header", "schema": {"type": "string"}}],
    )
    return operation_object(operation)

"""Description of the paths of the operations interface (contract, section 6).

The schema of a request body is derived from the type that decodes the body. A route of `ops.server` without an entry in
`DOCS` is described as a file. The tests allow this for the files of the status page only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from relay.openapi.shape import Operation, Schema, content, operation_object, ref
from relay.ops.dead_letters import MAX_ID, MAX_SEARCH_CHARS, MAX_SHOWN, DeadLetterChoice
from relay.ops.server import Route
from relay.outbox import Ledger
from relay.runtime.metrics import DEAD_REASONS, UPSTREAM_STATES

_COUNT: Schema = {"type": "integer", "minimum": 0}
_TIME: Schema = {"type": ["string", "null"], "format": "date-time"}
_ID: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_ID}
_REASON: Schema = {"type": "string", "enum": list(DEAD_REASONS)}
_GUARDED: Mapping[str, str] = {
    "401": "The token of `ops.token_file` is missing or wrong.",
    "403": "Host or Origin not allowed, or the peer is on another machine and `ops.token_file` is not set.",
}
_UNAVAILABLE = "The outbox is unavailable, or the relay is stopping or has too many connections."


class _Doc(NamedTuple):
    """The texts and schemas of a path."""

    summary: str
    contents: Mapping[str, Any]
    """Contents of the response with status 200."""
    statuses: Mapping[str, str] = {}
    parameters: Sequence[Mapping[str, Any]] = ()
    body: str = ""
    """Name of the component of the JSON request body; empty if the body is ignored."""


def _query(name: str, schema: Schema, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


_SELECTION_STATUSES: Mapping[str, str] = {
    "400": "The body does not select of dead letters, or the request is not HTTP/1.1.",
    "413": "The body is too large.",
    "415": "Content-Type is not `application/json`, or the request has a Content-Encoding.",
    "503": _UNAVAILABLE,
}
DOCS: Mapping[str, _Doc] = {
    "/livez": _Doc("Return whether the process runs.", content("application/json", ref("Alive"))),
    "/readyz": _Doc(
        "Return whether events can be stored. The upstream does not affect it.",
        content("application/json", ref("Ready")),
        {"503": "Events cannot be stored, with the reason; or the relay is stopping."},
    ),
    "/metrics": _Doc(
        "Return the metrics as Prometheus text or OpenMetrics, depending on Accept.",
        {
            media_type: {"schema": {"type": "string"}}
            for media_type in ("text/plain; version=0.0.4; charset=utf-8", "application/openmetrics-text")
        },
    ),
    "/status.json": _Doc(
        "Return received, sent and pending events, states and reasons.", content("application/json", ref("Status"))
    ),
    "/status/stream": _Doc(
        "Stream server-sent events: `history` once, then `sample` and `status` (the data of /status.json).",
        content("text/event-stream; charset=utf-8", {"type": "string"}),
        {"503": "Too many streams are open, or the relay is stopping or has too many connections."},
    ),
    "/log": _Doc("Return the last lines of the log.", content("text/plain; charset=utf-8", {"type": "string"})),
    "/flush": _Doc(
        "Send pending events now, within the limits, and probe paused endpoints at once.",
        content("application/json", ref("Flushed")),
        {"415": "Content-Type is not `application/json`."},
    ),
    "/dead-letters": _Doc(
        "List dead letters with their bodies in order of their ids.",
        content("application/json", ref("DeadLetters")),
        {"400": "Unknown parameter or reason, or a number out of range.", "503": _UNAVAILABLE},
        [
            _query("device", {"type": "string"}, "Only dead letters of this device."),
            _query("reason", _REASON, "Only dead letters with this reason."),
            _query(
                "search", {"type": "string", "maxLength": MAX_SEARCH_CHARS}, "Only dead letters that contain this text."
            ),
            _query("bodies", {"type": "string", "enum": ["true", "false"]}, "Whether the response contains bodies."),
            _query(
                "limit",
                {"type": "integer", "minimum": 1, "maximum": MAX_SHOWN, "default": MAX_SHOWN},
                "Maximum number of dead letters.",
            ),
            _query(
                "after",
                {"type": "integer", "minimum": 0, "maximum": MAX_ID, "default": 0},
                "Only dead letters with a greater id.",
            ),
        ],
    ),
    "/dead-letters/{id}": _Doc(
        "Return one dead letter.",
        content("application/json", ref("OneDeadLetter")),
        {"404": "No dead letter has this id.", "503": _UNAVAILABLE},
        [{"name": "id", "in": "path", "required": True, "schema": _ID}],
    ),
    "/dead-letters/requeue": _Doc(
        "Send dead letters again, as new events.",
        content("application/json", ref("Requeued")),
        _SELECTION_STATUSES,
        body="DeadLetterChoice",
    ),
    "/dead-letters/discard": _Doc(
        "Delete dead letters permanently.",
        content("application/json", ref("Discarded")),
        _SELECTION_STATUSES,
        body="DeadLetterChoice",
    ),
    "/quarantine/adopt": _Doc(
        "Send up to 4,096 quarantined events of another machine. Repeat until `remaining` is 0.",
        content("application/json", ref("Adopted")),
        {"415": "Content-Type is not `application/json`.", "503": _UNAVAILABLE},
    ),
    "/quarantine/discard": _Doc(
        "Drop up to 4,096 quarantined events of another machine. Repeat until `remaining` is 0.",
        content("application/json", ref("Discarded")),
        {"415": "Content-Type is not `application/json`.", "503": _UNAVAILABLE},
    ),
}


def paths(routes: Iterable[tuple[str, Route]]) -> dict[str, Any]:
    """Return a path item for each route of the operations interface."""
    return {path: _path_item(path, route) for path, route in routes}


def schemas() -> dict[str, Schema]:
    """Return the components of the operations interface by name."""
    _, components = msgspec.json.schema_components([DeadLetterChoice], ref_template="#/components/schemas/{name}")
    choice = components["DeadLetterChoice"]
    choice["oneOf"] = [
        {"properties": {"all": {"const": True}}, "required": ["all"], "not": _any_of("ids", "device", "reason")},
        {"properties": {"all": {"const": False}}, **_any_of("ids", "device", "reason")},
    ]
    choice["properties"]["reason"] = {"enum": [*DEAD_REASONS, None]}
    letter = _object(
        {
            "id": _ID,
            "event_id": {"type": "string"},
            "tenant": {"type": "integer"},
            "platform": {"type": "string"},
            "device_id": {"type": "string"},
            "reason": _REASON,
            "status": {"type": ["integer", "null"]},
            "words": {"type": "string"},
            "dead_at": {"type": "string"},
        }
    )
    letter["properties"] |= {
        "body": {"type": "string", "description": "The event as the relay would send it."},
        "body_base64": {
            "type": "string",
            "contentEncoding": "base64",
            "description": "Replaces `body` if its bytes are not UTF-8.",
        },
    }
    return {
        "DeadLetterChoice": choice,
        "Alive": _object({"alive": {"const": True}}),
        "Ready": _object({"ready": {"type": "boolean"}, "problem": {"type": "string"}}),
        "Status": _status(),
        "Flushed": _success({"pending": _COUNT}),
        "DeadLetter": letter,
        "DeadLetters": _success(
            {
                "dead_letters": {"type": "array", "items": ref("DeadLetter"), "maxItems": MAX_SHOWN},
                "next_after": {
                    "type": ["integer", "null"],
                    "description": "The value of `after` for the next page; null at the end.",
                },
            }
        ),
        "OneDeadLetter": _success({"dead_letter": ref("DeadLetter")}),
        "Requeued": _success({"requeued": _COUNT, "remaining": _COUNT}),
        "Adopted": _success({"adopted": _COUNT, "remaining": _COUNT}),
        "Discarded": _success({"discarded": _COUNT, "remaining": _COUNT}),
    }


def _path_item(path: str, route: Route) -> dict[str, Any]:
    doc = DOCS.get(path) or _Doc("A file of the status page.", {"*/*": {"schema": {"type": "string"}}})
    statuses = {"200": "Done.", **(_GUARDED if route.guarded else {}), **doc.statuses}
    operation = operation_object(
        Operation(doc.summary, statuses, doc.contents, parameters=doc.parameters, tag="operations")
    )
    if path == "/readyz":
        operation["responses"]["503"]["content"] = content("application/json", {"anyOf": [ref("Ready"), ref("Error")]})
    if route.guarded:
        # The token is required if one is configured. Otherwise, the peer must be on this machine.
        operation["security"] = [{"token": []}, {}]
    if doc.body:
        operation["requestBody"] = {"required": True, "content": content("application/json", ref(doc.body))}
    elif route.method == "POST":
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": {}}}}
    return {route.method.lower(): operation}


def _status() -> Schema:
    number: Schema = {"type": "number"}
    upstream = {
        "tenant": {"type": ["integer", "null"]},
        "state": {"type": "string", "enum": list(UPSTREAM_STATES)},
        "since": _TIME,
        "next_attempt_at": _TIME,
        "last_error": {"type": ["string", "null"]},
    }
    outbox = {
        "bytes": _COUNT,
        "max_bytes": _COUNT,
        "oldest_age_seconds": number,
        "writable": {"type": "boolean"},
        "problem": {"type": "string"},
        "quarantined_events": _COUNT,
    }
    device = {
        "tenant": {"type": "integer"},
        "platform": {"type": "string"},
        "device_id": {"type": "string"},
        "pending": _COUNT,
        "held_until": _TIME,
        "why": {"type": ["string", "null"]},
    }
    return _object(
        {
            "version": {"type": "string"},
            "started_at": _TIME,
            "uptime_seconds": _COUNT,
            "ledger": _object(dict.fromkeys((*Ledger._fields, "pending"), _COUNT)),
            "outbox": _object(outbox),
            "upstreams": {"type": "array", "items": _object(upstream)},
            "devices_waiting": _COUNT,
            "devices_held": _COUNT,
            "upstreams_left_out": _COUNT,
            "devices": {"type": "array", "items": _object(device)},
            "dead_letters": _object({"count": _COUNT}),
            "clock_skew_seconds": {"type": ["number", "null"]},
        }
    )


def _object(properties: Mapping[str, Any]) -> Schema:
    """Return an object with these required properties. Later versions may add properties."""
    return {"type": "object", "properties": dict(properties), "required": sorted(properties)}


def _success(properties: Mapping[str, Any]) -> Schema:
    return _object({"success": {"const": True}, **properties})


def _any_of(*names: str) -> Schema:
    """Require at least one of these properties with a value other than null."""
    return {"anyOf": [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names]}

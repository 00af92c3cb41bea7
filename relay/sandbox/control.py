"""The control API of a running sandbox, on the sandbox's own port.

It has no authentication, because the sandbox is a development tool on loopback. Requests under PREFIX are not recorded
and get no faults, except at stage accept.

GET    report      the Report                     GET    settings   all settings
GET    delivered   event ids, one per line        PATCH  settings   {"latency_ms": 50}
GET    requests    [[at_ms, peer, device, events, status, committed], ...]
GET    events      [{"status": 202, "event": {...}}, ...]: the events of the latest requests, oldest first
GET    faults      active faults                  POST   faults     one Misbehaviour or a list
DELETE faults      remove all faults
"""

from __future__ import annotations

import uuid

import msgspec

from relay.sandbox.application import Application
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.responses import ScriptedResponse
from relay.sandbox.validate import raw_events

PREFIX = "/_sandbox/"
_AVAILABLE = (
    "GET report, GET delivered, GET requests, GET events, GET settings, PATCH settings, GET faults, POST faults, "
    "DELETE faults"
)


def control(application: Application, method: str, path: str, body: bytes) -> ScriptedResponse:
    """Execute a control request and return its response."""
    try:
        return _execute(application, method, path.removeprefix(PREFIX), body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return _response(422, {"error": str(error)})


def _execute(application: Application, method: str, name: str, body: bytes) -> ScriptedResponse:
    """Raise MsgspecError, ValueError or RecursionError for a body that is not allowed."""
    match method, name:
        case "GET", "report":
            return _response(200, application.report())
        case "GET", "delivered":
            lines = "".join(f"{uuid.UUID(bytes=event_id)}\n" for event_id in application.record.delivered())
            return ScriptedResponse(200, lines.encode(), (("Content-Type", "text/plain"),))
        case "GET", "requests":
            return _response(200, list(application.record.requests()))
        case "GET", "events":
            recent = application.record.recent()
            return _response(
                200,
                [{"status": request.status, "event": event} for request, body in recent for event in raw_events(body)],
            )
        case "PATCH", "settings":
            application.change(msgspec.json.decode(body, type=dict[str, object]))
        case "POST", "faults":
            faults = msgspec.json.decode(body, type=Misbehaviour | list[Misbehaviour])
            application.faults.add(*(faults if isinstance(faults, list) else [faults]))
        case "DELETE", "faults":
            application.faults.heal()
        case "GET", "settings" | "faults":
            pass
        case _:
            return _response(404, {"error": f"unknown request; available: {_AVAILABLE}"})
    return _response(200, application.settings if name == "settings" else application.faults.live())


def _response(status: int, value: object) -> ScriptedResponse:
    return ScriptedResponse(status, msgspec.json.encode(value))

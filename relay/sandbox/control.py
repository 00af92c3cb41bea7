"""The control API of a running sandbox, on the sandbox's own port.

It has no authentication, because the sandbox is a development tool on loopback. Requests under PREFIX are not recorded
and get no faults, except at stage accept.

GET    report      the Report                     GET    settings   all settings
GET    delivered   event ids, one per line        PATCH  settings   {"latency_ms": 50}
GET    requests    [[at_ms, peer, device, events, status, committed], ...]
GET    faults      active faults                  POST   faults     one Misbehaviour or a list
DELETE faults      remove all faults
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

import msgspec

from relay.sandbox.application import Application
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.responses import ScriptedResponse

PREFIX = "/_sandbox/"


def control(application: Application, method: str, path: str, body: bytes) -> ScriptedResponse:
    """Execute a control request and return its response."""
    handler = _VERBS.get((method, path.removeprefix(PREFIX)))
    if handler is None:
        return _response(
            404, {"error": f"unknown request; available: {', '.join(f'{verb} {name}' for verb, name in _VERBS)}"}
        )
    try:
        return handler(application, body)
    except (ValueError, RecursionError) as error:  # msgspec raises subclasses of ValueError.
        return _response(422, {"error": str(error)})


def _response(status: int, value: object) -> ScriptedResponse:
    return ScriptedResponse(status, msgspec.json.encode(value))


def _report(application: Application, body: bytes) -> ScriptedResponse:
    return _response(200, application.report())


def _delivered(application: Application, body: bytes) -> ScriptedResponse:
    lines = "".join(f"{uuid.UUID(bytes=event_id)}\n" for event_id in application.record.delivered())
    return ScriptedResponse(200, lines.encode(), (("Content-Type", "text/plain"),))


def _requests(application: Application, body: bytes) -> ScriptedResponse:
    return _response(200, list(application.record.requests()))


def _settings(application: Application, body: bytes) -> ScriptedResponse:
    return _response(200, application.settings)


def _change(application: Application, body: bytes) -> ScriptedResponse:
    application.change(msgspec.json.decode(body, type=dict[str, object]))
    return _settings(application, body)


def _faults(application: Application, body: bytes) -> ScriptedResponse:
    return _response(200, application.faults.live())


def _add(application: Application, body: bytes) -> ScriptedResponse:
    faults = msgspec.json.decode(body, type=Misbehaviour | list[Misbehaviour])
    application.faults.add(*(faults if isinstance(faults, list) else [faults]))
    return _faults(application, body)


def _heal(application: Application, body: bytes) -> ScriptedResponse:
    application.faults.heal()
    return _faults(application, body)


_VERBS: dict[tuple[str, str], Callable[[Application, bytes], ScriptedResponse]] = {
    ("GET", "report"): _report,
    ("GET", "delivered"): _delivered,
    ("GET", "requests"): _requests,
    ("GET", "settings"): _settings,
    ("PATCH", "settings"): _change,
    ("GET", "faults"): _faults,
    ("POST", "faults"): _add,
    ("DELETE", "faults"): _heal,
}

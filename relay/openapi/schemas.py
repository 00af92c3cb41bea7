"""JSON Schemas of what apps send, derived from the rules that check it.

Every field, its type and whether it is required come from `event.rules`: a rule without a schema here is an
error of the first request for the document, and of the tests long before. What JSON Schema cannot say (no field
twice, no half surrogate pairs, how a number is written) is said in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from relay.event import rules
from relay.event.rules import MAX_DEVICE_ID_CHARACTERS, MAX_TENANT_ID, MIN_TENANT_ID, PLATFORMS, RULES, Rule
from relay.event.strict_json import MAX_DEPTH
from relay.event.values import BLANK_CLASS, MOMENT

Schema = dict[str, Any]

_HEX = "[0-9A-Fa-f]"
_AROUND = f"{BLANK_CLASS}*"
_INK = f"[^{BLANK_CLASS[1:]}"
UUID4: Schema = {
    "type": "string",
    "pattern": f"^{_AROUND}{_HEX}{{8}}-{_HEX}{{4}}-4{_HEX}{{3}}-[89ABab]{_HEX}{{3}}-{_HEX}{{12}}{_AROUND}$",
    "examples": ["550e8400-e29b-41d4-a716-446655440000"],
}
_EMPTY_ARRAY: Schema = {"type": ["object", "array"], "maxItems": 0}
"""An object. An empty one may be written as an empty array."""
_SCHEMAS: Mapping[Rule, Schema] = {
    rules.uuid4: UUID4,
    rules.moment: {
        "type": "string",
        "pattern": f"^{_AROUND}(?:{MOMENT}){_AROUND}$",
        "examples": ["2026-11-27T12:00:00.000Z"],
    },
    rules.tenant: {"type": "integer", "minimum": MIN_TENANT_ID, "maximum": MAX_TENANT_ID},
    rules.an_object: _EMPTY_ARRAY,
    rules.filled: {"type": "string", "pattern": _INK},
    rules.device: {
        "type": "string",
        "pattern": f"^{_AROUND}{_INK}(?:[\\s\\S]{{0,{MAX_DEVICE_ID_CHARACTERS - 2}}}{_INK})?{_AROUND}$",
    },
    rules.platform: {
        "type": "string",
        "anyOf": [{"enum": list(PLATFORMS)}, {"pattern": f"^{_AROUND}(?:{'|'.join(PLATFORMS)}){_AROUND}$"}],
    },
}
_MEANINGS: Mapping[str, str] = {
    "event_id": "UUID version 4, made by the app; sent again it is not stored twice. Added if missing.",
    "event_type": "What happened, such as `video.play`.",
    "tenant_id": "1 = Parlor, 2 = PlayTV. It may be written as 2.0 up to 15 digits.",
    "source.device_id": "Persistent id of the device; the upstream limits the requests per device id, tenant and "
    f"platform. At most {MAX_DEVICE_ID_CHARACTERS} characters, without the blanks around them.",
    "context": "Any further data of the event.",
    "occurred_at": "Time of the event: RFC 3339, or ISO 8601 with a zone. The relay adds the time of receipt if it is "
    "missing.",
}


def event_schema(required: Set[str]) -> Schema:
    """One event; `required` is dotted, as in `event_rules.REQUIRED`."""
    schema = _object_schema("", required)
    for name in ("source", "subject"):
        schema["properties"][name] = _object_schema(f"{name}.", required)
    if "required" in schema["properties"]["source"]:
        # a source that is missing is judged as an empty one; a subject may be missing
        schema["required"] = sorted({*schema.get("required", ()), "source"})
    schema["description"] = (
        "The relay forwards an event byte for byte, unknown fields included, and only adds missing fields. `null` is "
        "not missing. The upstream ignores white space and invisible characters around strings, and so does the relay "
        "when it checks them. The relay also rejects a field that occurs twice, integers beyond 64 bits, numbers "
        f"beyond a double, U+0000 and lone surrogates in strings, and nesting deeper than {MAX_DEPTH}."
    )
    return schema


def body_schemas(required: Set[str]) -> dict[str, Schema]:
    """Components of a request's body, by name."""
    events = {"type": "array", "items": {"$ref": "#/components/schemas/Event"}, "minItems": 1}
    return {
        "Event": event_schema(required),
        "Events": events,
        "Batch": {
            "type": "object",
            "properties": {"events": {"$ref": "#/components/schemas/Events"}},
            "required": ["events"],
            "not": {"required": ["event_type"]},
            "description": "An object with an `event_type` is one event, whatever else it has.",
        },
        "Body": {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Event", "Batch", "Events")]},
    }


def _object_schema(prefix: str, required: Set[str]) -> Schema:
    properties: dict[str, Schema] = {}
    for name, rule in RULES[prefix].items():
        properties[name] = dict(_SCHEMAS[rule])
        if prefix + name in _MEANINGS:
            properties[name]["description"] = _MEANINGS[prefix + name]
    needed = sorted(name for name in properties if prefix + name in required)
    if needed:
        # JSON Schema asks no array for properties, so an empty one would be valid.
        return {"type": "object", "properties": properties, "required": needed}
    return {**(_EMPTY_ARRAY if prefix else {"type": "object"}), "properties": properties}

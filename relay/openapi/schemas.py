"""JSON Schemas of what apps send, derived from the rules that check it.

Every field, its type and whether it is required come from `event_rules`: a rule without a schema here is an
error of the first request for the document, and of the tests long before. What JSON Schema cannot say (no field
twice, no half surrogate pairs, how a number is written) is said in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from relay import event_rules
from relay.event_rules import MAX_DEVICE_ID_CHARACTERS, MAX_TENANT_ID, MIN_TENANT_ID, PLATFORMS, RULES, Rule
from relay.strict_json import MAX_DEPTH

Schema = dict[str, Any]

_HEX = "[0-9A-Fa-f]"
UUID4: Schema = {
    "type": "string",
    "format": "uuid",
    "pattern": f"^{_HEX}{{8}}-{_HEX}{{4}}-4{_HEX}{{3}}-[89ABab]{_HEX}{{3}}-{_HEX}{{12}}$",
}
_FILLED: Schema = {"type": "string", "minLength": 1, "pattern": r"\S"}
_SCHEMAS: Mapping[Rule, Schema] = {
    event_rules.uuid4: UUID4,
    event_rules.moment: {
        "type": "string",
        "format": "date-time",
        "description": "ISO 8601 with a zone; what RFC 3339 allows is taken, but for leap seconds.",
    },
    event_rules.tenant: {"type": "integer", "minimum": MIN_TENANT_ID, "maximum": MAX_TENANT_ID},
    event_rules.an_object: {"type": "object"},
    event_rules.string: {"type": "string"},
    event_rules.filled: _FILLED,
    event_rules.device: {**_FILLED, "maxLength": MAX_DEVICE_ID_CHARACTERS},
    event_rules.platform: {"type": "string", "enum": list(PLATFORMS)},
}
_MEANINGS: Mapping[str, str] = {
    "event_id": "Made by the app; sent again it is not stored twice. Added if missing.",
    "event_type": "What happened, such as `video.play`.",
    "tenant_id": "1 = Parlor, 2 = PlayTV.",
    "source.device_id": "Persistent, of the device; with tenant and platform it is what the upstream limits.",
    "context": "Anything else the app wants to tell.",
    "occurred_at": "When it happened. Added if missing: the time of receipt.",
}


def event_schema(required: Set[str]) -> Schema:
    """One event; `required` is dotted, as in `event_rules.REQUIRED`."""
    schema = _object_schema("", required)
    for name in ("source", "subject"):
        schema["properties"][name] |= _object_schema(f"{name}.", required)
    if "required" in schema["properties"]["source"]:
        # a source that is missing is judged as an empty one; a subject may be missing
        schema["required"] = sorted({*schema.get("required", ()), "source"})
    schema["description"] = (
        "Unknown fields are passed on untouched, and nothing else changes a byte but what is added where it is "
        "missing. `null` is not missing. Refused besides: a field given twice, integers beyond 64 bits, numbers "
        f"beyond a double, U+0000 and half surrogate pairs in strings, nesting deeper than {MAX_DEPTH}."
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
    schema: Schema = {"type": "object", "properties": properties}
    needed = sorted(name for name in properties if prefix + name in required)
    return {**schema, "required": needed} if needed else schema

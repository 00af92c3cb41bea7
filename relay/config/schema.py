"""The JSON Schema of the configuration file, for editors. It follows from the table of keys.

A schema cannot express all rules. `relay check-config` checks the rest, such as ranges of durations.
"""

from __future__ import annotations

from typing import Any

from relay.config.addresses import ListenAddresses
from relay.config.keys import KEYS, MAX_TENANTS, SECTIONS, TENANT, Key
from relay.config.values import MAX_LIST_ITEMS, Duration, Flag, Items, Kind, Number, OneOf, Size

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_TENANT_ID = "^(0|[1-9][0-9]{0,18})$"


def schema() -> dict[str, Any]:
    """Return the schema of a TOML file, as parsed."""
    sections = {section: _table([key for key in KEYS if key.section == section]) for section in SECTIONS}
    tenant = _table([key for key in KEYS if key.of_tenant])
    sections["upstream"]["properties"]["tenants"] = {
        "type": "object",
        "description": "URL, key and name of single tenants, by tenant id.",
        "patternProperties": {_TENANT_ID: tenant},
        "additionalProperties": False,
        "maxProperties": MAX_TENANTS,
    }
    return {"$schema": _DRAFT, "title": "Configuration of the relay", **_object(sections)}


def _table(keys: list[Key]) -> dict[str, Any]:
    is_tenant = keys[0].of_tenant
    named = [key for key in keys if key.of_tenant is is_tenant]
    prefix = TENANT if is_tenant else f"{keys[0].section}."
    return _object({key.name.removeprefix(prefix): _property(key) for key in named})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _property(key: Key) -> dict[str, Any]:
    found = {"description": f"{key.effect} Allowed: {key.kind.allowed}.", **_value(key.kind)}
    if key.in_settings and not key.kind.secret and key.default is not None:
        found["default"] = key.kind.plain(key.default)
    return found


def _value(kind: Kind) -> dict[str, Any]:
    match kind:
        case Flag():
            return {"type": "boolean"}
        case Number(least=least, most=most, optional=optional):
            number = {"type": "integer", "minimum": least, "maximum": most}
            return {"anyOf": [number, {"const": ""}]} if optional else number
        case Duration() | Size():
            return {"type": "string", "pattern": f"^[0-9]{{1,15}}({'|'.join(kind.units)})$"}
        case OneOf(words=words):
            return {"enum": list(words)}
        case Items(item=item):
            return {"type": "array", "items": _value(item), "maxItems": MAX_LIST_ITEMS}
        case ListenAddresses():
            return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
        case _:
            return {"type": "string"}

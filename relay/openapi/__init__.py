"""The OpenAPI 3.1 description at `/openapi.json`: every request of apps and operators, and every response.

Rules:
1.  `openapi.json` in this package is the description. This module only inserts values that differ between relays: the
    version, the configured limits, the durability, the required fields and the allowed tenants.
2.  A listener describes the paths that it serves. The tags of an operation name its interface.
3.  A path with GET also allows HEAD, with the same responses without a body.

The tests compare the document with the validation, the routes and the responses.
"""

from __future__ import annotations

from collections.abc import Set
from importlib import resources
from typing import Any, Literal, NamedTuple

import msgspec

from relay import __version__


class DescribedValues(NamedTuple):
    """The values of this relay's configuration that its description contains."""

    max_body_bytes: int
    max_event_bytes: int
    durability: Literal["full", "normal"] | None
    """None: the durability of a shared outbox is that of the database at each commit."""
    required: Set[str]
    """Dotted names of the required fields, without the fields that `defaults` supplies."""
    allowed_tenants: Set[int] = frozenset()
    """Tenants of accepted events. Empty: any."""


def describe(values: DescribedValues, interfaces: Set[str]) -> dict[str, Any]:
    """Return the OpenAPI object of a listener that serves `interfaces`, a subset of `events` and `operations`."""
    description: dict[str, Any] = msgspec.json.decode(resources.files(__name__).joinpath("openapi.json").read_bytes())
    components = description["components"]
    description["info"]["version"] = __version__
    if values.durability is not None:
        components["headers"]["Relay-Durability"]["schema"]["enum"] = [values.durability]
    too_large = components["responses"]["AppsTooLarge"]
    too_large["description"] = too_large["description"].format(**values._asdict())
    _require(components["schemas"]["Event"], values.required)
    if values.allowed_tenants:
        components["schemas"]["Event"]["properties"]["tenant_id"]["enum"] = sorted(values.allowed_tenants)
    description["paths"] = {
        path: _with_head(item, components["responses"])
        for path, item in description["paths"].items()
        if any(interfaces & set(item[method]["tags"]) for method in ("get", "post") if method in item)
    }
    return description


def _require(event: dict[str, Any], required: Set[str]) -> None:
    """Restrict the required fields of the event and its source to `required`."""
    source = event["properties"]["source"]
    source["required"] = [name for name in source["required"] if f"source.{name}" in required]
    if not source["required"]:
        # The relay treats a missing source as an empty one, and an empty array as an empty object.
        source |= {"type": ["object", "array"], "maxItems": 0}
    needed = required | {"source"} if source["required"] else required
    event["required"] = [name for name in event["required"] if name in needed]


def _with_head(item: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """Add HEAD to a path with GET."""
    if "get" not in item:
        return item
    responses = {}
    for status, response in item["get"]["responses"].items():
        resolved = components[response["$ref"].rpartition("/")[2]] if "$ref" in response else response
        responses[status] = {name: value for name, value in resolved.items() if name != "content"}
    summary = f"{item['get']['summary']} (head only)"
    return {**item, "head": {**item["get"], "summary": summary, "responses": responses}}

"""Validate a body as the upstream does: return its events, or the framework's validation errors.

Rules: the documentation of the upstream's API defines required fields and types. The messages are the framework's ("The
events.0.source.platform field is required."). One invalid event rejects the whole body. The module is pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from relay.sandbox import php

Device = tuple[int, str, str]
"""The upstream's identity of a device: (tenant_id, platform, device_id)."""


class ReceivedEvent(msgspec.Struct, frozen=True, gc=False):
    """The recorded fields of an event."""

    event_id: bytes
    """The UUID's 16 bytes."""
    device: Device
    n: int | None
    """context.n, if it is an integer: the sender's counter, which defines the order."""


class ParsedBody(NamedTuple):
    """A body as the upstream parses it. It has events only if `errors` is empty."""

    events: list[ReceivedEvent]
    errors: Mapping[str, list[str]]
    """Validation errors by path, in the framework's order."""
    device: Device | None
    """Device of the first event if it is readable, even with errors."""


def read(body: bytes) -> ParsedBody:
    """Return all events of `body`, or all validation errors."""
    value = php.decode(body)
    events = php.clean(value.get("events")) if isinstance(value, dict) else None
    if events is None or events in ([], {}):
        return ParsedBody([], {"events": ["The events field is required."]}, None)
    if not isinstance(events, dict | list):
        return ParsedBody([], {"events": [_ARRAY.format("events")]}, None)
    items = list(events.items() if isinstance(events, dict) else enumerate(events))
    errors = {path: [text] for rule in _RULES for path, text in _broken(rule, items)}
    if errors:
        return ParsedBody([], errors, _device(items[0][1]))
    received = [_received(event) for _, event in items]
    return ParsedBody(received, {}, received[0].device)


class _RawBody(msgspec.Struct):
    events: list[msgspec.Raw]


def raw_events(body: bytes) -> list[msgspec.Raw]:
    """Return the events of a body as received, or an empty list if it is not a list of events."""
    try:
        return msgspec.json.decode(body, type=_RawBody).events
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []


def rejection(errors: Mapping[str, list[str]]) -> bytes:
    """Return the body of a 422 response."""
    texts = [text for of_path in errors.values() for text in of_path]
    more = len(texts) - 1
    message = texts[0] + (f" (and {more} more error{'s' if more > 1 else ''})" if more else "")
    return msgspec.json.encode({"message": message, "errors": errors})


class _Rule(NamedTuple):
    path: tuple[str, ...]
    """Path within the event; empty: the event itself."""
    required: bool
    holds: Callable[[object], bool]
    otherwise: str
    """Message of a violation. "{}" is replaced by the path."""


def _is_uuid4(value: object) -> bool:
    return isinstance(value, str) and _uuid4(value) is not None


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _is_array(value: object) -> bool:
    return isinstance(value, dict | list)


def _is_integer(value: object) -> bool:
    """Return whether PHP's FILTER_VALIDATE_INT accepts the value's text: 1, 1.0, "1" and true are integers."""
    return _integer(value) is not None


def _is_platform(value: object) -> bool:
    return isinstance(value, str) and value in _PLATFORMS


_PLATFORMS = ("ios", "android", "web", "tv")


def _is_time(value: object) -> bool:
    return isinstance(value, str) and php.is_date(value)


_STRING, _ARRAY = "The {} field must be a string.", "The {} field must be an array."
_RULES = (
    _Rule((), True, _is_array, _ARRAY),
    _Rule(("event_id",), True, _is_uuid4, "The {} field must be a valid UUID."),
    _Rule(("event_type",), True, _is_string, _STRING),
    _Rule(("tenant_id",), True, _is_integer, "The {} field must be an integer."),
    _Rule(("source", "platform"), True, _is_platform, "The selected {} is invalid."),
    _Rule(("source", "device_id"), True, _is_string, _STRING),
    _Rule(("source", "app_version"), False, _is_string, _STRING),
    _Rule(("source", "os_version"), False, _is_string, _STRING),
    _Rule(("source", "device_model"), False, _is_string, _STRING),
    _Rule(("subject",), False, _is_array, _ARRAY),
    _Rule(("subject", "type"), False, _is_string, _STRING),
    _Rule(("subject", "id"), False, _is_string, _STRING),
    _Rule(("context",), False, _is_array, _ARRAY),
    _Rule(("occurred_at",), False, _is_time, "The {} field must be a valid date."),
)


def _broken(rule: _Rule, items: list[tuple[Any, object]]) -> Iterator[tuple[str, str]]:
    """Yield path and message of each event that breaks `rule`.

    The framework does not skip a null, nor a blank string or an empty array, of an optional field: no rule of the
    sandbox is `nullable`.
    """
    for key, event in items:
        value = _get(event, rule.path)
        path = ".".join(("events", str(key), *rule.path))
        if rule.required and (value is _MISSING or value is None or value in ([], {})):
            yield path, f"The {path} field is required."
        elif value is not _MISSING and not rule.holds(value):
            yield path, rule.otherwise.format(path)


_MISSING = object()


def _get(value: object, path: tuple[str, ...]) -> object:
    """Return the value at a path as the framework reads it, or _MISSING."""
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return _MISSING
        value = value[name]
    return php.clean(value)


def _received(event: object) -> ReceivedEvent:
    """Return the recorded fields of a valid event."""
    event_id, device = _uuid4(str(_get(event, ("event_id",)))), _device(event)
    assert event_id is not None
    assert device is not None
    return ReceivedEvent(event_id, device, _count(_get(event, ("context", "n"))))


def _device(event: object) -> Device | None:
    tenant_id = _integer(_get(event, ("tenant_id",)))
    platform, device_id = _get(event, ("source", "platform")), _get(event, ("source", "device_id"))
    if tenant_id is None or not isinstance(platform, str) or not isinstance(device_id, str):
        return None
    return tenant_id, platform, device_id


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return 1 if value else None
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 1e15 else None  # PHP writes larger values as 1.0E+15.
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"[+-]?(0|[1-9][0-9]{0,17})", value) else None
    return value if isinstance(value, int) else None


def _count(n: object) -> int | None:
    return n if isinstance(n, int) and not isinstance(n, bool) else None


_UUID4 = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}\Z")


def _uuid4(text: str) -> bytes | None:
    """Return the 16 bytes of a hyphenated version 4 UUID, or None."""
    return bytes.fromhex(text.replace("-", "")) if _UUID4.match(text) else None

"""Check the fields of a strictly parsed event, and write an error message for each invalid field.

Every error is reported under its path (`events.0.source.platform`). The message starts like the messages of the
upstream's framework (Laravel). It names the field, the requirement and the received value (see `shown`). Unknown
fields are accepted. Independent of the event's bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass
from typing import TypeGuard

from relay.event.shown import Mask, shown, unmasked
from relay.event.strict_json import Object
from relay.event.values import is_blank, is_moment, trimmed, uuid4_bytes, whole

PLATFORMS = ("ios", "android", "web", "tv")
MIN_TENANT_ID, MAX_TENANT_ID = 1, 2**63 - 1
"""relay.event.strict_json rejects larger integers."""
MAX_DEVICE_ID_CHARACTERS = 255
MAX_ERROR_BYTES = 262_144
"""Limit for the paths and messages in one response. Further errors are only counted."""
MAX_NAME_CHARACTERS = 64
"""Length of a received field name in a path."""
MAX_LISTED_TENANTS = 8
"""Allowed tenants that an error message lists. Further ones are only counted."""

REQUIRED = frozenset({"event_type", "tenant_id", "source.platform", "source.device_id", "subject.type", "subject.id"})
"""Dotted names. The fields of `subject` are required only if the event has a subject."""


@dataclass(frozen=True, slots=True)
class EventDefaults:
    """Values inserted into events that lack them. An empty or blank value is not inserted."""

    tenant_id: int | None = None
    platform: str = ""
    device_id: str = ""
    app_version: str = ""
    os_version: str = ""
    device_model: str = ""


Rule = Callable[[object], str]
"""Returns the requirement that a value does not meet ("a string"), or "" if the value is valid."""
Rules = Mapping[str, Mapping[str, Rule]]
"""The rules of all fields, by prefix and name."""


class EventErrors:
    """The errors of all events of one request, by path."""

    def __init__(self, max_bytes: int = MAX_ERROR_BYTES, mask: Mask = unmasked) -> None:
        """A `max_bytes` of 1 leaves room for one message. `mask` hides secrets in received values."""
        self.by_path: dict[str, list[str]] = {}
        self.count = 0
        """Number of errors, including the unlisted ones."""
        self._room_bytes = max_bytes
        self._left_out = 0
        self._mask = mask

    def add(self, path: str, complaint: str, *received: object) -> None:
        """Add one error about the field at `path`. `received` values are described only if the error is listed."""
        self.count += 1
        if self.full:
            self._left_out += 1
            return
        values = " and ".join([shown(value, self._mask) for value in received])
        sentence = f"The {path} field {complaint}, but is {values}." if received else f"The {path} field {complaint}."
        self._room_bytes -= len(path) + len(sentence)
        self.by_path.setdefault(path, []).append(sentence)

    @property
    def full(self) -> bool:
        """Whether no further error can be listed."""
        return self._room_bytes <= 0

    def summary(self, unread_after: str = "") -> str:
        """Return the first error, the number of further errors, and what the list does not contain.

        `unread_after`: path of the last event that was checked, if reading stopped because the list was full.
        """
        first = next(iter(self.by_path.values()))[0]
        more = self.count - 1
        notes = [f"and {more} more error{'s' if more > 1 else ''}"] if more else []
        if self._left_out:
            notes.append(f"{self._left_out} of them are not listed")
        if unread_after:
            notes.append(f"events after {unread_after} were not checked")
        return f"{first} ({', '.join(notes)})" if notes else first


def check(event: object, path: str, rules: Rules, required: Set[str], errors: EventErrors) -> TypeGuard[Object]:
    """Add every error of one event to `errors`; return whether there was none.

    `rules` are those of `rules_for`. `required` is REQUIRED without the fields that have a default.
    """
    before = errors.count
    if not isinstance(event, Object):
        errors.add(path, "must be an object", event)
        return False
    fields = _check_object(event, path, "", rules, required, errors)
    for name in _PARTS:
        part = fields.get(name, _EMPTY if name == "source" else None)
        if part == []:
            part = _EMPTY
        if isinstance(part, Object):
            _check_object(part, f"{path}.{name}", f"{name}.", rules, required, errors)
    return errors.count == before


def _check_object(
    pairs: Object, path: str, prefix: str, rules: Rules, required: Set[str], errors: EventErrors
) -> dict[str, object]:
    """Add the errors of one object to `errors`, and return its fields. `prefix` selects the object's rules."""
    fields: dict[str, object] = {}
    twice: dict[str, tuple[object, object]] = {}
    for name, value in pairs:
        if name in fields:
            twice[name] = fields[name], value
        fields[name] = value
    for name, values in twice.items():
        errors.add(f"{path}.{_shown(name)}", "must not be given twice", *values)
    for name, rule in rules[prefix].items():
        if name in fields:
            must_be = rule(fields[name])
            if must_be:
                or_missing = "" if prefix + name in REQUIRED or name == "source" else ", or be left out"
                errors.add(f"{path}.{name}", f"must be {must_be}{or_missing}", fields[name])
        elif prefix + name in required:
            errors.add(f"{path}.{name}", f"is required but missing: add {rule(None)}")
    return fields


def _shown(name: str) -> str:
    """Return a received field name, cut and escaped for a path."""
    name = name[:MAX_NAME_CHARACTERS]
    return name if name.isprintable() else ascii(name)[1:-1]


def uuid4(value: object) -> str:
    return "" if isinstance(value, str) and uuid4_bytes(trimmed(value)) else "a valid UUID (version 4)"


def moment(value: object) -> str:
    if isinstance(value, str) and is_moment(trimmed(value)):
        return ""
    return "an ISO 8601 date and time with a zone, such as 2024-05-01T12:00:00.000Z"


def tenant(value: object) -> str:
    number = whole(value)
    return "" if number is not None and number >= MIN_TENANT_ID else f"an integer of at least {MIN_TENANT_ID}"


def an_object(value: object) -> str:
    # PHP and Lua write an empty object as []. The upstream's framework does not distinguish the two.
    return "" if isinstance(value, Object) or value == [] else "an object"


def filled(value: object) -> str:
    return "" if isinstance(value, str) and not is_blank(value) else "a string that is not blank"


def device(value: object) -> str:
    if isinstance(value, str) and 0 < len(trimmed(value)) <= MAX_DEVICE_ID_CHARACTERS:
        return ""
    return f"a string that is not blank and not greater than {MAX_DEVICE_ID_CHARACTERS} characters"


def platform(value: object) -> str:
    return "" if isinstance(value, str) and trimmed(value) in PLATFORMS else f"one of {', '.join(PLATFORMS)}"


RULES: Rules = {
    # A test compares the OpenAPI description with this table.
    "": {
        "event_id": uuid4,
        "event_type": filled,
        "tenant_id": tenant,
        "source": an_object,
        "subject": an_object,
        "context": an_object,
        "occurred_at": moment,
    },
    "source.": {
        "platform": platform,
        "device_id": device,
        # The upstream's framework converts a blank string to null, which is invalid for an optional field, too.
        "app_version": filled,
        "os_version": filled,
        "device_model": filled,
    },
    "subject.": {"type": filled, "id": filled},
}


def rules_for(allowed_tenants: Collection[int]) -> Rules:
    """Return the rules of a relay that accepts these tenants only; RULES if there are none."""
    if not allowed_tenants:
        return RULES
    listed = sorted(allowed_tenants)
    more = len(listed) - MAX_LISTED_TENANTS
    requirement = f"one of {', '.join(map(str, listed[:MAX_LISTED_TENANTS]))}{f' and {more} more' if more > 0 else ''}"

    def allowed_tenant(value: object) -> str:
        return "" if whole(value) in allowed_tenants else requirement

    return {**RULES, "": {**RULES[""], "tenant_id": allowed_tenant}}


_PARTS = ("source", "subject")
_EMPTY = Object()
"""An object without fields. A missing source is checked as one, because defaults may provide some of its fields."""

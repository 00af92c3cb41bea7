"""What an event must have: the upstream's fields and types, and the sentences that say what is wrong.

Decides from a strictly parsed event; every fault is reported, under its path (`events.0.source.platform`)
and worded as the upstream's framework (Laravel) words its own. Fields that are not named here pass.
Sentences name fields and never repeat a value. Knows neither bytes nor defaults' values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime
from struct import unpack
from typing import TypeGuard

from relay.strict_json import Object

PLATFORMS = ("ios", "android", "web", "tv")
MIN_TENANT_ID, MAX_TENANT_ID = 1, 2**63 - 1
"""No larger integer is JSON to us, see relay.strict_json."""
MAX_DEVICE_ID_CHARACTERS = 255
MAX_FAULT_BYTES = 262_144
"""Of paths and sentences in one response; further faults are only counted."""
MAX_NAME_CHARACTERS = 64
"""Of an app's own field name in a path."""

REQUIRED = frozenset({"event_type", "tenant_id", "source.platform", "source.device_id", "subject.type", "subject.id"})
"""Dotted; what belongs to `subject` only where there is one."""

_from_hex = bytes.fromhex
_to_moment = datetime.fromisoformat
# bound once: finding them on their classes takes a quarter of the time of a call

Rule = Callable[[object], str]
"""What a value must be ("a string"), or "" if it is."""


class Faults:
    """Every fault of every event of one request, by path."""

    def __init__(self, max_bytes: int = MAX_FAULT_BYTES) -> None:
        """With `max_bytes` of 1 there is room for one sentence."""
        self.by_path: dict[str, list[str]] = {}
        self.count = 0
        """Those that are left out included."""
        self.unread_after = ""
        """The path of the last event that was read, if others were left unread because the list was full."""
        self._room_bytes = max_bytes
        self._left_out = 0

    def add(self, path: str, complaint: str) -> None:
        self.count += 1
        if self.full:
            self._left_out += 1
            return
        sentence = f"The {path} field {complaint}."
        self._room_bytes -= len(path) + len(sentence)
        self.by_path.setdefault(path, []).append(sentence)

    @property
    def full(self) -> bool:
        """Whether no further sentence fits: more reading would only cost time."""
        return self._room_bytes <= 0

    def summary(self) -> str:
        """Return the first fault, how many more there are, and what the list leaves out."""
        first = next(iter(self.by_path.values()))[0]
        more = self.count - 1
        notes = [f"and {more} more error{'s' if more > 1 else ''}"] if more else []
        if self._left_out:
            notes.append(f"{self._left_out} of them are not listed")
        if self.unread_after:
            notes.append(f"events after {self.unread_after} were not checked")
        return f"{first} ({', '.join(notes)})" if notes else first


def uuid4_bytes(text: str) -> bytes:
    """The 16 bytes of a version 4 UUID in 8-4-4-4-12 form, in either case; b"" if it is none (RFC 9562)."""
    try:
        uuid = _from_hex(text.replace("-", ""))
    except ValueError:
        return b""
    # 36 characters, 4 of them dashes, and 16 bytes: no room for the spaces that fromhex passes over
    if len(text) == 36 and text[8:24:5] == "----" and len(uuid) == 16 and uuid[6] >> 4 == 4 and uuid[8] >> 6 == 2:
        return uuid
    return b""


def all_uuid4_bytes(texts: Sequence[str]) -> Sequence[bytes]:
    """What uuid4_bytes makes of each, at a third of its price; empty if one of them is no such UUID."""
    joined, count = "".join(texts), len(texts)
    # with 36 characters each, a step of 36 goes through the same place of all of them
    if set(map(len, texts)) != {36} or not (
        joined[8::36] == joined[13::36] == joined[18::36] == joined[23::36] == "-" * count
        and joined[14::36] == "4" * count
        and not joined[19::36].strip("89abAB")
    ):
        return ()
    try:
        uuids = _from_hex(joined.replace("-", ""))
    except ValueError:
        return ()
    # 4 dashes in each at least, so 32 digits at most: 16 bytes each leave no room for more dashes, nor for spaces
    return unpack("16s" * count, uuids) if len(uuids) == 16 * count else ()


def is_moment(text: str) -> bool:
    """Whether a text is an ISO 8601 date and time with a zone."""
    try:
        return "T" in text and _to_moment(text).tzinfo is not None
    except ValueError:
        return False


def check(event: object, path: str, required: Set[str], faults: Faults) -> TypeGuard[Object]:
    """Add every fault of one event; true if there was none.

    `required` is REQUIRED without what defaults will fill in.
    """
    before = faults.count
    if not isinstance(event, Object):
        faults.add(path, "must be an object")
        return False
    fields = _check_object(event, path, "", required, faults)
    for name in _PARTS:
        part = fields.get(name, _NO_SOURCE if name == "source" else None)
        if isinstance(part, Object):
            _check_object(part, f"{path}.{name}", f"{name}.", required, faults)
    return faults.count == before


def _check_object(pairs: Object, path: str, prefix: str, required: Set[str], faults: Faults) -> dict[str, object]:
    """Add the faults of one object, whose fields are known to RULES as `prefix` and name; returns its fields."""
    fields: dict[str, object] = {}
    twice: dict[str, None] = {}
    for name, value in pairs:
        if name in fields:
            twice[name] = None
        fields[name] = value
    for name in twice:
        faults.add(f"{path}.{_shown(name)}", "must not be given twice")
    for name, rule in RULES[prefix].items():
        if name in fields:
            must_be = rule(fields[name])
            if must_be:
                faults.add(f"{path}.{name}", f"must be {must_be}")
        elif prefix + name in required:
            faults.add(f"{path}.{name}", "is required")
    return fields


def _shown(name: str) -> str:
    """An app's own field name, fit for a path: it may be any text."""
    name = name[:MAX_NAME_CHARACTERS]
    return name if name.isprintable() else ascii(name)[1:-1]


def uuid4(value: object) -> str:
    return "" if isinstance(value, str) and uuid4_bytes(value) else "a valid UUID (version 4)"


def moment(value: object) -> str:
    if isinstance(value, str) and is_moment(value):
        return ""
    return "an ISO 8601 date and time with a zone, such as 2024-05-01T12:00:00.000Z"


def tenant(value: object) -> str:
    # True is an int to Python, but not to JSON
    return "" if type(value) is int and value >= MIN_TENANT_ID else f"an integer of at least {MIN_TENANT_ID}"


def an_object(value: object) -> str:
    return "" if isinstance(value, Object) else "an object"


def string(value: object) -> str:
    return "" if isinstance(value, str) else "a string"


def filled(value: object) -> str:
    # the upstream's framework trims strings, and takes an empty one for a missing one
    return "" if isinstance(value, str) and value.strip() else "a string that is not blank"


def device(value: object) -> str:
    if isinstance(value, str) and value.strip() and len(value) <= MAX_DEVICE_ID_CHARACTERS:
        return ""
    return f"a string that is not blank and not greater than {MAX_DEVICE_ID_CHARACTERS} characters"


def platform(value: object) -> str:
    return "" if value in PLATFORMS else f"one of {', '.join(PLATFORMS)}"


RULES: Mapping[str, Mapping[str, Rule]] = {
    # by prefix and name; the API's description is made from it, too
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
        "app_version": string,
        "os_version": string,
        "device_model": string,
    },
    "subject.": {"type": string, "id": string},
}
_PARTS = ("source", "subject")
_NO_SOURCE = Object()
"""A source that is missing is judged as an empty one: defaults may fill in some of it."""

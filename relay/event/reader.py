"""Read received bodies: convert bytes to events, or report every error by its path.

Rules:
1.  A body is accepted or rejected as a whole. No input makes a method raise.
2.  The bytes of an event stay as received. Missing values (event_id, occurred_at, defaults) are inserted directly
    after the opening brace of the object that they belong to.
3.  There are two ways to read. The strict one is authoritative: it parses with `strict_json`, checks every field
    with `rules` and writes the error messages. The fast one (`fast_reader`, and `columns` for many events at once)
    only accepts proven events; the strict one reads all others.
4.  A rejection reports the most severe problem that was found: malformed, then invalid, then too large. An event
    that is larger than the limit when received is not parsed.
5.  Large bodies are read in steps (`Reading`), because 55,000 events in 1 MiB take 0.3 s. The caller does other work
    between the steps.

Pure: the clock and new ids are arguments. Independent of transports and storage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, repeat
from typing import Any, Literal, NamedTuple
from zlib import crc32

import msgspec

from relay.event import fast_reader, strict_json
from relay.event.columns import ColumnReader, slices
from relay.event.rules import MAX_ERROR_BYTES, REQUIRED, EventDefaults, EventErrors, check, rules_for
from relay.event.shown import Mask, beginning, unmasked
from relay.event.split import Parts, splitting_json, splitting_lines
from relay.event.split import Rejection as Rejection  # noqa: PLC0414 - part of the interface of Reader
from relay.event.strict_json import Cursor, Malformed, Object
from relay.event.values import BLANK_ENDS, is_blank, is_moment, trimmed, uuid4_bytes, whole

DeviceKey = tuple[int, str, str]
"""The identity of a device at the upstream: (tenant_id, platform, device_id), trimmed."""


class Event(NamedTuple):
    event_id: bytes
    """The 16 bytes of the UUID. Dedupe compares them."""
    device_key: DeviceKey
    body: bytes
    """The JSON object that the relay sends: the received bytes, with missing values inserted."""
    has_inserted_time: bool = False
    """Whether the relay inserted `occurred_at`. relay.forward.timestamps may correct it."""
    received_crc: int = 0
    """CRC-32 of the bytes as received; 0 if `body` is these bytes."""
    has_generated_id: bool = False
    """Whether the relay inserted `event_id`."""

    @property
    def check(self) -> int:
        """Return the CRC-32 of the bytes as received. Events with the same id should have the same check."""
        return self.received_crc or crc32(self.body)


BodyKind = Literal["json", "lines", "datagram"]
"""How a body contains its events.

"json": one event object, `{"events": [...]}`, or a bare array. "lines": one event per line (NDJSON); empty lines are
skipped. "datagram": either of the two. A datagram is read up to its first error, because a response to UDP has room
for one.
"""
Reading = Generator[None, None, list[Event] | Rejection]
"""The reading of one body in steps of a few milliseconds at most. The last step returns the result."""


_SOURCE_FIELDS = ("platform", "device_id", "app_version", "os_version", "device_model")
_new_event = tuple.__new__
"""The constructor of a NamedTuple is a Python function and takes 1.5 times as long."""
_BATCH_OPENINGS = (b"[", b'{"events"')
FEWEST_TOGETHER = 5
"""Fewest bodies that are read together. That costs 7 µs plus 1.4 µs per event; reading alone costs 3 µs per event."""
_GZIP = b"\x1f\x8b"
_EVENT_PATH = re.compile(r"\bevents\.(\d+)")
_MAX_ODD = MAX_ERROR_BYTES // 64
"""Elements that are not objects after which splitting stops. One error, path and message, has at least 64 bytes."""


_OccurredAt = Callable[[], bytes]
"""Returns the member `occurred_at` for the events of one body that lack it."""


@dataclass(slots=True)
class _Found:
    """Result so far of reading a body."""

    events: list[Event]
    errors: EventErrors
    occurred_at: _OccurredAt
    too_large: str = ""
    last: int = 0
    """Index of the last event that was read alone."""


class Reader:
    """Reads received bodies with one configuration. Stores field orders, and no other part of the bodies.

    `new_event_id` returns a version 4 UUID as text. `now` returns the time in the format of `occurred_at`; all
    events of one body get the same time. `mask` hides secrets in the values that an error message quotes.
    `allowed_tenants`: the tenants of accepted events; empty for any. A default tenant must be one of them.
    """

    def __init__(
        self,
        defaults: EventDefaults,
        max_event_bytes: int,
        new_event_id: Callable[[], str],
        now: Callable[[], str],
        mask: Mask = unmasked,
        allowed_tenants: Iterable[int] = (),
    ) -> None:
        self.max_event_bytes = max_event_bytes
        self._mask = mask
        self._new_event_id = new_event_id
        self._now = now
        self.allowed_tenants = frozenset(allowed_tenants)
        self._rules = rules_for(self.allowed_tenants)
        assert not self.allowed_tenants or defaults.tenant_id in {None, *self.allowed_tenants}, defaults.tenant_id
        self._tenant_id = defaults.tenant_id
        self._platform = defaults.platform
        self._device_id = trimmed(defaults.device_id)
        source = {name: text for name in _SOURCE_FIELDS if not is_blank(text := getattr(defaults, name))}
        self._source_members = [(name, _member(name, value)) for name, value in source.items()]
        self._source = _member("source", source)
        self._column_reader = ColumnReader(source)
        with_default = {f"source.{name}" for name in source}
        if defaults.tenant_id is not None:
            with_default.add("tenant_id")
        self.required = REQUIRED - with_default
        """Dotted names of the fields that an app must send."""

    def read(self, body: bytes, kind: BodyKind) -> list[Event] | Rejection:
        """Read a body in one step."""
        if kind == "json" or (kind == "datagram" and not _has_lines(body)):
            single = body.strip(strict_json.SPACE)
            if len(single) <= self.max_event_bytes and not single.startswith(_BATCH_OPENINGS):
                event = self._read_fast(single, self._occurred_at)
                if event is not None and len(event.body) <= self.max_event_bytes:
                    return [event]
        reading = self.reading(body, kind)
        try:
            while True:
                next(reading)
        except StopIteration as done:
            read: list[Event] | Rejection = done.value
            return read

    def read_singles(self, bodies: Sequence[bytes]) -> list[Event] | None:
        """Read bodies of one event each together; return None if they must be read one by one."""
        return self._read_together(bodies, self._occurred_at)

    def reading(self, body: bytes, kind: BodyKind) -> Reading:
        """Do what `read` does, in steps."""
        only_first = kind == "datagram"
        max_odd = 1 if only_first else _MAX_ODD
        try:
            if kind == "lines" or (kind == "datagram" and _has_lines(body)):
                parts = yield from splitting_lines(body)
            else:
                body = body.strip(strict_json.SPACE)
                parts = yield from splitting_json(body, self.max_event_bytes, max_odd, self._mask)
        except Malformed as error:
            return _with_hint(_malformed("The body", str(error)), body, kind, self._mask)
        if isinstance(parts, Rejection):
            return parts
        read = yield from self._read_all(parts, EventErrors(1 if only_first else MAX_ERROR_BYTES, self._mask))
        return _with_hint(read, body, kind, self._mask) if isinstance(read, Rejection) else read

    def _read_all(self, parts: Parts, errors: EventErrors) -> Reading:
        """Read events without surrounding space, in their order."""
        bodies = parts.bodies
        if not bodies:
            return Rejection("malformed", 'The body contains no event: send one event object, or {"events": [...]}.')
        found = _Found([], errors, cache(self._occurred_at))
        for first, slice_ in slices(bodies):
            if first:
                yield
            together = self._read_together(slice_, found.occurred_at)
            if together is not None:
                found.events += together
            elif malformed := self._read_each(slice_, first, found):
                path, error = malformed
                return _malformed(path if len(bodies) > 1 else "The body", error)
            if errors.full:
                break
        assert parts.complete or errors.by_path, "the parts are incomplete without an error"
        if errors.by_path:
            all_read = parts.complete and found.last == len(bodies) - 1
            unread_after = f"events.{found.last}" if errors.full and not all_read else ""
            return Rejection("invalid", errors.summary(unread_after), errors.by_path)
        return Rejection("too_large", found.too_large) if found.too_large else found.events

    def _read_together(self, bodies: Sequence[bytes], occurred_at: _OccurredAt) -> list[Event] | None:
        """Return the events of the bodies if `columns` reads them all; else None, also if there are too few bodies."""
        if len(bodies) < FEWEST_TOGETHER or max(map(len, bodies)) > self.max_event_bytes:
            return None
        columns = self._column_reader.read(bodies)
        if columns is None:
            return None
        allowed = self.allowed_tenants
        if allowed and not allowed.issuperset([tenant_id for tenant_id, _, _ in columns.device_keys]):
            return None
        checks: Iterable[int] = repeat(0)
        if columns.timeless:
            checks = map(crc32, bodies)
            opening = b"{" + occurred_at()
            bodies = [opening + body[1:] for body in bodies]
            if max(map(len, bodies)) > self.max_event_bytes:
                return None  # The inserted `occurred_at` makes one of them too large.
        timeless, given_id = repeat(columns.timeless), repeat(False)
        rows = zip(columns.event_ids, columns.device_keys, bodies, timeless, checks, given_id, strict=False)
        return list(map(_new_event, repeat(Event), rows))

    def _read_each(self, bodies: Sequence[bytes], first: int, found: _Found) -> tuple[str, str] | None:
        """Read the bodies one by one into `found`. Return path and message of the first malformed one, else None."""
        for index, body in enumerate(bodies, first):
            path, event_bytes = f"events.{index}", len(body)
            found.last = index
            if event_bytes <= self.max_event_bytes:
                try:
                    event = self._read_fast(body, found.occurred_at) or self._read_strictly(body, path, found)
                except Malformed as error:
                    return path, str(error)  # Its traceback would hold the bodies until a garbage collection.
                if event is not None:
                    event_bytes = len(event.body)
                    found.events.append(event)
                elif found.errors.full:
                    return None
            if event_bytes > self.max_event_bytes:
                found.too_large = (
                    f"{path} has {event_bytes} bytes; at most {self.max_event_bytes} are allowed (http.max_event)."
                )
        return None

    def _read_fast(self, body: bytes, occurred_at: _OccurredAt) -> Event | None:
        """Return the event if the fast reader proves it; None if the strict reader must decide."""
        fields = fast_reader.read(body)
        if fields is None or fields["event_type"][:1] in BLANK_ENDS:
            return None
        # Loops: building a list for each event takes three times as long.
        if "source" in fields:
            source: Mapping[str, Any] = fields["source"]
            for text in source.values():
                if text[:1] in BLANK_ENDS:
                    return None
        if "subject" in fields:
            subject = fields["subject"]
            if subject["type"][:1] in BLANK_ENDS or subject["id"][:1] in BLANK_ENDS:
                return None
        return self._complete(body, fields, occurred_at, fast_reader.source_opening)

    def _read_strictly(self, body: bytes, path: str, found: _Found) -> Event | None:
        """Return the event; None if it is invalid, with its errors added to `found`. Raises Malformed."""
        pairs = strict_json.parse(strict_json.decode(body))
        if not check(pairs, path, self._rules, self.required, found.errors):
            return None
        event = self._complete(body, _as_upstream_reads(pairs), found.occurred_at, _source_opening)
        assert event is not None, "the event passed the checks but is incomplete"
        return event

    def _complete(
        self,
        body: bytes,
        fields: Mapping[str, Any],
        occurred_at_member: _OccurredAt,
        source_opening: Callable[[bytes], int],
    ) -> Event | None:
        """Return the event with its missing values inserted; None if a field is missing or invalid.

        The types of `fields` are already checked. Presence, UUIDs, times and surrounding blanks are checked here.
        """
        added, received = b"", body
        event_id = given_id = fields.get("event_id")
        if event_id is None:
            event_id = self._new_event_id()
            added = _member("event_id", event_id)
        uuid = uuid4_bytes(event_id)
        occurred_at = fields.get("occurred_at")
        if occurred_at is None:
            added += occurred_at_member()
        elif not is_moment(occurred_at):
            return None
        tenant_id = fields.get("tenant_id")
        if tenant_id is None:
            tenant_id = self._tenant_id
            added += _member("tenant_id", tenant_id)
        source = fields.get("source")
        if source is None:
            source = {}
            added += self._source
        elif self._source_members:
            missing = b"".join([member for name, member in self._source_members if name not in source])
            if missing:
                opening = source_opening(body)
                if opening < 0:
                    return None
                body = _splice(body, opening, missing)
        platform = source.get("platform", self._platform)
        device_id = source.get("device_id", self._device_id)
        if not uuid or tenant_id is None or not platform:
            return None
        if self.allowed_tenants and tenant_id not in self.allowed_tenants:
            return None
        if device_id[:1] in BLANK_ENDS or device_id[-1:] in BLANK_ENDS:
            return None
        if added:
            body = _splice(body, 0, added)
        check = 0 if body is received else crc32(received)
        key = (tenant_id, platform, device_id)
        return _new_event(Event, (uuid, key, body, occurred_at is None, check, given_id is None))

    def _occurred_at(self) -> bytes:
        return _member("occurred_at", self._now())


def _as_upstream_reads(pairs: Object) -> dict[str, Any]:
    """Return the fields of a checked event by name. The fields that the relay uses are converted as upstream does."""
    fields: dict[str, Any] = dict(pairs)
    for name in ("event_id", "occurred_at"):
        if name in fields:
            fields[name] = trimmed(fields[name])
    if "tenant_id" in fields:
        fields["tenant_id"] = whole(fields["tenant_id"])
    if "source" in fields:
        source = fields["source"] = dict(fields["source"])
        for name in ("platform", "device_id"):
            if name in source:
                source[name] = trimmed(source[name])
    return fields


def _member(name: str, value: object) -> bytes:
    return msgspec.json.encode({name: value})[1:-1] + b","


def _splice(body: bytes, opening: int, members: bytes) -> bytes:
    """Return the body with `members`, each ending in a comma, inserted after the brace at `opening`.

    An empty array at `opening` becomes an object, because the upstream's framework treats it as one.
    """
    rest = body[opening + 1 :]
    if body[opening : opening + 1] == b"[":
        return body[:opening] + b"{" + members[:-1] + b"}" + rest[rest.index(b"]") + 1 :]
    if rest.lstrip(strict_json.SPACE).startswith(b"}"):
        members = members[:-1]
    return body[: opening + 1] + members + rest


def _source_opening(body: bytes) -> int:
    """Return the byte offset of the source in a strictly parsed event that has one."""
    text = body.decode()
    cursor = Cursor(text, len(text))
    for name in cursor.members():
        start, _ = cursor.skip()
        if name == "source":
            return len(text[:start].encode())
    raise AssertionError("the event has no source")


def _malformed(what: str, error: str) -> Rejection:
    return Rejection("malformed", f"{what} is not strict JSON: {error}.")


def _with_hint(rejection: Rejection, body: bytes, kind: BodyKind, mask: Mask) -> Rejection:
    """Return the rejection with the probable cause, the line of the first error, or the beginning of the body."""
    if kind == "lines":
        first = _EVENT_PATH.search(rejection.error)
        hint = f"The event is on line {_line_number(body, int(first[1]))}." if first else ""
    elif rejection.reason != "malformed":
        return rejection
    elif not body:
        return rejection._replace(error='The body is empty: send one event object, or {"events": [...]}.')
    elif body.startswith(_GZIP):
        hint = "It looks like gzip: send Content-Encoding: gzip."
    elif kind == "json" and _has_lines(body):
        hint = "It looks like one event per line: send Content-Type: application/x-ndjson."
    else:
        hint = f"The body begins with {beginning(body, mask)}."
    return rejection._replace(error=f"{rejection.error} {hint}".rstrip())


def _line_number(body: bytes, index: int) -> int:
    """Return the number of the line with an event, counted from 1. Empty lines contain no event."""
    lines = (number for number, line in enumerate(body.split(b"\n"), 1) if line.strip(strict_json.SPACE))
    return next(islice(lines, index, None))


def _has_lines(body: bytes) -> bool:
    """Return whether a datagram has one event per line: a line ends with "}" and the next starts with "{"."""
    if b"\n" not in body:
        return False
    first, _, rest = body.strip(strict_json.SPACE).partition(b"\n")
    return first.rstrip(strict_json.SPACE).endswith(b"}") and rest.lstrip(strict_json.SPACE).startswith(b"{")

"""Find the events in a body: the elements of a batch, or the lines.

Rules:
1.  A step takes at most 2 ms for every body. Between steps the caller yields to the event loop.
2.  Splitting stops when the body is certain to be rejected: the text around the events, or one event, exceeds the
    size limit of an event, or the elements that are not objects produce enough errors to fill a response.
3.  The text around the events is checked here by the grammar of strict_json. The events are separated, not checked.

`fast_reader.splitting` splits proven batches piece by piece. A `Cursor` walks through any other text value by value.
Pure. Independent of the content of an event.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Literal, NamedTuple

from relay.event import fast_reader, strict_json
from relay.event.rules import EventErrors
from relay.event.shown import Mask, unmasked
from relay.event.strict_json import Cursor, Malformed, Object, TooLong

_STEP_VALUES = 512
"""Values per step, at 1 µs each."""
_STEP_CHARACTERS = 32_768
"""Characters per step. A single value may be longer."""
_STEP_LINES_BYTES = 16_384


class Rejection(NamedTuple):
    """The reason why a body is rejected."""

    reason: Literal["malformed", "invalid", "too_large"]
    """The HTTP status is 400, 422 or 413."""
    error: str
    errors: Mapping[str, Sequence[str]] = {}
    """For "invalid": the errors of all events, by path ("events.0.source.platform"). Limited to MAX_ERROR_BYTES."""


class Parts(NamedTuple):
    """The events of a body, without surrounding space."""

    bodies: Sequence[bytes]
    complete: bool = True
    """Whether `bodies` has all events of the body. If False, `bodies` is sufficient to reject the body."""


Splitting = Generator[None, None, Parts | Rejection]


def splitting_json(body: bytes, max_event_bytes: int, max_odd: int, mask: Mask = unmasked) -> Splitting:
    """Split a body without surrounding space. Stop after `max_odd` elements that are not objects. Raises Malformed.

    `mask` hides secrets in the value that an error message describes.
    """
    if body.startswith((b"[", b"{")):
        elements = yield from fast_reader.splitting(body)
        if elements:
            return Parts(elements)
    if not body.startswith(b"[") and b'events"' not in body and b"\\u" not in body:
        return Parts([body])
    return (yield from _walking(strict_json.decode(body), body, max_event_bytes, max_odd, mask))


def splitting_lines(body: bytes) -> Splitting:
    """Split a body into its lines. Empty lines are skipped."""
    bodies: list[bytes] = []
    start = 0
    while start <= len(body):
        end = len(body)
        if end - start > _STEP_LINES_BYTES:
            end = body.rfind(b"\n", start, start + _STEP_LINES_BYTES)
            if end < 0:
                end = body.find(b"\n", start + _STEP_LINES_BYTES)
            if end < 0:
                end = len(body)
        bodies += [event for line in body[start:end].split(b"\n") if (event := line.strip(strict_json.SPACE))]
        start = end + 1
        if start <= len(body):
            yield
    return Parts(bodies)


def _walking(text: str, body: bytes, max_event_bytes: int, max_odd: int, mask: Mask) -> Splitting:
    cursor = Cursor(text, max_event_bytes)
    if cursor.peek() == "[":
        parts = yield from _elements(cursor, max_event_bytes, max_odd, is_batch=True)
        if isinstance(parts, Parts) and parts.complete:
            cursor.end()
        return parts
    if cursor.peek() != "{":
        return Parts([body])
    names: list[str] = []
    array: Parts | None = None
    start = end = passed = 0
    try:
        for name in cursor.members():
            names.append(name)
            if name == "events" and cursor.peek() == "[":
                start = cursor.at
                found = yield from _elements(cursor, max_event_bytes, max_odd, is_batch=False)
                if isinstance(found, Rejection) or not found.complete:
                    return found
                array, end = found, cursor.at
            else:
                cursor.skip()
            if cursor.at - (end - start) > max_event_bytes:
                raise TooLong
            if len(names) % _STEP_VALUES == 0 or cursor.at - passed > _STEP_CHARACTERS:
                passed = cursor.at
                yield
    except TooLong:
        return _too_much_around(names, body, max_event_bytes)
    cursor.end()
    if "events" not in names or "event_type" in names:
        return Parts([body])
    around = strict_json.parse(f"{text[:start]}[]{text[end:]}" if array is not None else text)
    return array if array is not None and names.count("events") == 1 else _no_array(names, around, mask)


def _elements(cursor: Cursor, max_event_bytes: int, max_odd: int, *, is_batch: bool) -> Splitting:
    """Return the elements of the array at the cursor. Errors name the index of the element. Raises Malformed.

    Without `is_batch`, the array may still be a field of a single event, as long as it is not larger than an event.
    """
    elements: list[bytes] = []
    odd, passed, started_at = 0, cursor.at, cursor.at
    try:
        for start, end in cursor.elements():
            elements.append(cursor.text[start:end].encode())
            if cursor.text[start] != "{":
                odd += 1
                if odd >= max_odd and (is_batch or end - started_at > max_event_bytes):
                    return Parts(elements, complete=False)
            if len(elements) % _STEP_VALUES == 0 or cursor.at - passed > _STEP_CHARACTERS:
                passed = cursor.at
                yield
    except TooLong:
        path = f"events.{len(elements)}"
        return Rejection(
            "too_large", f"{path} has more than {max_event_bytes} bytes, the largest size allowed (http.max_event)."
        )
    except Malformed as error:
        raise Malformed(f"events.{len(elements)}: {error}") from error
    return Parts(elements)


def _too_much_around(names: Sequence[str], body: bytes, max_event_bytes: int) -> Parts | Rejection:
    """Reject a body whose text outside of `events` exceeds the size limit of an event."""
    if "events" not in names:
        return Parts([body])  # A single event, which the caller rejects as too large.
    return Rejection(
        "too_large", f"The text around the events has more than {max_event_bytes} characters (http.max_event)."
    )


def _no_array(names: Sequence[str], around: object, mask: Mask) -> Rejection:
    """Reject a body whose `events` is not an array, or is repeated. `around` is the body without its last array."""
    assert isinstance(around, Object)
    errors = EventErrors(mask=mask)
    count = names.count("events")
    if count > 1:
        errors.add("events", f"must not be given twice, but occurs {count} times")
    else:
        errors.add("events", "must be an array", dict(around)["events"])
    return Rejection("invalid", errors.summary(), errors.by_path)

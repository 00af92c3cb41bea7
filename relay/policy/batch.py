"""The body of one request: its format and the number of events that fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

PREFIX, SEPARATOR, SUFFIX = b'{"events":[', b",", b"]}"
_FRAME_BYTES = len(PREFIX) + len(SUFFIX)


def cut(sizes: Iterable[int], max_events: int, max_body_bytes: int, used_bytes: int = 0) -> int:
    """Return how many events of these `sizes` (bytes, in order) fit a body that already holds `used_bytes` of events.

    An empty body always takes one event: an event that exceeds `max_body_bytes` is sent in a request of its own.
    """
    room = max_body_bytes - _FRAME_BYTES - used_bytes
    events = 0
    for size in islice(sizes, max_events):
        room -= size + len(SEPARATOR)
        if room < 0 and (events or used_bytes):
            break
        events += 1
    return events


def body(events: Sequence[bytes]) -> bytes:
    """Return the body of a request. The bytes of each event are unchanged."""
    return PREFIX + SEPARATOR.join(events) + SUFFIX

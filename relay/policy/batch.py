"""What goes into one request: how many of the waiting events fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

PREFIX, SEPARATOR, SUFFIX = b'{"events":[', b",", b"]}"
_FRAME_BYTES = len(PREFIX) + len(SUFFIX)


def cut(sizes: Iterable[int], max_events: int, max_body_bytes: int, used_bytes: int = 0) -> int:
    """How many of `sizes` (bytes, in order) fit a request body that already holds `used_bytes` of events.

    At least one when the body is empty: an event too large for any batch travels alone.
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
    """The request's body, each event byte for byte as it was accepted."""
    return PREFIX + SEPARATOR.join(events) + SUFFIX

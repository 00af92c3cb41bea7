"""Correct timestamps (`occurred_at`) that the relay inserted into events without one, when the events are sent.

Rules:
- Only inserted timestamps are corrected, never the `occurred_at` of an app.
- The corrected event has the length of the stored event.
- A timestamp that may be right is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from relay.outbox import Claimed
from relay.policy.true_time import EARLIEST_MS, WRONG_FROM_MS
from relay.runtime.clock import rfc3339

_TIME = b'{"occurred_at":"'
_ID_AND_TIME_CHARS = len('{"event_id":"550e8400-e29b-41d4-a716-446655440000","occurred_at":"')
_TIMESTAMP_CHARS = len("2026-11-23T08:00:00.000Z")


def corrected(body: bytes, true_ms: int, *, same_boot: bool) -> bytes:
    """Return an event with its inserted timestamp replaced by `true_ms`, its true Unix time in milliseconds, if wrong.

    For an event of another boot, `true_ms` is only an upper bound of the true time. The timestamp is then replaced only
    if it cannot be right.
    """
    # relay.event.reader inserts the timestamp at the start of the event, or after an inserted event_id.
    at = len(_TIME) if body.startswith(_TIME) else _ID_AND_TIME_CHARS
    timestamp = body[at : at + _TIMESTAMP_CHARS].decode()
    inserted_ms = int(datetime.fromisoformat(timestamp).timestamp() * 1000)
    late_ms = inserted_ms - true_ms
    wrong = abs(late_ms) > WRONG_FROM_MS if same_boot else inserted_ms < EARLIEST_MS or late_ms > WRONG_FROM_MS
    return body[:at] + rfc3339(true_ms).encode() + body[at + _TIMESTAMP_CHARS :] if wrong else body


def corrected_bodies(claimed: Claimed) -> Sequence[bytes]:
    """Return the bodies to send: the stored bytes, with wrong inserted timestamps corrected."""
    if not claimed.timestamps:
        return claimed.bodies
    bodies = list(claimed.bodies)
    for index, timestamp in claimed.timestamps.items():
        bodies[index] = corrected(bodies[index], timestamp.true_ms, same_boot=timestamp.same_boot)
    return bodies

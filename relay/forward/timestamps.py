"""The time that the relay puts into an event that has none, and its correction when the event is sent.

Rules: only what the relay put in is ever corrected, an app's own `occurred_at` never; the corrected event
is as long as the one that was stored; nothing is corrected that may have been right.
"""

from __future__ import annotations

from datetime import datetime

from relay.policy.true_time import EARLIEST_MS, WRONG_FROM_MS
from relay.runtime.clock import rfc3339

_TIME = b'{"occurred_at":"'
_ID_AND_TIME_CHARS = len('{"event_id":"550e8400-e29b-41d4-a716-446655440000","occurred_at":"')
_STAMP_CHARS = len("2026-11-23T08:00:00.000Z")


def corrected(body: bytes, true_ms: int, *, same_boot: bool) -> bytes:
    """An event that the relay has stamped, with the time at which it came by better knowledge: `true_ms`.

    Of an event of another boot `true_ms` is only the latest time that it may be: then a stamp is
    corrected only if it cannot be right.
    """
    # where relay.event.reader puts it: first, or right after an event_id that it had to make
    at = len(_TIME) if body.startswith(_TIME) else _ID_AND_TIME_CHARS
    stamp = body[at : at + _STAMP_CHARS].decode()
    stamped_ms = int(datetime.fromisoformat(stamp).timestamp() * 1000)
    late_ms = stamped_ms - true_ms
    wrong = abs(late_ms) > WRONG_FROM_MS if same_boot else stamped_ms < EARLIEST_MS or late_ms > WRONG_FROM_MS
    return body[:at] + rfc3339(true_ms).encode() + body[at + _STAMP_CHARS :] if wrong else body

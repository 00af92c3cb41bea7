"""Follow events over HTTP: one line of JSON when an event is stored, rejected, delivered, dropped or a dead letter.

Rules:
- A follower has a buffer of MAX_LINES. Beyond it, lines are skipped, and a line states their number.
- The lines show ids, types, devices and reasons, and no bodies, so that no operator token is needed.
- Dead letters are read from the outbox, which alone knows those that a response named earlier.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from relay.http.request import Request
from relay.http.response import Response, Stream, Write
from relay.ops.live import Live
from relay.ops.response import RequestRejected
from relay.outbox import Outbox, OutboxError, Selection
from relay.runtime.clock import Clock, rfc3339
from relay.runtime.event_feed import EventChange, EventFeed, described
from relay.runtime.log import hide_secrets

PATH = "/events/stream"
MAX_LINES = 1_000
EVERY_S = 0.2
KEEP_ALIVE_S = 5.0
"""Longest time without data: an empty line shows that the relay still runs."""
MESSAGE_CHARS = 500
_FIELD_CHARS = 100
_LETTERS_AT_ONCE = 100
_ALL = Selection(all=True)


class Tail:
    """The followers of one service. `live` limits their number and ends them."""

    def __init__(self, outbox: Outbox, feed: EventFeed, live: Live, clock: Clock) -> None:
        self._outbox = outbox
        self._feed = feed
        self._live = live
        self._clock = clock

    async def stream(self, request: Request) -> Response | Stream:
        """Return a stream of lines, of all events or of a device or type. Raises RequestRejected (400, 503)."""
        query = dict(request.url.query)
        device, event_type = query.pop("device", None), query.pop("type", None)
        if query:
            raise RequestRejected(400, f"unknown parameter {min(query)!r}: the parameters are device and type")
        lines = Lines(device, event_type, self._clock)
        return self._live.open(request, "application/x-ndjson", partial(self._send, lines))

    async def _send(self, lines: Lines, write: Write) -> None:
        self._feed.follow(lines.add)
        try:
            letters = NewDeadLetters(self._outbox)
            with suppress(OutboxError):
                await letters.read()
            idle_s = 0.0
            may_write = write(b"\n")
            while not await self._live.stops_within(EVERY_S):
                with suppress(OutboxError):  # The next attempt follows soon.
                    for change in await letters.read():
                        lines.add(change)
                idle_s = 0.0 if lines else idle_s + EVERY_S
                if may_write and lines:
                    may_write = write(lines.take())
                else:
                    may_write = write(b"\n" if may_write and idle_s >= KEEP_ALIVE_S else b"")
                    idle_s %= KEEP_ALIVE_S
            write(lines.take() + b'{"end":"the relay is stopping"}\n')
        finally:
            self._feed.unfollow(lines.add)


class Lines:
    """The lines that a follower has not received yet."""

    def __init__(self, device: str | None, event_type: str | None, clock: Clock) -> None:
        """`device` and `event_type` select events; None: any."""
        self._device = device
        self._type = event_type
        self._clock = clock
        self._lines: deque[bytes] = deque()
        self._skipped = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, change: EventChange) -> None:
        """Add the line of a change that is selected, or count it as skipped."""
        if self._device not in (None, change.device_id) or self._type not in (None, change.event_type):
            return
        if len(self._lines) >= MAX_LINES:
            self._skipped += 1
        else:
            self._lines.append(_line({"at": rfc3339(self._clock.wall_ms()), **_cut(change)}))

    def take(self) -> bytes:
        """Remove and return all lines, with the number of lines that were skipped after them."""
        text = b"".join(self._lines)
        self._lines.clear()
        if self._skipped:
            text += _line({"skipped": self._skipped})
            self._skipped = 0
        return text


class NewDeadLetters:
    """The dead letters that are stored from now on, as changes."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._seen = outbox.ledger().dead_lettered
        self._last_id: int | None = None

    async def read(self) -> list[EventChange]:
        """Return the new dead letters. Raises OutboxError if the outbox cannot be read now."""
        if self._last_id is None:
            self._last_id = await newest_id(self._outbox)
        stored = self._outbox.ledger().dead_lettered
        if stored == self._seen:
            return []
        found = []
        while letters := await self._outbox.dead_letters(_ALL, _LETTERS_AT_ONCE, self._last_id):
            self._last_id = letters[-1].id
            for letter in letters:
                change = described("dead_lettered", letter.body, letter.reason, letter.message)
                tenant_id, platform, device_id = letter.device_key
                found.append(
                    change._replace(event_id=letter.event_id, tenant=tenant_id, platform=platform, device_id=device_id)
                )
        self._seen = stored
        return found


async def newest_id(outbox: Outbox) -> int:
    """Return the id of the newest dead letter, 0 without any. Ids ascend, so that a search by halving finds it."""
    low, high = 0, 1
    while await outbox.dead_letters(_ALL, 1, high):
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        if letters := await outbox.dead_letters(_ALL, 1, middle):
            low = letters[0].id
        else:
            high = middle
    return low


def _cut(change: EventChange) -> dict[str, Any]:
    fields = change._asdict()
    return {
        name: value[: MESSAGE_CHARS if name == "message" else _FIELD_CHARS] if isinstance(value, str) else value
        for name, value in fields.items()
    }


def _line(data: dict[str, Any]) -> bytes:
    return hide_secrets(msgspec.json.encode(data).decode()).encode() + b"\n"

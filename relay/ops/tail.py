"""Follow events over HTTP: one line of JSON when an event is stored, rejected, delivered, dropped or a dead letter.

Rules:
- A follower has a buffer of MAX_LINES. Beyond it, lines are skipped, and a line states their number.
- With `recent`, the latest changes before the request come first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import partial

from relay.http.request import Request
from relay.http.response import Response, Stream, Write
from relay.ops.event_log import EventLog, NewDeadLetters, cut, encoded, line_of
from relay.ops.live import Live
from relay.ops.response import RequestRejected, bytes_response
from relay.outbox import Outbox, OutboxError
from relay.runtime.clock import Clock
from relay.runtime.event_feed import EventChange, EventFeed

PATH = "/events/stream"
MAX_LINES = 1_000
EVERY_S = 0.2
KEEP_ALIVE_S = 5.0
"""Longest time without data: an empty line shows that the relay still runs."""


class Tail:
    """The followers of one service. `live` limits their number and ends them."""

    def __init__(self, outbox: Outbox, event_log: EventLog, feed: EventFeed, live: Live, clock: Clock) -> None:
        self._outbox = outbox
        self._log = event_log
        self._feed = feed
        self._live = live
        self._clock = clock

    async def stream(self, request: Request) -> Response | Stream:
        """Return a stream of lines, of all events or of a device or type. Raises RequestRejected (400, 503)."""
        query = dict(request.url.query)
        device, event_type = query.pop("device", None), query.pop("type", None)
        recent = query.pop("recent", "false")
        if query:
            raise RequestRejected(400, f"unknown parameter {min(query)!r}: the parameters are device, type and recent")
        if recent not in ("true", "false") or (recent == "true" and (device, event_type) != (None, None)):
            raise RequestRejected(400, f"recent is true, without device and type, or false, not {recent[:40]!r}")
        lines = Lines(device, event_type, self._clock)
        return self._live.open(request, "application/x-ndjson", partial(self._send, lines, recent == "true"))

    async def types(self, _: Request) -> Response:
        """Return the number of changes of each event type since the start."""
        await self._log.read_letters()
        return bytes_response(encoded({"success": True, **self._log.types()}), "application/json")

    async def _send(self, lines: Lines, recent: bool, write: Write) -> None:
        letters = NewDeadLetters(self._outbox)
        if recent:
            await self._log.read_letters()
        with suppress(OutboxError):
            await letters.read()
        lines.add_recent(self._log.lines if recent else ())
        self._feed.follow(lines.add)
        try:
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

    def add_recent(self, lines: Iterable[bytes]) -> None:
        """Add lines of earlier changes."""
        self._lines.extend(lines)

    def add(self, change: EventChange) -> None:
        """Add the line of a change that is selected, or count it as skipped."""
        if self._device not in (None, change.device_id) or self._type not in (None, change.event_type):
            return
        if len(self._lines) >= MAX_LINES:
            self._skipped += 1
        else:
            self._lines.append(line_of(cut(change), self._clock))

    def take(self) -> bytes:
        """Remove and return all lines, with the number of lines that were skipped after them."""
        text = b"".join(self._lines)
        self._lines.clear()
        if self._skipped:
            text += encoded({"skipped": self._skipped})
            self._skipped = 0
        return text

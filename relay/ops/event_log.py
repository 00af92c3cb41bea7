"""The latest changes of events, and the number of changes of each event type, since the start of the process.

Rules:
- Reading an event takes microseconds, so that at most READ_AT_ONCE changes are read in each period of PERIOD_S. The
  data states whether all were.
- At most MAX_TYPES types and MAX_LINES lines are stored: at most 3 MB of the longest texts (`test_event_log`).
- The lines show ids, types, devices and reasons, and no bodies, so that no operator token is needed.
- Dead letters are read from the outbox, which alone knows those that a response named earlier.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, get_args

import msgspec

from relay.outbox import Outbox, OutboxError, Selection
from relay.runtime.clock import Clock, rfc3339
from relay.runtime.event_feed import Change, EventChange, EventFeed, described
from relay.runtime.log import hide_secrets

PERIOD_S = 5.0
READ_AT_ONCE = 1_000
MAX_LINES = 200
MAX_TYPES = 200
_MESSAGE_CHARS = 500
_FIELD_CHARS = 100
_LETTERS_AT_ONCE = 100
_ALL = Selection(all=True)


class EventLog:
    """The changes of one relay. `keep` reads them, `lines` and `types` return them."""

    def __init__(self, outbox: Outbox, feed: EventFeed, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self._letters = NewDeadLetters(outbox)
        self._left = 0
        """Number of changes to read until the next period. The log follows the feed while it is positive."""
        self._is_complete = True
        self._lines: deque[bytes] = deque(maxlen=MAX_LINES)
        self._counts: dict[str, Counter[Change]] = {}
        self._problems: dict[str, tuple[str, str]] = {}
        """The device and the message of the latest rejection or dead letter of a type."""
        self._others = 0
        """Number of changes of further types."""

    @property
    def lines(self) -> Sequence[bytes]:
        """The lines of the latest changes, oldest first."""
        return self._lines

    def types(self) -> dict[str, Any]:
        """Return the data of /event-types, the type with most stored events first."""
        counted = sorted(self._counts.items(), key=lambda each: -each[1]["stored"])
        return {
            "types": [
                {
                    "event_type": name,
                    **{change: counts[change] for change in get_args(Change)},
                    "problem_device_id": self._problems.get(name, ("", ""))[0],
                    "problem": self._problems.get(name, ("", ""))[1],
                }
                for name, counts in counted
            ],
            "further_types": self._others,
            "complete": self._is_complete,
        }

    async def keep(self) -> None:
        """Read changes. Never returns."""
        while True:
            self._next_period()
            await self.read_letters()
            await asyncio.sleep(PERIOD_S)

    async def read_letters(self) -> None:
        """Read the dead letters that are new, if the outbox can be read now."""
        with suppress(OutboxError):
            for change in await self._letters.read():
                self._add(change)

    def _next_period(self) -> None:
        if not self._left:
            self._feed.follow(self._add_followed)
        self._left = READ_AT_ONCE

    def _add_followed(self, change: EventChange) -> None:
        self._add(change)
        self._left -= 1
        if not self._left:
            self._is_complete = False
            self._feed.unfollow(self._add_followed)

    def _add(self, change: EventChange) -> None:
        line = cut(change)
        self._lines.append(line_of(line, self._clock))
        name = line["event_type"]
        if name not in self._counts and len(self._counts) >= MAX_TYPES:
            self._others += 1
            return
        self._counts.setdefault(name, Counter())[change.change] += 1
        if change.change in ("rejected", "dead_lettered"):
            self._problems[name] = (line["device_id"], line["message"])


class NewDeadLetters:
    """The dead letters that are stored from now on, as changes."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._seen: int | None = None
        self._last_id = 0

    async def read(self, most: int = READ_AT_ONCE) -> list[EventChange]:
        """Return the next new dead letters, about `most`. Raises OutboxError if the outbox cannot be read now."""
        stored = self._outbox.ledger().dead_lettered
        if self._seen is None:
            self._last_id = await newest_id(self._outbox)
            self._seen = stored
        found: list[EventChange] = []
        if stored == self._seen:
            return found
        while len(found) < most:
            letters = await self._outbox.dead_letters(_ALL, _LETTERS_AT_ONCE, self._last_id)
            if not letters:
                self._seen = stored
                break
            self._last_id = letters[-1].id
            for letter in letters:
                change = described("dead_lettered", letter.body, letter.reason, letter.message)
                tenant_id, platform, device_id = letter.device_key
                found.append(
                    change._replace(event_id=letter.event_id, tenant=tenant_id, platform=platform, device_id=device_id)
                )
        return found


async def newest_id(outbox: Outbox) -> int:
    """Return the id of the newest dead letter, 0 without any."""
    letters = await outbox.dead_letters(Selection(all=True, newest_first=True), 1)
    return letters[0].id if letters else 0


def cut(change: EventChange) -> dict[str, Any]:
    """Return the fields of a line, with a limited length."""
    fields = change._asdict()
    return {
        name: value[: _MESSAGE_CHARS if name == "message" else _FIELD_CHARS] if isinstance(value, str) else value
        for name, value in fields.items()
    }


def line_of(fields: dict[str, Any], clock: Clock) -> bytes:
    """Return the line of a change that happens now."""
    return encoded({"at": rfc3339(clock.wall_ms()), **fields})


def encoded(data: dict[str, Any]) -> bytes:
    return hide_secrets(msgspec.json.encode(data).decode()).encode() + b"\n"

"""Pass what happens to events to followers (`relay tail`, the event log). Without a follower nothing is prepared.

A follower is called on the event loop. It must neither block nor raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, repeat
from typing import Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

import msgspec

Change: TypeAlias = Literal["stored", "rejected", "delivered", "dead_lettered", "dropped"]


class EventChange(NamedTuple):
    """What happened to one event. A field is empty if it is unknown, as after the rejection of an unreadable body."""

    change: Change
    event_id: str = ""
    event_type: str = ""
    tenant: int | None = None
    platform: str = ""
    device_id: str = ""
    reason: str = ""
    message: str = ""


class _Body(msgspec.Struct):
    """The fields that identify an event, of any type because the event may be invalid."""

    event_id: Any = None
    event_type: Any = None
    tenant_id: Any = None
    source: Any = None


class EventFeed:
    """The followers of one relay."""

    def __init__(self) -> None:
        self._followers: list[Callable[[EventChange], None]] = []

    @property
    def is_followed(self) -> bool:
        return bool(self._followers)

    def follow(self, follower: Callable[[EventChange], None]) -> None:
        """Call `follower` for each change from now on."""
        self._followers = [*self._followers, follower]

    def unfollow(self, follower: Callable[[EventChange], None]) -> None:
        """Do not call `follower` any more, also if it calls this while a change is reported."""
        self._followers = [each for each in self._followers if each != follower]

    def changed(self, change: Change, bodies: Iterable[bytes], reason: str = "", message: str = "") -> None:
        """Report the same change of each event, while there is a follower."""
        if self._followers:
            for body in bodies:
                self.publish(described(change, body, reason, message))
                if not self._followers:
                    return

    def dropped(
        self, reason: str, events: Iterable[tuple[bytes, tuple[int, str, str] | None]], bodies: Iterable[bytes]
    ) -> None:
        """Report dropped events by id and device, and the type of the first ones, whose bodies were read."""
        if self._followers:
            for (event_id, key), body in zip(events, chain(bodies, repeat(b"")), strict=False):
                change = described("dropped", body, reason)
                if event_id:
                    change = change._replace(event_id=str(UUID(bytes=event_id)))
                if key:
                    change = change._replace(tenant=key[0], platform=key[1], device_id=key[2])
                self.publish(change)

    def publish(self, change: EventChange) -> None:
        for follower in self._followers:
            follower(change)


def described(change: Change, body: bytes, reason: str = "", message: str = "") -> EventChange:
    """Return the change of the event in `body`, which may be anything."""
    try:
        event = msgspec.json.decode(body, type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return EventChange(change, reason=reason, message=message)
    source = event.source if isinstance(event.source, dict) else {}
    is_number = isinstance(event.tenant_id, int | float) and not isinstance(event.tenant_id, bool)
    is_whole = is_number and event.tenant_id == int(event.tenant_id)
    return EventChange(
        change,
        _text(event.event_id).lower(),
        _text(event.event_type),
        int(event.tenant_id) if is_whole else None,
        _text(source.get("platform")),
        _text(source.get("device_id")),
        reason,
        message,
    )


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""

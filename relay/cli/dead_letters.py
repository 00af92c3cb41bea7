"""The interface of `relay dead` to dead letters, in a running relay or on the disk.

A letter is the JSON object of `GET /dead-letters`. Requeue and discard use ids: an event that the upstream rejects
again becomes a new dead letter, which the same command must not requeue in an endless loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

from relay.cli.client import RelayClient
from relay.cli.shape import Optional

PATH = "/dead-letters"
PAGE = 100
"""Maximum number of letters per request."""

Action = Literal["requeue", "discard"]
DONE: Mapping[Action, str] = {"requeue": "requeued", "discard": "discarded"}
"""The name of each action's count in responses and output."""

Letter = dict[str, Any]
_TEXTS = ("event_type", "reason", "platform", "device_id", "dead_at", "message")
LETTER = {"id": int, "tenant": int, **dict.fromkeys(_TEXTS, str)}
"""Shape of the fields that the commands use."""


class Filter(NamedTuple):
    """Select the letters that match every given field, or all letters if no field is given."""

    device: str | None = None
    reason: str | None = None
    search: str | None = None
    """A text anywhere in the letter (case-insensitive)."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The dead letters of one type with the same reason and message."""

    count: int
    event_type: str
    reason: str
    first_at: str
    last_at: str
    message: str


def causes(letters: Iterable[Letter]) -> list[Cause]:
    """Group letters in order of their ids by cause, the most frequent cause first."""
    found: dict[tuple[str, str, str], Cause] = {}
    for letter in letters:
        event_type, reason, message, at = (letter[name] for name in ("event_type", "reason", "message", "dead_at"))
        cause = found.get((event_type, reason, message)) or Cause(0, event_type, reason, at, at, message)
        found[event_type, reason, message] = replace(cause, count=cause.count + 1, last_at=at)
    return sorted(found.values(), key=lambda cause: -cause.count)


class Page(NamedTuple):
    """Part of a listing."""

    letters: Sequence[Letter]
    next_after: int | None
    """The id after which the next page starts, None at the end. A page of a search may be empty before the end."""


class DeadLetters(Protocol):
    """Access to dead letters. Every method raises CommandFailed if the relay or the outbox fails."""

    def page(self, chosen: Filter, after: int, *, with_bodies: bool) -> Page:
        """Return up to PAGE letters with id > `after`, in order of their ids."""

    def find(self, letter_id: int) -> Letter | None:
        """Return the letter, or None if it does not exist."""

    def move(self, action: Action, ids: Sequence[int]) -> int:
        """Requeue or delete at most PAGE letters. Return the number of letters that existed."""


class RemoteDeadLetters:
    """The dead letters of a running relay."""

    def __init__(self, client: RelayClient) -> None:
        self._client = client

    def page(self, chosen: Filter, after: int, *, with_bodies: bool) -> Page:
        bodies = None if with_bodies else "false"
        reply = self._client.get(PATH, **chosen._asdict(), bodies=bodies, limit=PAGE, after=after)
        data = self._client.expect(reply, {"dead_letters": [LETTER], "next_after": Optional(int)})
        if data["next_after"] is not None and data["next_after"] <= after:
            raise self._client.not_a_relay(f"next_after is {data['next_after']}, expected more than {after}")
        return Page(data["dead_letters"], data["next_after"])

    def find(self, letter_id: int) -> Letter | None:
        reply = self._client.get(f"{PATH}/{letter_id}")
        if reply.status == 404:
            return None
        letter: Letter = self._client.expect(reply, {"dead_letter": LETTER})["dead_letter"]
        return letter

    def move(self, action: Action, ids: Sequence[int]) -> int:
        done = DONE[action]
        moved: int = self._client.expect(self._client.post(f"{PATH}/{action}", {"ids": ids}), {done: int})[done]
        return moved


def each(letters: DeadLetters, chosen: Filter, *, with_bodies: bool = True) -> Iterator[Letter]:
    """Yield all matching letters in order of their ids, and read one page at a time."""
    after: int | None = 0
    while after is not None:
        page, after = letters.page(chosen, after, with_bodies=with_bodies)
        yield from page

"""The dead letters as the command line works on them, wherever they are: in a running relay or on the disk.

A letter is the JSON object of `GET /dead-letters`. What is requeued or discarded is named by id: what
the upstream refuses a second time is a new dead letter, and must not be requeued in an endless round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from relay.cli.client import RelayClient
from relay.cli.shape import Optional

PATH = "/dead-letters"
PAGE = 100
"""Letters asked for, or moved, at once."""

Letter = dict[str, Any]
LETTER = {"id": int, "reason": str, "platform": str, "device_id": str, "dead_at": str, "words": str}
"""The fields that commands use."""


class Filter(NamedTuple):
    """Those that match every given field; all if none is."""

    device: str | None = None
    reason: str | None = None
    search: str | None = None
    """A text anywhere in the letter, in any case."""


class Page(NamedTuple):
    letters: Sequence[Letter]
    next_after: int | None
    """The id to go on after, None at the end; a search may find nothing on a page and more on the next."""


class DeadLetters(Protocol):
    """Raises Failed where the relay or the outbox cannot."""

    def page(self, chosen: Filter, after: int, *, with_bodies: bool) -> Page:
        """Up to PAGE letters with id > `after`, by id."""

    def find(self, letter_id: int) -> Letter | None: ...

    def requeue(self, ids: Sequence[int]) -> int:
        """How many of these (at most PAGE) were there, and wait again now."""

    def discard(self, ids: Sequence[int]) -> int:
        """How many of these (at most PAGE) were there, and are gone now."""


class RemoteDeadLetters:
    """Those of a running relay."""

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

    def requeue(self, ids: Sequence[int]) -> int:
        return self._move("requeue", "requeued", ids)

    def discard(self, ids: Sequence[int]) -> int:
        return self._move("discard", "discarded", ids)

    def _move(self, path: str, done: str, ids: Sequence[int]) -> int:
        moved: int = self._client.expect(self._client.post(f"{PATH}/{path}", {"ids": ids}), {done: int})[done]
        return moved


def each(letters: DeadLetters, chosen: Filter, *, with_bodies: bool = True) -> Iterator[Letter]:
    """All that match, by id, a page at a time."""
    after: int | None = 0
    while after is not None:
        page, after = letters.page(chosen, after, with_bodies=with_bodies)
        yield from page

"""Dead letters over HTTP: selection by a request, and their JSON representation.

Rules: a request selects dead letters explicitly. A misspelt field is an error and never selects all dead letters. One
request moves, returns or searches a limited number, so that a caller can show its progress.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
from aiohttp import hdrs

from relay.http.request import Request
from relay.ops.response import RequestRejected
from relay.outbox import DeadLetter, Outbox, Selection
from relay.runtime.event_feed import described
from relay.runtime.metrics import DEAD_REASONS

MAX_SHOWN = 100
"""Dead letters in one response: 6.4 MB with events of the maximum size, 64 KiB."""
MAX_MOVED = 1_000
"""Dead letters requeued or discarded by one request."""
MAX_SEARCHED = 1_000
"""Dead letters that one request searches for a text."""
MAX_SEARCH_CHARS = 200
MAX_ID = 2**63 - 1

Id = Annotated[int, msgspec.Meta(ge=1, le=MAX_ID)]


class DeadLetterChoice(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a requeue or a discard. Select the dead letters that match every given field, or set only `all`."""

    ids: Annotated[list[Id], msgspec.Meta(min_length=1, max_length=MAX_MOVED)] | None = None
    device: str | None = None
    reason: str | None = None
    all: bool = False
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_MOVED)] = MAX_MOVED


def read_choice(request: Request) -> tuple[Selection, int]:
    """Return the selection of a POST and its limit. Raises RequestRejected (400, 415)."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
        raise RequestRejected(415, "send the body without Content-Encoding", {hdrs.ACCEPT_ENCODING: "identity"})
    try:
        choice = msgspec.json.decode(request.body, type=DeadLetterChoice)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestRejected(400, f"the body is not a choice of dead letters: {error}") from error
    named = choice.ids is not None or choice.device is not None or choice.reason is not None
    if named == choice.all:
        raise RequestRejected(400, 'select by "ids", "device" or "reason", or set only "all": true')
    _require_reason(choice.reason)
    return Selection(tuple(choice.ids or ()), choice.device, choice.reason, choice.all), choice.limit


_TURN_BYTES = 64 << 10
"""Bytes of bodies searched at once, in about a millisecond. Requests of apps run in between."""
_PAGE_BYTES = 1 << 20
"""A page ends with the body that reaches this size. Encoding a larger page as JSON would delay requests of apps."""


class Query(NamedTuple):
    """The parameters of a GET."""

    selection: Selection
    search: str
    """A text anywhere in the letter (case-insensitive); "" matches all letters."""
    limit: int
    after: int
    with_bodies: bool


def read_query(request: Request) -> Query:
    """Return the parameters of a GET. Raises RequestRejected (400)."""
    query = dict(request.url.query)
    device, reason = query.pop("device", None), query.pop("reason", None)
    search, bodies = query.pop("search", ""), query.pop("bodies", "true")
    limit = _number(query.pop("limit", str(MAX_SHOWN)), "limit", 1, MAX_SHOWN)
    after = _number(query.pop("after", "0"), "after", 0, MAX_ID)
    newest = query.pop("newest", "false")
    if query:
        raise RequestRejected(
            400,
            f"unknown parameter {min(query)!r}: "
            "the parameters are device, reason, search, bodies, newest, limit and after",
        )
    _require_reason(reason)
    for name, value in (("bodies", bodies), ("newest", newest)):
        if value not in ("true", "false"):
            raise RequestRejected(400, f"{name} must be true or false, not {value[:40]!r}")
    if len(search) > MAX_SEARCH_CHARS:
        raise RequestRejected(400, f"search has {len(search)} characters, more than {MAX_SEARCH_CHARS}")
    every = device is None and reason is None
    selection = Selection((), device, reason, every, newest_first=newest == "true")
    return Query(selection, search, limit, after, bodies == "true")


async def found(outbox: Outbox, query: Query) -> tuple[list[DeadLetter], int | None]:
    """Return a page of matching letters, and the id after which the next page starts (None at the end).

    A page before the end may be short or empty.
    """
    letters: list[DeadLetter] = []
    after, needle, looked_at = query.after, query.search.casefold(), 0
    found_bytes = turn_bytes = 0
    while looked_at < MAX_SEARCHED:
        page = await outbox.dead_letters(query.selection, query.limit, after)
        for letter in page:
            after = letter.id
            turn_bytes += len(letter.body)
            if turn_bytes > _TURN_BYTES:
                turn_bytes = 0
                await asyncio.sleep(0)
            if not needle or needle in _text(letter):
                letters.append(letter)
                found_bytes += len(letter.body) if query.with_bodies else 0
                if len(letters) == query.limit or found_bytes >= _PAGE_BYTES:
                    return letters, after
        if len(page) < query.limit:
            return letters, None
        looked_at += len(page)
    return letters, after


def read_id(text: str) -> Selection:
    """Return the selection of the dead letter with this id. Raises RequestRejected (404)."""
    number = _whole(text)
    if number is None or not 1 <= number <= MAX_ID:
        raise RequestRejected(404, f"no dead letter has the id {text[:40]!r}")
    return Selection(ids=(number,))


def shown(letter: DeadLetter, *, with_body: bool = True) -> dict[str, Any]:
    """Return a dead letter as JSON, with the event in `body`, or in `body_base64` if its bytes are not UTF-8."""
    tenant_id, platform, device_id = letter.device_key
    data = {
        "id": letter.id,
        "event_id": letter.event_id,
        "event_type": described("dead_lettered", letter.body).event_type,
        "tenant": tenant_id,
        "platform": platform,
        "device_id": device_id,
        "reason": letter.reason,
        "status": letter.status,
        "message": letter.message,
        "dead_at": letter.dead_at,
    }
    if not with_body:
        return data
    try:
        return {**data, "body": letter.body.decode()}
    except UnicodeDecodeError:
        return {**data, "body_base64": base64.b64encode(letter.body).decode()}


def _text(letter: DeadLetter) -> str:
    """Return the searchable text of a letter, case-folded."""
    fields: Sequence[object] = (
        letter.id,
        letter.event_id,
        *letter.device_key,
        letter.reason,
        letter.status,
        letter.message,
    )
    return "\n".join([*map(str, fields), letter.body.decode(errors="replace")]).casefold()


def _number(text: str, name: str, least: int, most: int) -> int:
    number = _whole(text)
    if number is None or not least <= number <= most:
        raise RequestRejected(400, f"{name} must be a whole number from {least} to {most}, not {text[:40]!r}")
    return number


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_ID)) else None


def _require_reason(reason: str | None) -> None:
    if reason is not None and reason not in DEAD_REASONS:
        raise RequestRejected(400, f"unknown reason {reason[:40]!r}: the reasons are {', '.join(DEAD_REASONS)}")

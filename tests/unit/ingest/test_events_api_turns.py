"""Requests of one turn of the event loop are appended together, with the same responses as alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from relay.config import Http
from relay.event.reader import BodyKind, Event, EventDefaults, Reader, Reading, Rejection
from relay.http.request import BodyHandler, Reply, Request
from relay.http.response import Response, Stream
from relay.ingest.events_api import EVENTS_PATH, HttpIngest
from relay.outbox import OutboxFull
from relay.runtime.metrics import REJECT_REASONS, Metrics
from yarl import URL

from tests.support.event_loop import turns
from tests.support.ingest_harness import EVENT, HandClock, ScriptedOutbox, until

NEW_EVENT_ID = "0b0b0b0b-0b0b-4b0b-8b0b-0b0b0b0b0b0b"
LINES = "application/x-ndjson"


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def body(number: int, **fields: Any) -> bytes:
    return compact(EVENT | {"event_id": f"00000000-0000-4000-8000-{number:012x}"} | fields)


def number_of(event: Event) -> int:
    return int.from_bytes(event.event_id[10:])


class ScriptedReader(Reader):
    """Raises an exception for a body that contains "bug"."""

    def __init__(self) -> None:
        super().__init__(EventDefaults(), 64 << 10, lambda: NEW_EVENT_ID, lambda: "2026-01-01T00:00:00.000Z")
        self.long_is_read: Callable[[], None] = lambda: None

    def reading(self, body: bytes, kind: BodyKind) -> Reading:
        read = yield from super().reading(body, kind)
        self.long_is_read()
        return read

    def read(self, body: bytes, kind: BodyKind) -> list[Event] | Rejection:
        assert b"bug" not in body, "a bug"
        return super().read(body, kind)


class Ingest:
    """HTTP ingest as a connection calls it."""

    def __init__(self, outbox: ScriptedOutbox | None = None) -> None:
        self.outbox = outbox or ScriptedOutbox()
        self.metrics = Metrics()
        self.reader = ScriptedReader()
        self.http = HttpIngest(self.reader, self.outbox, Http(), self.metrics)
        self.responses: dict[int, Response | Exception] = {}
        """By the number of the request, in the order of the answers."""
        self.bugs: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.bugs.append(context["exception"]))

    def handler(self, content_type: str = "") -> BodyHandler:
        headers = CIMultiDictProxy(CIMultiDict({"Content-Type": content_type}))
        handler = self.http.handle(Request("POST", URL(EVENTS_PATH), headers, None))
        assert isinstance(handler, BodyHandler)
        return handler

    def post(self, number: int, body: bytes, content_type: str = "") -> None:
        try:
            self.handler(content_type).handle(body, self._store_response(number))
        except AssertionError as bug:  # The connection replies to an exception, too.
            self.responses[number] = bug

    def _store_response(self, number: int) -> Reply:
        def store(response: Response | Stream | Exception) -> None:
            assert not isinstance(response, Stream)
            self.responses[number] = response

        return store

    def post_each(self, bodies: Sequence[bytes]) -> None:
        for number, each in enumerate(bodies):
            self.post(number, each)

    @property
    def statuses(self) -> dict[int, int]:
        return {number: each.status for number, each in sorted(self.responses.items()) if isinstance(each, Response)}

    def counts(self) -> dict[str, float | None]:
        value = self.metrics.registry.get_sample_value
        names = ("received", "accepted", "duplicate")
        return {name: value(f"relay_events_{name}_total", {"transport": "http"}) for name in names} | {
            reason: value("relay_events_rejected_total", {"transport": "http", "reason": reason})
            for reason in REJECT_REASONS
        }


async def test_events_of_one_turn_are_appended_in_one_call_in_order_of_arrival() -> None:
    ingest = Ingest()
    ingest.post_each([body(number) for number in range(9)])
    assert ingest.outbox.appends == []
    await turns(5)
    assert len(ingest.outbox.appends) == 1
    assert list(map(number_of, ingest.outbox.stored)) == list(range(9))
    assert list(ingest.responses) == list(range(9))
    assert set(ingest.statuses.values()) == {202}
    assert (ingest.counts()["received"], ingest.counts()["accepted"]) == (9, 9)


async def test_a_rejection_is_sent_to_its_own_request_only() -> None:
    ingest = Ingest()
    bodies = [body(number) for number in range(8)]
    bodies[2] = b"no event"
    bodies[5] = body(5, tenant_id=0)
    ingest.post_each(bodies)
    await turns(5)
    assert ingest.statuses == {0: 202, 1: 202, 2: 400, 3: 202, 4: 202, 5: 422, 6: 202, 7: 202}
    assert list(map(number_of, ingest.outbox.stored)) == [0, 1, 3, 4, 6, 7]
    counts = ingest.counts()
    assert [counts[name] for name in ("received", "accepted", "malformed", "invalid")] == [8, 6, 1, 1]


async def test_an_exception_in_reading_a_body_affects_no_other_request() -> None:
    ingest = Ingest()
    bodies = [body(number) for number in range(8)]
    bodies[3] = body(3, event_type="bug")
    ingest.post_each(bodies)
    await turns(5)
    assert ingest.statuses == dict.fromkeys([0, 1, 2, 4, 5, 6, 7], 202)
    assert isinstance(ingest.responses[3], AssertionError)


async def test_an_exception_in_sending_a_rejection_affects_no_other_request() -> None:
    ingest = Ingest()
    take = ingest.handler().handle
    bug = ZeroDivisionError("a bug")

    def fail(_: Response | Stream | Exception) -> None:
        raise bug

    ingest.post(0, body(0))
    take(b"no event", fail)
    ingest.post(2, body(2))
    await turns(5)
    assert ingest.statuses == {0: 202, 2: 202}
    assert ingest.bugs == [bug]


async def test_events_that_fit_are_stored_when_the_outbox_has_no_room_for_all() -> None:
    ingest = Ingest(ScriptedOutbox(error=OutboxFull("the outbox is full"), room_events=6))
    ingest.post_each([body(number) for number in range(8)])
    await turns(5)
    assert list(ingest.statuses.values()) == [202] * 6 + [503] * 2
    assert (ingest.counts()["received"], ingest.counts()["full"]) == (8, 2)


async def test_the_order_is_the_same_for_bodies_read_in_another_way() -> None:
    ingest = Ingest()
    ingest.post(0, body(0))
    ingest.post(1, body(1) + b"\n" + body(2), LINES)
    ingest.post(2, body(3))
    ingest.post(3, compact([EVENT | {"event_id": json.loads(body(number))["event_id"]} for number in (4, 5)]))
    ingest.post(4, body(6))
    await turns(5)
    assert list(map(number_of, ingest.outbox.stored)) == list(range(7))
    assert len(ingest.outbox.appends) == 1


async def test_a_long_body_is_appended_after_the_bodies_that_arrived_while_it_was_read() -> None:
    ingest = Ingest()
    numbers = count(100)
    posted: list[int] = []
    before: list[int] = []

    def post_one() -> None:
        """In each turn, until the long one is read, one that waits for the turn's end."""
        if 0 not in ingest.responses:
            posted.append(next(numbers))
            ingest.post(posted[-1], body(posted[-1]))
            asyncio.get_running_loop().call_soon(post_one)

    post_one()
    ingest.reader.long_is_read = lambda: before.extend([*posted, posted[-1] + 1])  # what it is, is told a turn later
    ingest.post(0, compact([json.loads(body(number)) for number in range(100)]))
    await until(lambda: 0 in ingest.responses)
    await turns(5)
    stored = list(map(number_of, ingest.outbox.stored))
    assert stored == before + list(range(100)) + posted[len(before) :]


async def test_the_reader_may_be_replaced_between_turns() -> None:
    ingest = Ingest()
    ingest.post_each([body(number) for number in range(6)])
    await turns(5)
    ingest.http.reader = Reader(EventDefaults(), 10, HandClock().new_event_id, lambda: "")
    ingest.post_each([body(number) for number in range(6)])
    await turns(5)
    assert list(ingest.statuses.values()) == [413] * 6


POSTS = [
    *[(body(number), "") for number in range(6)], (body(7, occurred_at=None), ""), (body(8, more=1), ""),
    (compact({k: v for k, v in EVENT.items() if k != "event_id"}), ""), (compact([EVENT, EVENT]), ""),
    (compact({"events": [EVENT]}), ""), (b"", ""), (b"[]", ""), (b"{", ""), (b"\xff", ""), (body(9) + b"\n", ""),
    (body(10) + b"\n" + body(11), ""), (body(12) + b"\n" + body(13), LINES), (body(14)[:-1], LINES),
    (b" " + body(15), ""), (body(16, event_type="\0"), ""), (body(17).replace(b"tv", b"\\ud800"), ""),
    (body(18)[:40], ""), (body(18)[40:] + b"\n" + body(19), ""), (body(20, context={"a": "x" * 20_000}), ""),
    (body(21, event_id="00000000-0000-4000-8000-00000000001"), ""), (b"bug", ""),
]  # fmt: skip


@settings(max_examples=150)
@given(st.lists(st.sampled_from(POSTS[:6]) | st.sampled_from(POSTS), min_size=1, max_size=20))
def test_many_requests_in_one_turn_get_the_same_responses_as_in_many_turns(posts: list[tuple[bytes, str]]) -> None:
    assert asyncio.run(outcome(posts, in_one_turn=True)) == asyncio.run(outcome(posts, in_one_turn=False))


async def outcome(posts: Sequence[tuple[bytes, str]], *, in_one_turn: bool) -> tuple[Any, ...]:
    """What is answered, kept and counted; long bodies are read over several turns, so their place is left open."""
    ingest = Ingest()
    for number, (sent, content_type) in enumerate(posts):
        ingest.post(number, sent, content_type)
        if not in_one_turn:
            await until(lambda: number in ingest.responses)  # noqa: B023
    await until(lambda: len(ingest.responses) == len(posts))
    stored = [(event.event_id, event.body) for event in ingest.outbox.stored]
    short = [each for each in stored if len(each[1]) < 16_384]
    responses = [
        (response.raw if isinstance(response, Response) else type(response))
        for _, response in sorted(ingest.responses.items())
    ]
    return responses, short, sorted(stored), ingest.counts()

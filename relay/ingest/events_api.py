"""Serve the events API: append the events of HTTP requests to the outbox.

Rules:
1.  The response is 202 only after the outbox stored the events.
2.  A request is stored as a whole or not at all.
3.  An invalid request gets a 4xx response, never a 5xx.
4.  Headers of the app that the relay does not need, such as an API key, are neither read nor stored.

The listener checks hosts, origins and timeouts; the event reader checks events. The path of a plain POST is short:
responses are prepared in advance, and requests are not logged. The events of one turn of the event loop are appended
together (see `append_coalescer`). Bodies larger than `_READ_AT_ONCE_BYTES` are read in steps (see `long_reads`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator, Mapping
from functools import lru_cache, partial
from typing import Literal
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.hdrs import CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT
from aiohttp.http import RawRequestMessage

from relay.config import Http
from relay.event.reader import BodyKind, Event, Reader, Reading, Rejection
from relay.http.body import read_body
from relay.http.content_coding import InflateError, inflate_at_once, inflating
from relay.http.head_cache import BodyHandler, Reply
from relay.http.response import RETRY_LATER, Response, error_response
from relay.ingest.append_coalescer import AppendCoalescer, call_guarded
from relay.ingest.content_type import (
    BodyType,
    body_type,
    content_coding,
    wrong_charset,
    wrong_coding,
    wrong_type,
)
from relay.ingest.long_reads import LongReads
from relay.outbox import Outbox, OutboxError, OutboxFull
from relay.runtime.metrics import REJECT_REASONS, Metrics

EVENTS_PATH = "/v1/events"
_EVENTS_PATHS = (EVENTS_PATH, EVENTS_PATH + "/")
"""The upstream's framework ignores a trailing slash, so the relay does, too."""

_CACHED_TYPES = 256
_READ_AT_ONCE_BYTES = 16_384
"""Largest body that is read in one step: at most 900 events, which take a few milliseconds."""
_EVENT_ID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_REJECTION_STATUS = {"malformed": 400, "invalid": 422, "too_large": 413}
_NO_STORE = (("Cache-Control", "no-store"),)
CORS_MAX_AGE_S = 600
_HEADER_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
CORS_HEADERS = "content-type, content-encoding, x-events-key"

_NOT_FOUND = error_response(404, "unknown path; send events with POST /v1/events")
_UNKNOWN_EVENT = error_response(404, "unknown event, or no longer in outbox.dedupe_window", headers=_NO_STORE)
_EVENTS_METHODS = "POST, OPTIONS"
_EVENT_METHODS = "GET, HEAD, OPTIONS"
_WRONG_METHOD = {
    methods: error_response(405, f"this path accepts {methods}", headers=(("Allow", methods),))
    for methods in (_EVENTS_METHODS, _EVENT_METHODS)
}
_NO_PREFLIGHT = error_response(403, "OPTIONS is for CORS preflights from http.allowed_origins only")
_BODY_ERRORS: Mapping[InflateError, str] = {
    "too_large": "the body is larger than http.max_body",
    "malformed": "the body is truncated or corrupt",
}
_BODY_RESPONSES = {
    # These responses close the connection, because the client may still be sending the rest of the body.
    "too_large": error_response(413, _BODY_ERRORS["too_large"], close=True),
    "malformed": error_response(400, _BODY_ERRORS["malformed"], close=True),
}


_Outcome = list[Event] | Rejection | Response
"""The result of reading a body: its events, the reason for a rejection, or a 415."""
_OutcomeReading = Generator[None, None, _Outcome]


class HttpIngest:
    """The handler of /v1/events for one configuration."""

    def __init__(
        self,
        reader: Reader,
        outbox: Outbox,
        settings: Http,
        durability: Literal["full", "normal"],
        metrics: Metrics,
    ) -> None:
        self.reader = reader
        """A reload of the configuration may replace the reader."""
        self._outbox = outbox
        self._max_body_bytes = settings.max_body_bytes
        self._stored = Response(202, b'{"success": true}', (("Relay-Durability", durability),))
        self._received = metrics.events_received.labels("http")
        self._accepted = metrics.events_accepted.labels("http")
        self._duplicate = metrics.events_duplicate.labels("http")
        self._rejected = {reason: metrics.events_rejected.labels("http", reason) for reason in REJECT_REASONS}
        measured = metrics.longest_step.measured
        self._coalescer = AppendCoalescer(outbox, self._received.inc, self._count_stored, measured)
        self._long_reads: LongReads[_Outcome] = LongReads(measured)

    async def handle(self, request: web.BaseRequest) -> Response:
        """Respond to a request that the listener admitted; with 404 if its path is not part of the events API."""
        path = request.raw_path
        if path != EVENTS_PATH:
            path = request.rel_url.raw_path
        if path in _EVENTS_PATHS:
            methods = _EVENTS_METHODS
        elif path.startswith(EVENTS_PATH + "/"):
            methods = _EVENT_METHODS
        else:
            return _NOT_FOUND
        method = request.method
        if method == "POST" and methods is _EVENTS_METHODS:
            return await self._post(request)
        if method == "OPTIONS":
            return _preflight(request, methods)
        if method in ("GET", "HEAD") and methods is _EVENT_METHODS:
            return self._find(path.removeprefix(EVENTS_PATH + "/"))
        return _WRONG_METHOD[methods]

    def serves(self, path: str) -> bool:
        """Return whether this handler serves a request's `raw_path`, which may be an absolute URL."""
        return (path if path[:1] == "/" else urlsplit(path).path).startswith(EVENTS_PATH)

    async def _post(self, request: web.BaseRequest) -> Response:
        """Respond to POST /v1/events. The cheapest checks are first."""
        headers = request.headers
        content_type = headers.get(CONTENT_TYPE, "")
        type_ = _body_type(content_type)
        if isinstance(type_, Response):
            return self._reject("media_type", type_)
        coding = content_coding(headers.getall(CONTENT_ENCODING)) if CONTENT_ENCODING in headers else ""
        if coding is None:
            return self._reject("media_type", wrong_coding(headers.getall(CONTENT_ENCODING)))
        events = await self._read_request(request, type_, coding)
        if isinstance(events, Response):
            return events
        self._received.inc(len(events))
        try:
            duplicates = await self._outbox.append(events)
        except OutboxError as error:
            return self._not_stored_response(len(events), error)
        self._count_stored(len(events), duplicates)
        return self._stored

    async def _read_request(self, request: web.BaseRequest, type_: BodyType, coding: str) -> list[Event] | Response:
        """Return the events of the body, or the response that rejects it. The body is not referenced afterwards."""
        kind = type_.kind
        packed = await read_body(request, self._max_body_bytes)
        if isinstance(packed, str):
            return self._reject(packed, _BODY_RESPONSES[packed])
        if type_.ascii_only:
            reading = self._reading_ascii(request.headers[CONTENT_TYPE], kind, packed, coding)
            return self._events_or_response(
                await self._long_reads.add(reading, self._max_body_bytes if coding else len(packed))
            )
        if not coding:
            return (
                self._events_or_response(await self._read_in_turn(kind, packed))
                if _is_long(packed)
                else self._read(kind, packed)
            )
        body = inflate_at_once(packed, coding, self._max_body_bytes)
        if isinstance(body, str):
            return self._reject(body, _BODY_RESPONSES[body])
        if body is not None and not _is_long(body):
            return self._read(kind, body)
        # While a long body is pending, only its compressed form uses memory.
        size_bytes = self._max_body_bytes if body is None else len(body)
        del body
        return self._events_or_response(await self._long_reads.add(self._inflating(kind, packed, coding), size_bytes))

    def _inflating(self, kind: BodyKind, packed: bytes, coding: str) -> Reading:
        body = yield from inflating(packed, coding, self._max_body_bytes)
        if isinstance(body, str):
            return Rejection(body, _BODY_ERRORS[body])
        return (yield from self.reader.reading(body, kind))

    def _reading_ascii(self, content_type: str, kind: BodyKind, packed: bytes, coding: str) -> _OutcomeReading:
        """Read a body whose charset is not UTF-8: it must be ASCII."""
        body = (yield from inflating(packed, coding, self._max_body_bytes)) if coding else packed
        if isinstance(body, str):
            return Rejection(body, _BODY_ERRORS[body])
        if not body.isascii():
            return wrong_charset(content_type)
        return (yield from self.reader.reading(body, kind))

    def body_handler(self, message: RawRequestMessage) -> BodyHandler | None:
        """Return the handler for the body of a plain POST; None if other parts of the request matter.

        See relay.http.head_cache.
        """
        headers = message.headers
        if (
            message.method != "POST"
            or message.path not in _EVENTS_PATHS
            or CONTENT_ENCODING in headers
            or EXPECT in headers
        ):
            return None
        type_ = _body_type(headers.get(CONTENT_TYPE, ""))
        if isinstance(type_, Response) or type_.ascii_only:
            return None
        if int(headers.get(CONTENT_LENGTH, "0")) > self._max_body_bytes:
            return None
        return partial(self._handle_body, type_.kind)

    def _handle_body(self, kind: BodyKind, body: bytes, reply: Reply) -> None:
        """Do what `_post` does, with a callback instead of a task."""
        if not _is_long(body):
            self._append(self._read(kind, body), reply)
            return

        def was_read(outcome: asyncio.Future[_Outcome]) -> None:
            bug = outcome.exception()
            if bug is None:
                self._append(self._events_or_response(outcome.result()), reply)
            else:
                reply(bug if isinstance(bug, Exception) else RuntimeError(repr(bug)))

        self._read_in_turn(kind, body).add_done_callback(was_read)

    def _append(self, events: list[Event] | Response, reply: Reply) -> None:
        if isinstance(events, list):
            self._coalescer.append(events, partial(self._appended, len(events), reply))
        else:
            call_guarded(reply, events)

    def _appended(self, count: int, reply: Reply, error: BaseException | None) -> None:
        if error is None:
            reply(self._stored)
        elif isinstance(error, OutboxError):
            reply(self._not_stored_response(count, error))
        else:
            reply(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    def _read(self, kind: BodyKind, body: bytes) -> list[Event] | Response:
        return self._events_or_response(self.reader.read(body, kind))

    def _read_in_turn(self, kind: BodyKind, body: bytes) -> asyncio.Future[_Outcome]:
        return self._long_reads.add(self.reader.reading(body, kind), len(body))

    def _events_or_response(self, events: _Outcome) -> list[Event] | Response:
        """Return the events, or the response that rejects the body."""
        if isinstance(events, Response):
            return self._reject("media_type", events)
        if isinstance(events, Rejection):
            status = _REJECTION_STATUS[events.reason]
            errors = events.errors if events.reason == "invalid" else None
            return self._reject(events.reason, error_response(status, events.error, errors))
        return events

    def _count_stored(self, count: int, duplicates: int) -> None:
        if duplicates:
            self._duplicate.inc(duplicates)
        self._accepted.inc(count - duplicates)

    def _not_stored_response(self, count: int, error: OutboxError) -> Response:
        self._rejected["full" if isinstance(error, OutboxFull) else "unavailable"].inc(count)
        return error_response(503, str(error), headers=RETRY_LATER)

    def _reject(self, reason: str, answer: Response) -> Response:
        """Count one received and rejected event: the number of events of a rejected body is unknown."""
        self._received.inc()
        self._rejected[reason].inc()
        return answer

    def _find(self, event_id: str) -> Response:
        if not _EVENT_ID.fullmatch(event_id):
            return _UNKNOWN_EVENT
        state = self._outbox.find(bytes.fromhex(event_id.replace("-", "")))
        if state is None:
            return _UNKNOWN_EVENT
        return Response(200, f'{{"event_id": "{event_id.lower()}", "state": "{state}"}}'.encode(), _NO_STORE)


@lru_cache(_CACHED_TYPES)
def _body_type(content_type: str) -> BodyType | Response:
    """Return how to read a body with this Content-Type, or the response that rejects it."""
    return body_type(content_type) or wrong_type(content_type)


def _is_long(body: bytes) -> bool:
    return len(body) > _READ_AT_ONCE_BYTES


def _allowed_headers(requested: str) -> str:
    """Return the value of Access-Control-Allow-Headers: the requested names, or the default if there are none.

    A tracing SDK may add headers; the relay does not read them. For requests with credentials browsers do not treat
    "*" as a wildcard.
    """
    return requested if _HEADER_NAMES.fullmatch(requested) else CORS_HEADERS


def _preflight(request: web.BaseRequest, methods: str) -> Response:
    """Respond to a CORS preflight. The listener has checked the origin and adds it to the response.

    Chrome also requests permission for a page to reach the private network (Private Network Access) or the local
    network (Local Network Access).
    """
    asked = request.headers
    if "Origin" not in asked:
        return _NO_PREFLIGHT
    headers = [
        ("Access-Control-Allow-Methods", methods),
        ("Access-Control-Allow-Headers", _allowed_headers(asked.get("Access-Control-Request-Headers", ""))),
        ("Access-Control-Max-Age", str(CORS_MAX_AGE_S)),
    ]
    headers += [
        (f"Access-Control-Allow-{network}-Network", "true")
        for network in ("Private", "Local")
        if asked.get(f"Access-Control-Request-{network}-Network", "").lower() == "true"
    ]
    return Response(204, b"", headers)

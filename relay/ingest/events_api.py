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
import json
import re
from collections.abc import Generator, Sequence
from functools import partial
from typing import get_args
from uuid import UUID

from aiohttp.hdrs import CONTENT_ENCODING, CONTENT_TYPE

from relay.config import Http
from relay.event.reader import Event, Reader, Rejection
from relay.event.shown import shown
from relay.http.content_coding import InflateError, inflate_at_once, inflating
from relay.http.request import BodyError, BodyHandler, Reply, Request
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
from relay.outbox import AppendResult, Durability, EventState, Outbox, OutboxError, Selection
from relay.runtime.metrics import REJECT_REASONS, Metrics

EVENTS_PATH = "/v1/events"
_EVENTS_PATHS = (EVENTS_PATH, EVENTS_PATH + "/")
"""The upstream's framework ignores a trailing slash, so the relay does, too."""

_READ_AT_ONCE_BYTES = 16_384
"""Largest body that is read in one step: at most 900 events, which take a few milliseconds."""
_EVENT_ID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_REJECTION_STATUS = {"malformed": 400, "invalid": 422, "too_large": 413}
_NO_STORE = (("Cache-Control", "no-store"),)
CORS_MAX_AGE_S = 600
MAX_EVENT_IDS = 20
"""Generated ids that one response lists."""
_HEADER_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
CORS_HEADERS = "content-type, content-encoding, x-events-key"

_DROPPED = {
    "reason": "dropped",
    "message": "Older than outbox.max_age, displaced by newer events (outbox.max_size), or discarded by an operator. "
    "The event may be sent again.",
}
_NO_DEAD_LETTER = {
    "reason": "discarded",
    "message": "An operator discarded the dead letter, or newer ones displaced it (outbox.max_dead_letters).",
}
_EVENTS_METHODS = "POST, OPTIONS"
_EVENT_METHODS = "GET, HEAD, OPTIONS"
_NO_PREFLIGHT = error_response(403, "OPTIONS is for CORS preflights from http.allowed_origins only")


_Outcome = list[Event] | Rejection | Response
"""The result of reading a body: its events, the reason for a rejection, or a 415."""
_OutcomeReading = Generator[None, None, _Outcome]


class HttpIngest:
    """The handler of /v1/events for one configuration."""

    def __init__(self, reader: Reader, outbox: Outbox, settings: Http, metrics: Metrics) -> None:
        self.reader = reader
        """A reload of the configuration may replace the reader."""
        self._outbox = outbox
        self._max_body_bytes = settings.max_body_bytes
        self._stored = {each: _stored_response(each) for each in get_args(Durability)}
        self._received = metrics.events_received.labels("http")
        self._accepted = metrics.events_accepted.labels("http")
        self._duplicate = metrics.events_duplicate.labels("http")
        self._rejected = {reason: metrics.events_rejected.labels("http", reason) for reason in REJECT_REASONS}
        self._feed = metrics.feed
        self._coalescer = AppendCoalescer(outbox, self._received.inc, self._count_stored, metrics.feed)
        self._long_reads: LongReads[_Outcome] = LongReads(metrics.longest_step.measured)

    def handle(self, request: Request) -> BodyHandler | Response:
        """Return the handler of a request that the listener admitted, or the response to it."""
        path = request.raw_path
        if path in _EVENTS_PATHS:
            methods = _EVENTS_METHODS
        elif path.startswith(EVENTS_PATH + "/"):
            methods = _EVENT_METHODS
        else:
            return error_response(404, f"unknown path {shown(path)}; send events with POST {EVENTS_PATH}")
        method = request.method
        if method == "POST" and methods is _EVENTS_METHODS:
            return self._post(request)
        if method == "OPTIONS":
            return _preflight(request, methods)
        if method in ("GET", "HEAD") and methods is _EVENT_METHODS:
            return self._find(path.removeprefix(EVENTS_PATH + "/"))
        hint = f"; send events with POST {EVENTS_PATH}" if method == "POST" else ""
        error = f"this path accepts {methods}, not {shown(method)}{hint}"
        return error_response(405, error, headers=(("Allow", methods),))

    def _post(self, request: Request) -> BodyHandler | Response:
        """Return the handler of the body of a POST. It depends on the type and the coding only."""
        content_type = request.headers.get(CONTENT_TYPE, "")
        type_ = body_type(content_type)
        if type_ is None:
            return self._reject("media_type", wrong_type(content_type))
        codings = request.headers.getall(CONTENT_ENCODING, [])
        coding = content_coding(codings)
        if coding is None:
            return self._reject("media_type", wrong_coding(codings))
        handle = partial(self._handle_body, type_, coding, content_type)
        return BodyHandler(handle, self._max_body_bytes, self._reject_body, is_cacheable=True)

    def _handle_body(self, type_: BodyType, coding: str, content_type: str, packed: bytes, reply: Reply) -> None:
        """Append the events of a body, or reply with a rejection."""
        body = inflate_at_once(packed, coding, self._max_body_bytes) if coding else packed
        if isinstance(body, str):
            reply(self._reject_body(body, coding))
        elif body is None or type_.ascii_only or len(body) > _READ_AT_ONCE_BYTES:
            # While a long body is pending, only its compressed form uses memory.
            reading = self._reading(type_, coding, content_type, packed)
            read = self._long_reads.add(reading, self._max_body_bytes if body is None else len(body))
            read.add_done_callback(partial(self._was_read, reply))
        else:
            self._append(self.reader.read(body, type_.kind), reply, body)

    def _reading(self, type_: BodyType, coding: str, content_type: str, packed: bytes) -> _OutcomeReading:
        """Read a body in steps."""
        body = (yield from inflating(packed, coding, self._max_body_bytes)) if coding else packed
        if isinstance(body, str):
            return Rejection(body, self._body_error(body, coding))
        if type_.ascii_only and not body.isascii():
            return wrong_charset(content_type)
        return (yield from self.reader.reading(body, type_.kind))

    def _was_read(self, reply: Reply, read: asyncio.Future[_Outcome]) -> None:
        bug = read.exception()
        if bug is None:
            self._append(read.result(), reply)
        else:
            reply(_as_exception(bug))

    def _append(self, outcome: _Outcome, reply: Reply, body: bytes = b"") -> None:
        """Append the events, or reply with the rejection of the body, which is b"" if it was long."""
        if isinstance(outcome, list):
            generated = [event.event_id for event in outcome if event.has_generated_id]
            self._coalescer.append(outcome, partial(self._appended, len(outcome), generated, reply))
        elif isinstance(outcome, Response):
            call_guarded(reply, self._reject("media_type", outcome))
        else:
            errors = outcome.errors if outcome.reason == "invalid" else None
            response = error_response(_REJECTION_STATUS[outcome.reason], outcome.error, errors)
            call_guarded(reply, self._reject(outcome.reason, response, body))

    def _appended(
        self, count: int, generated: Sequence[bytes], reply: Reply, result: AppendResult | BaseException
    ) -> None:
        if isinstance(result, AppendResult):
            durability = result.durability
            reply(_stored_response(durability, _event_ids(generated)) if generated else self._stored[durability])
        elif isinstance(result, OutboxError):
            self._rejected[result.reason].inc(count)
            reply(error_response(503, str(result), headers=RETRY_LATER))
        else:
            reply(_as_exception(result))

    def _count_stored(self, count: int, duplicates: int) -> None:
        if duplicates:
            self._duplicate.inc(duplicates)
        self._accepted.inc(count - duplicates)

    def _reject(self, reason: str, response: Response, body: bytes = b"") -> Response:
        """Count one received and rejected event: the number of events of a rejected body is unknown."""
        self._received.inc()
        self._rejected[reason].inc()
        if self._feed.is_followed:
            self._feed.changed("rejected", [body], reason, json.loads(response.body)["error"])
        return response

    def _reject_body(self, error: BodyError, coding: str = "") -> Response:
        # The response closes the connection, because the client may still be sending the rest of the body.
        status = _REJECTION_STATUS[error]
        return self._reject(error, error_response(status, self._body_error(error, coding), close=True))

    def _body_error(self, error: InflateError, coding: str) -> str:
        if error == "too_large":
            wrong = f"the body is larger than http.max_body, which is {self._max_body_bytes} bytes"
            return f"{wrong}: send fewer events at once"
        if coding:
            wrong = f"the body is truncated or corrupt, or not {coding} as Content-Encoding says"
            return f"{wrong}: compress it again, or send it uncompressed"
        return "the body is truncated or corrupt"

    def _find(self, event_id: str) -> BodyHandler | Response:
        if not _EVENT_ID.fullmatch(event_id):
            return _unknown_event(event_id)
        find = partial(self._reply_with_state, bytes.fromhex(event_id.replace("-", "")))
        return BodyHandler(find, self._max_body_bytes, self._reject_body)

    async def _reply_with_state(self, event_id: bytes, _: bytes, reply: Reply) -> None:
        """Reply with the state of an event. A dead letter may be older than the dedupe window."""
        try:
            state = await self._outbox.find(event_id)
            if state not in (None, "dead_lettered"):
                reply(_event_response(event_id, state, **(_DROPPED if state == "dropped" else {})))
                return
            letters = await self._outbox.dead_letters(Selection(event_id=event_id), 1)
        except OutboxError as error:
            reply(error_response(503, str(error), headers=RETRY_LATER))
            return
        if not (letters or state):
            reply(_unknown_event(str(UUID(bytes=event_id))))
            return
        why = {"reason": letters[0].reason, "message": letters[0].message} if letters else _NO_DEAD_LETTER
        reply(_event_response(event_id, "dead_lettered", **why))


def _stored_response(durability: str, *headers: tuple[str, str]) -> Response:
    return Response(202, b'{"success": true}', (("Relay-Durability", durability), *headers))


def _unknown_event(event_id: str) -> Response:
    error = (
        f"unknown event {shown(event_id)}: it was never stored, or it has left outbox.dedupe_window and is not a "
        "dead letter"
    )
    return error_response(404, error, headers=_NO_STORE)


def _event_response(event_id: bytes, state: EventState, **why: str) -> Response:
    """Return the state of an event, with `reason` and `message` if it was not delivered."""
    return Response(200, json.dumps({"event_id": str(UUID(bytes=event_id)), "state": state, **why}).encode(), _NO_STORE)


def _event_ids(generated: Sequence[bytes]) -> tuple[str, str]:
    """Return the header with the ids that the relay generated, so that an app can find its events."""
    return "Relay-Event-Ids", ", ".join(str(UUID(bytes=event_id)) for event_id in generated[:MAX_EVENT_IDS])


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(repr(error))


def _allowed_headers(requested: str) -> str:
    """Return the value of Access-Control-Allow-Headers: the requested names, or the default if there are none.

    A tracing SDK may add headers; the relay does not read them. For requests with credentials browsers do not treat
    "*" as a wildcard.
    """
    return requested if _HEADER_NAMES.fullmatch(requested) else CORS_HEADERS


def _preflight(request: Request, methods: str) -> Response:
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

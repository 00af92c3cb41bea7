"""Read one request from the bytes of a connection: its head, then its body.

The reader returns what the connection does next. It keeps at most the limit for heads, or the handler's limit for
bodies. After a response that is sent before the end of the body, it discards the rest of the body.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from aiohttp.http import HttpRequestParser

from relay.http.framing import BodyDecoder
from relay.http.heads import HEAD_TOO_LARGE, MAX_HEAD_BYTES, Heads, RequestPlan, parse
from relay.http.request import BodyHandler
from relay.http.response import Response

HEAD_END = b"\r\n\r\n"
_ENDLESS_BYTES = 1 << 62


class Complete(NamedTuple):
    """The whole request was received."""

    plan: RequestPlan
    body: bytes
    rest: bytes
    """The data after the request."""


class Ended(NamedTuple):
    """The whole request was received, and its response sent before."""

    rest: bytes


class MalformedRequest(NamedTuple):
    """The request cannot be read any further."""

    response: Response | None
    """None if a response was sent before."""


class Early(NamedTuple):
    """A response that is due before the end of the request."""

    plan: RequestPlan
    response: Response
    then: Ended | MalformedRequest | None
    """The state of the request after its response: None if the rest of the body is missing."""


Step = Complete | Early | Ended | MalformedRequest | Literal["continue"] | None
"""What happened: None if more data is needed, "continue" if the client also waits for 100 Continue."""


class RequestReader:
    """Reads one request."""

    __slots__ = ("_body", "_heads", "_parser", "_parts", "_peer", "_received", "_room_bytes", "plan")

    def __init__(self, heads: Heads, peer: object) -> None:
        self._heads = heads
        self._peer = peer
        self._received = b""
        """The start of an incomplete head."""
        self._parser: HttpRequestParser | None = None
        self.plan: RequestPlan | None = None
        """The plan of the request; None before the end of the head."""
        self._body: BodyDecoder | None = None
        self._parts: list[bytes] | None = None
        """The received parts of the body; None if the body is discarded."""
        self._room_bytes = 0

    def feed(self, data: bytes) -> Step:
        return self._feed_head(data) if self.plan is None else self._feed_body(data)

    def _feed_head(self, data: bytes) -> Step:
        received = self._received + data
        end = received.find(HEAD_END, max(len(self._received) - len(HEAD_END) + 1, 0)) + len(HEAD_END)
        is_complete = end >= len(HEAD_END)
        head = received[:end] if is_complete else received
        if len(head) > MAX_HEAD_BYTES:
            return self._reject_large_head()
        plan = self._heads.cached(head)
        if plan is None:
            self._parser = self._parser or self._heads.parser()
            message = parse(self._parser, head[len(self._received) :], is_complete=is_complete)
            if message is None:
                self._received = received
                return None
            if message is HEAD_TOO_LARGE:
                return self._reject_large_head()
            if isinstance(message, Response):
                self._heads.count_malformed()
                return MalformedRequest(message)
            plan = self._heads.plan(head, message, self._peer)
        self._received, self._parser = b"", None
        return self._begin_body(plan, received[end:])

    def _reject_large_head(self) -> Step:
        """Discard all further data: after an immediate close, a client that still sends would lose the response."""
        self._heads.count_malformed()
        self._received, self._parser = b"", None
        return self._begin_body(RequestPlan(HEAD_TOO_LARGE, _ENDLESS_BYTES, closes=True), b"")

    def _begin_body(self, plan: RequestPlan, data: bytes) -> Step:
        self.plan = plan
        self._body = plan.decoder()
        handler = plan.handler
        if isinstance(handler, Response):
            return self._early(handler, self._discard(data))
        if (plan.body_bytes or 0) > handler.max_bytes:
            return self._early(handler.reject("too_large"), self._discard(data))
        self._parts, self._room_bytes = [], handler.max_bytes
        step = self._feed_body(data)
        return "continue" if step is None and plan.expects_continue else step

    def _early(self, response: Response, then: Ended | MalformedRequest | None) -> Early:
        assert self.plan is not None
        self._parts = None
        if response.closes:
            self.plan = self.plan._replace(closes=True)
        return Early(self.plan, response, then)

    def _discard(self, data: bytes) -> Ended | MalformedRequest | None:
        assert self._body is not None
        decoded = self._body.feed(data)
        if decoded is None:
            return MalformedRequest(None)
        return None if decoded.rest is None else Ended(decoded.rest)

    def _feed_body(self, data: bytes) -> Step:
        assert self.plan is not None
        assert self._body is not None
        if self._parts is None:
            return self._discard(data)
        decoded = self._body.feed(data)
        handler = self.plan.handler
        assert isinstance(handler, BodyHandler)
        if decoded is None:
            return MalformedRequest(handler.reject("malformed"))
        self._parts.append(decoded.part)
        self._room_bytes -= len(decoded.part)
        if self._room_bytes < 0:
            return self._early(handler.reject("too_large"), None if decoded.rest is None else Ended(decoded.rest))
        if decoded.rest is None:
            return None
        return Complete(self.plan, b"".join(self._parts), decoded.rest)

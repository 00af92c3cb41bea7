"""Read the heads of requests, and cache the plans for them.

aiohttp's parser reads a head, with its checks against request smuggling. Each head has its own parser, which receives
no byte of a body: its state is always known. An app sends the same head, byte for byte, with each event. The plan for a
head with a cacheable handler is therefore cached, and a request with the same head is not parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from aiohttp.base_protocol import BaseProtocol
from aiohttp.hdrs import CONTENT_LENGTH, EXPECT, METH_HEAD, UPGRADE
from aiohttp.http import HttpProcessingError, HttpRequestParser, HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from relay.http.framing import BodyDecoder, ChunkedBody, FixedBody
from relay.http.request import BodyHandler
from relay.http.response import Headers, Response, error_response

MAX_HEAD_BYTES = 32_768
"""Large enough for browsers, which send the relay the cookies of every web app on 127.0.0.1."""
MAX_CACHED_BODY_BYTES = 65_536
"""Larger bodies arrive in many pieces, and the head is a small part of their cost."""
_MAX_CACHED_HEAD_BYTES = 4_096
_MAX_CACHED_HEADS = 1_024

HEAD_TOO_LARGE = error_response(
    431, f"the request head has more than {MAX_HEAD_BYTES} bytes; send fewer or shorter headers", close=True
)
_READABLE: Headers = (
    ("Access-Control-Allow-Credentials", "true"),
    ("Access-Control-Expose-Headers", "Relay-Event-Ids, Relay-Durability, Retry-After"),
    ("Vary", "Origin"),
)
"""CORS headers of a response to a page of an allowed origin, in addition to the origin.

Without Allow-Credentials a browser hides the response to a request with credentials, such as any `sendBeacon`.
"""


class RequestPlan(NamedTuple):
    """What a connection does with a request."""

    handler: BodyHandler | Response
    body_bytes: int | None
    """The Content-Length; None if the body is chunked."""
    closes: bool = False
    """Whether the connection closes after the response."""
    cors_origin: str = ""
    """The allowed origin to name in the response; "" if the response needs no CORS headers."""
    omits_body: bool = False
    """Whether the response to this request has no body, because its method is HEAD."""
    expects_continue: bool = False

    def decoder(self) -> BodyDecoder:
        return ChunkedBody() if self.body_bytes is None else FixedBody(self.body_bytes)

    def finish(self, response: Response) -> bytes:
        """Return the response to this request as bytes."""
        if self.cors_origin:
            response = response.with_headers((("Access-Control-Allow-Origin", self.cors_origin), *_READABLE))
        if self.closes:
            response = response.closing
        return response.head if self.omits_body else response.raw


Decide = Callable[[RawRequestMessage, object], tuple[BodyHandler | Response, str]]
"""Returns the handler for a head and the address of a client, and the allowed origin for CORS headers or ""."""


class Heads:
    """The cached plans, shared by all connections of a kind of socket."""

    def __init__(self, decide: Decide, count_malformed: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._decide = decide
        self.count_malformed = count_malformed
        self._loop = loop
        self._closes = False
        """Whether each connection closes after its next response."""
        self._plans: dict[bytes, RequestPlan] = {}
        self.cached = self._plans.get

    def close_connections(self) -> None:
        """Let each connection close after the response to its next request."""
        self._closes = True
        self._plans.clear()

    def parser(self) -> HttpRequestParser:
        """Return a parser for one head. Its limits are not smaller than the limit of the whole head in the reader."""
        return HttpRequestParser(
            BaseProtocol(self._loop),
            self._loop,
            MAX_CACHED_BODY_BYTES,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=MAX_HEAD_BYTES,
            auto_decompress=False,
        )

    def plan(self, raw: bytes, message: RawRequestMessage, peer: object) -> RequestPlan:
        """Return the plan for a request with this head, and cache it. `raw` is the head as received."""
        handler, cors_origin = self._decide(message, peer)
        headers = message.headers
        is_1_1 = message.version == HttpVersion11
        body_bytes = None if message.chunked else int(headers.get(CONTENT_LENGTH, "0"))
        plan = RequestPlan(
            handler,
            body_bytes,
            self._closes or message.should_close or not is_1_1 or message.upgrade or UPGRADE in headers,
            cors_origin,
            message.method == METH_HEAD,
            is_1_1 and headers.get(EXPECT, "").lower() == "100-continue",  # RFC 9110, 10.1.1.
        )
        if _is_cacheable(plan) and len(raw) <= _MAX_CACHED_HEAD_BYTES:
            if len(self._plans) >= _MAX_CACHED_HEADS:
                self._plans.clear()
            self._plans[raw] = plan
        return plan


def _is_cacheable(plan: RequestPlan) -> bool:
    handler, body_bytes = plan.handler, plan.body_bytes
    if isinstance(handler, Response) or not handler.is_cacheable or body_bytes is None:
        return False
    return body_bytes <= min(MAX_CACHED_BODY_BYTES, handler.max_bytes)


def parse(parser: HttpRequestParser, data: bytes, *, is_complete: bool) -> RawRequestMessage | Response | None:
    """Return the parsed head, the response to an invalid one, or None while it is incomplete.

    `data` must not exceed the head. `is_complete` is whether it ends with it.
    """
    try:
        messages, _, _ = parser.feed_data(data)
    except LineTooLong:
        return HEAD_TOO_LARGE
    except HttpProcessingError as error:
        return _malformed(error.message)
    except ValueError:
        return _malformed("invalid target")
    if not messages:
        return _malformed("unknown protocol") if is_complete else None
    message = messages[0][0]
    return message if message.version in (HttpVersion10, HttpVersion11) else _malformed("wrong version")


def _malformed(message: str) -> Response:
    """Return the response to a head with this error of the parser."""
    return error_response(400, f"not an HTTP/1.1 request: {message.partition(':')[0][:100]}", close=True)

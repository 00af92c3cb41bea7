"""Cache request heads, so that a request with a known head is passed to its body handler without parsing.

An app sends the same head, byte for byte, with each event. Parsing the head, checking Host and content type, and
creating a task cost three times as much as reading the event. A head that was parsed normally and is plain (see
`FindBodyHandler`) is therefore cached. A request that starts with the same bytes goes directly to the body handler.

The result is the same as without the cache: a parser in the same state parses the same bytes in the same way, and the
guard and the events API decide by the head alone. The parser is in a known state only at the start of a request.
`FastPath` therefore records the parser's input since the last request. When the state becomes uncertain (several
requests in one piece, chunked bodies, much data), the connection stops using the cache.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from aiohttp.http import RawRequestMessage

from relay.http.response import Response

Reply = Callable[["Response | Exception"], None]
"""Called once, with the response or with an exception."""
BodyHandler = Callable[[bytes, Reply], None]
"""Handles the body of a plain request, and replies at once or later."""
FindBodyHandler = Callable[[RawRequestMessage], BodyHandler | None]
"""Returns the handler for bodies of requests with this head; None if the requests need the normal path."""

MAX_BODY_BYTES = 65_536
"""Larger bodies arrive in many pieces, and the head is a small part of their cost."""
_MAX_HEAD_BYTES = 4_096
_MAX_HEADS = 1_024
_HEAD_END = b"\r\n\r\n"


class CompleteRequest(NamedTuple):
    """A request that was received completely, and no byte of the next one."""

    handle_body: BodyHandler
    body: bytes


class _CachedHead(NamedTuple):
    handle_body: BodyHandler
    body_bytes: int


class HeadCache:
    """The plain heads, shared by all connections of a listener."""

    def __init__(self, find_body_handler: FindBodyHandler) -> None:
        self._find_body_handler = find_body_handler
        self._heads: dict[bytes, _CachedHead] = {}
        self.find = self._heads.get

    def learn(self, head: bytes, message: RawRequestMessage, body_bytes: int) -> None:
        """Cache `head`, from which `message` was parsed, if it is plain. `body_bytes` is its Content-Length."""
        if len(head) > _MAX_HEAD_BYTES or body_bytes > MAX_BODY_BYTES:
            return
        handle_body = self._find_body_handler(message)
        if handle_body is None:
            return
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        self._heads[head] = _CachedHead(handle_body, body_bytes)


class FastPath:
    """Finds the starts of requests of one connection, and recognizes cached heads."""

    __slots__ = ("_find", "_head_cache", "_incomplete", "_parsed")

    def __init__(self, head_cache: HeadCache) -> None:
        self._head_cache = head_cache
        self._find = head_cache.find
        self._parsed: bytes | None = b""
        """The parser's input since the start of a request; None if the start is unknown."""
        self._incomplete = b""
        """A cached head and the start of its body, which the parser has not received."""

    def offer(self, data: bytes) -> CompleteRequest | Literal["wait", "parse"]:
        """Return the complete request that ends with `data`, if its head is cached.

        Return "wait" if the rest of its body is missing, and "parse" if the parser must read it (see `withdraw`).
        """
        if self._parsed != b"":
            return "parse"
        received = self._incomplete + data if self._incomplete else data
        end = received.find(_HEAD_END) + len(_HEAD_END)
        cached = self._find(received[:end])
        if cached is None:
            return "parse"
        missing_bytes = end + cached.body_bytes - len(received)
        if missing_bytes < 0:
            return "parse"
        if missing_bytes > 0:
            self._incomplete = received
            return "wait"
        self._incomplete = b""
        return CompleteRequest(cached.handle_body, received[end:])

    def withdraw(self, data: bytes) -> tuple[bytes, ...]:
        """Return the pieces to parse: an incomplete request, if any, and `data`."""
        if not self._incomplete:
            return (data,)
        waited, self._incomplete = self._incomplete, b""
        return (waited, data)

    def parsed(self, data: bytes, newest: RawRequestMessage | None, *, complete: bool) -> None:
        """Record that the parser received `data`.

        `newest` is the last request that the parser started, None after an error. `complete` is whether `data`
        completed the body of `newest`.
        """
        if self._parsed is None:
            return
        received = self._parsed + data
        if complete:
            self._parsed = b"" if newest is not None and self._is_one_request(received, newest) else None
        else:
            self._parsed = received if len(received) <= _MAX_HEAD_BYTES + MAX_BODY_BYTES else None

    def _is_one_request(self, received: bytes, message: RawRequestMessage) -> bool:
        """Return whether `received` is exactly this request, not chunked; then store its head."""
        end = received.find(_HEAD_END) + len(_HEAD_END)
        body_bytes = int(message.headers.get("Content-Length", "0"))
        if end + body_bytes != len(received):
            return False
        self._head_cache.learn(received[:end], message, body_bytes)
        return True

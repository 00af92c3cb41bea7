"""A head that was judged once need not be judged again: the short way of requests that differ in their body only.

An app sends the same head, byte for byte, with event after event. Parsing it, judging Host and types, and
giving the request a task of its own costs three times what its event costs. So a head that was parsed in the
ordinary way and found plain (see `FindBodyHandler`) is remembered, and a request that begins with the very same bytes
goes straight to what takes its body.

Why this cannot be told from the ordinary way: a parser in the same state makes the same of the same bytes,
and the guard and the events API decide by the head alone. The state is the same only at the beginning of a
request, so `FastPath` keeps account of what the parser was received since the last one, and once it is not sure
any more (several requests in one piece, chunks, much data) it is out of use for that connection.

Pure: bytes in, decisions out; it neither writes nor waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from aiohttp.http import RawRequestMessage

from relay.http.response import Response

Reply = Callable[["Response | Exception"], None]
"""Called once with the answer, or with a bug."""
BodyHandler = Callable[[bytes, Reply], None]
"""Takes the body of a plain request; replies at once or later."""
FindBodyHandler = Callable[[RawRequestMessage], BodyHandler | None]
"""What takes the bodies of requests with this head; None if more than the body matters."""

MAX_BODY_BYTES = 65_536
"""Larger bodies come in many pieces, and the head is a small part of their cost."""
_MAX_HEAD_BYTES = 4_096
_MAX_HEADS = 1_024
_HEAD_END = b"\r\n\r\n"


class CompleteRequest(NamedTuple):
    """A request that is there from its first byte to its last, and no byte more."""

    handle_body: BodyHandler
    body: bytes


class _CachedHead(NamedTuple):
    handle_body: BodyHandler
    body_bytes: int


class HeadCache:
    """The heads known to be plain, shared by all connections of a listener."""

    def __init__(self, find_body_handler: FindBodyHandler) -> None:
        self._find_body_handler = find_body_handler
        self._heads: dict[bytes, _CachedHead] = {}
        self.find = self._heads.get

    def learn(self, head: bytes, message: RawRequestMessage, body_bytes: int) -> None:
        """`head` is what `message` was parsed from, and announces `body_bytes`."""
        if len(head) > _MAX_HEAD_BYTES or body_bytes > MAX_BODY_BYTES:
            return
        handle_body = self._find_body_handler(message)
        if handle_body is None:
            return
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        self._heads[head] = _CachedHead(handle_body, body_bytes)


class FastPath:
    """What one connection knows of where its requests begin."""

    __slots__ = ("_find", "_head_cache", "_incomplete", "_parsed")

    def __init__(self, head_cache: HeadCache) -> None:
        self._head_cache = head_cache
        self._find = head_cache.find
        self._parsed: bytes | None = b""
        """Given to the parser since a request began; None once that is not known."""
        self._incomplete = b""
        """A known head and the beginning of its body; the parser has not seen it."""

    def offer(self, data: bytes) -> CompleteRequest | Literal["wait", "parse"]:
        """A whole plain request, if `data` ends one; "wait" for the rest of its body; "parse": see `withdraw`."""
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
        """What the parser must be received, piece by piece: whatever waited for `data`, and `data`."""
        if not self._incomplete:
            return (data,)
        waited, self._incomplete = self._incomplete, b""
        return (waited, data)

    def parsed(self, data: bytes, newest: RawRequestMessage | None, *, complete: bool) -> None:
        """The parser was received `data`; `newest` is the last request it began, None after an error.

        `complete` says whether the body of `newest` came to its end with `data`.
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

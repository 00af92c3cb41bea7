"""A head that was judged once need not be judged again: the short way of requests that differ in their body only.

An app sends the same head, byte for byte, with event after event. Parsing it, judging Host and types, and
giving the request a task of its own costs three times what its event costs. So a head that was parsed in the
ordinary way and found plain (see `Judge`) is remembered, and a request that begins with the very same bytes
goes straight to what takes its body.

Why this cannot be told from the ordinary way: a parser in the same state makes the same of the same bytes,
and the guard and the events API decide by the head alone. The state is the same only at the beginning of a
request, so `Shortcut` keeps account of what the parser was given since the last one, and once it is not sure
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
Take = Callable[[bytes, Reply], None]
"""Takes the body of a plain request; replies at once or later."""
Judge = Callable[[RawRequestMessage], Take | None]
"""What takes the bodies of requests with this head; None if more than the body matters."""

MAX_BODY_BYTES = 65_536
"""Larger bodies come in many pieces, and the head is a small part of their cost."""
_MAX_HEAD_BYTES = 4_096
_MAX_HEADS = 1_024
_HEAD_END = b"\r\n\r\n"


class Whole(NamedTuple):
    """A request that is there from its first byte to its last, and no byte more."""

    take: Take
    body: bytes


class _Plan(NamedTuple):
    take: Take
    body_bytes: int


class Heads:
    """The heads known to be plain, shared by all connections of a listener."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._plans: dict[bytes, _Plan] = {}
        self.find = self._plans.get

    def learn(self, head: bytes, message: RawRequestMessage, body_bytes: int) -> None:
        """`head` is what `message` was parsed from, and announces `body_bytes`."""
        if len(head) > _MAX_HEAD_BYTES or body_bytes > MAX_BODY_BYTES:
            return
        take = self._judge(message)
        if take is None:
            return
        if len(self._plans) >= _MAX_HEADS:
            self._plans.clear()
        self._plans[head] = _Plan(take, body_bytes)


class Shortcut:
    """What one connection knows of where its requests begin."""

    __slots__ = ("_find", "_heads", "_parsed", "_waiting")

    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self._find = heads.find
        self._parsed: bytes | None = b""
        """Given to the parser since a request began; None once that is not known."""
        self._waiting = b""
        """A known head and the beginning of its body; the parser has not seen it."""

    def offer(self, data: bytes) -> Whole | Literal["wait", "parse"]:
        """A whole plain request, if `data` ends one; "wait" for the rest of its body; "parse": see `withdraw`."""
        if self._parsed != b"":
            return "parse"
        given = self._waiting + data if self._waiting else data
        end = given.find(_HEAD_END) + len(_HEAD_END)
        plan = self._find(given[:end])
        if plan is None:
            return "parse"
        missing_bytes = end + plan.body_bytes - len(given)
        if missing_bytes < 0:
            return "parse"
        if missing_bytes > 0:
            self._waiting = given
            return "wait"
        self._waiting = b""
        return Whole(plan.take, given[end:])

    def withdraw(self, data: bytes) -> tuple[bytes, ...]:
        """What the parser must be given, piece by piece: whatever waited for `data`, and `data`."""
        if not self._waiting:
            return (data,)
        waited, self._waiting = self._waiting, b""
        return (waited, data)

    def parsed(self, data: bytes, newest: RawRequestMessage | None, *, complete: bool) -> None:
        """The parser was given `data`; `newest` is the last request it began, None after an error.

        `complete` says whether the body of `newest` came to its end with `data`.
        """
        if self._parsed is None:
            return
        given = self._parsed + data
        if complete:
            self._parsed = b"" if newest is not None and self._was_all(given, newest) else None
        else:
            self._parsed = given if len(given) <= _MAX_HEAD_BYTES + MAX_BODY_BYTES else None

    def _was_all(self, given: bytes, message: RawRequestMessage) -> bool:
        """Whether `given` is that one request: not two, nor part of the next, nor chunked. Its head is learnt then."""
        end = given.find(_HEAD_END) + len(_HEAD_END)
        body_bytes = int(message.headers.get("Content-Length", "0"))
        if end + body_bytes != len(given):
            return False
        self._heads.learn(given[:end], message, body_bytes)
        return True

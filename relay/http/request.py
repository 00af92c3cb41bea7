"""Requests as handlers receive them, and the plans that handlers return for them.

A handler decides by the head of a request. It returns a response at once, or a `BodyHandler`: then the connection
receives the whole body first. A body is therefore never read in part, and never above a limit.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Literal, NamedTuple

from multidict import CIMultiDictProxy
from yarl import URL

from relay.http.response import Response, Stream

BodyError = Literal["too_large", "malformed"]
Reply = Callable[["Response | Stream | Exception"], None]
"""Called once, with the response or with an exception of a bug."""


class Request(NamedTuple):
    """The head of a request, and its body in the handler's coroutine."""

    method: str
    url: URL
    """The target as received; absolute if the client sent it so."""
    headers: CIMultiDictProxy[str]
    peer: object
    """The client's address as its socket returns it."""
    body: bytes = b""

    @property
    def raw_path(self) -> str:
        """The path as received, without the query."""
        return self.url.raw_path

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters, in lower case; "" if it is absent."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()


class BodyHandler(NamedTuple):
    """Handles the complete body of a request."""

    handle: Callable[[bytes, Reply], Coroutine[Any, Any, None] | None]
    """Replies at once or later. A coroutine is run by the connection."""
    max_bytes: int
    reject: Callable[[BodyError], Response]
    """Returns the response to a body above `max_bytes`, or with invalid framing."""
    is_cacheable: bool = False
    """Whether the same head always leads to this handler, for every client."""


Handler = Callable[[Request], BodyHandler | Response]

"""Check the responses of upstream connections before aiohttp parses them.

A Guard receives the data of a connection in front of aiohttp's protocol. It is installed with the public method
`set_protocol` of the transport. The Guard reads the head of each response (see `response_head`) and records whether a
response has begun. An Exchange contains the options and the results of one call of `UpstreamClient.post`. It is a
context variable, because aiohttp creates the request objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from relay.forward.resolver import Resolver
from relay.forward.response_head import NotHttp, ResponseHead


class UnreadableResponse(aiohttp.ClientConnectionError):
    """The response is not HTTP or exceeds a bound. The message contains the reason and may quote the response."""


class NotFresh(aiohttp.ClientConnectionError):
    """The exchange requires a new connection, and this one was reused. Nothing was sent."""


@dataclass(slots=True)
class Exchange:
    """One request and its response."""

    fresh: bool = False
    """Whether the request requires a new connection."""
    is_cautious: bool = False
    """Whether a new connection must stay open for a moment before the request is sent: the previous one was lost."""
    is_kept: bool = False
    """Whether the request was sent on a kept-alive connection."""
    head: ResponseHead | None = None
    """The part of the response received so far; None before the request is sent."""

    @property
    def responded(self) -> bool:
        """Return whether the first byte of a response was received."""
        return self.head is not None and self.head.received

    @property
    def lost_kept_connection(self) -> bool:
        """Return whether the exchange failed on a kept-alive connection before the first byte of a response."""
        return self.is_kept and self.head is not None and not self.head.received


exchange: ContextVar[Exchange] = ContextVar("exchange")


def prepare(conn: Connection, resolver: Resolver, lost: Callable[[], None]) -> None:
    """Prepare a connection for the current exchange. Raises NotFresh.

    `lost` is called when the connection closes, before its socket does.
    """
    transport = conn.transport
    if transport is None:
        return
    current, protocol = exchange.get(), transport.get_protocol()
    current.is_kept = isinstance(protocol, Guard)
    if current.is_kept and current.fresh:
        raise NotFresh
    if not isinstance(protocol, Guard):
        if peer := transport.get_extra_info("peername"):
            resolver.connected(peer[0])
        protocol = Guard(cast(ResponseHandler, protocol), transport)
        transport.set_protocol(protocol)
    current.head = protocol.expect(lost)


class Guard(asyncio.Protocol):
    """Checks the head of each response and passes the data to aiohttp's protocol."""

    def __init__(self, protocol: ResponseHandler, transport: asyncio.Transport) -> None:
        self._protocol = protocol
        self._transport = transport
        self._head = ResponseHead()
        self._lost: Callable[[], None] | None = None

    def expect(self, lost: Callable[[], None]) -> ResponseHead:
        """Begin a new exchange, and return the head that will contain its response. `lost`: see `prepare`."""
        self._head = ResponseHead()
        self._lost = lost
        return self._head

    def data_received(self, data: bytes) -> None:
        try:
            for_parser = self._head.feed(data)
        except NotHttp as error:
            self._protocol.set_exception(UnreadableResponse(str(error)))
            self._transport.abort()
            return
        if self._head.ends_connection:
            self._protocol.force_close()
        if for_parser:
            self._protocol.data_received(for_parser)

    def eof_received(self) -> None:
        self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost is not None:
            self._lost()
        if self._head.received and not self._head.complete:
            self._protocol.set_exception(UnreadableResponse("the connection closed within its head"))
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

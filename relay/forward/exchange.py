"""What happens on one connection to the upstream, beside HTTP itself.

A Guard stands between the transport and aiohttp's protocol, put there with the transport's public `set_protocol`.
It reads the head of each response first (see `response_head`), and knows whether a response has begun.
An Exchange carries what one call of `UpstreamClient.post` wants and learns: the library creates request objects
itself, so that the current exchange is a context variable.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from typing import cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from relay.forward.resolver import Resolver
from relay.forward.response_head import NotHttp, ResponseHead


class UnreadableResponse(aiohttp.ClientConnectionError):
    """The response is no HTTP, or exceeds a bound; the message says why and may quote the response."""


class NotFresh(aiohttp.ClientConnectionError):
    """Nothing was sent: the exchange wants a fresh connection, and this one had been kept."""


@dataclass(slots=True)
class Exchange:
    """One request and its response."""

    fresh: bool = False
    """Send it on no kept connection."""
    is_kept: bool = False
    """It was sent on a kept connection."""
    head: ResponseHead | None = None
    """The response as far as it has come; None before the request is sent."""

    @property
    def lost_kept_connection(self) -> bool:
        """Whether a failed exchange was on a kept connection without one byte of a response."""
        return self.is_kept and self.head is not None and not self.head.received


exchange: ContextVar[Exchange] = ContextVar("exchange")


def prepare(conn: Connection, resolver: Resolver) -> None:
    """Make a connection ready for the current exchange. Raises NotFresh."""
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
    current.head = protocol.expect()


class Guard(asyncio.Protocol):
    """Reads the head of each response before aiohttp's protocol does."""

    def __init__(self, protocol: ResponseHandler, transport: asyncio.Transport) -> None:
        self._protocol = protocol
        self._transport = transport
        self._head = ResponseHead()

    def expect(self) -> ResponseHead:
        """The head of the response to the request that is about to be sent."""
        self._head = ResponseHead()
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
        if self._head.received and not self._head.complete:
            self._protocol.set_exception(UnreadableResponse("the connection closed within its head"))
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

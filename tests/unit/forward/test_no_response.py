"""Why a request has no response, and whether anything of it left this machine."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import struct
import sys
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from relay.config import load
from relay.forward import upstream
from relay.forward.exchange import Exchange
from relay.forward.no_response import no_response
from relay.forward.progress import Sockets, Watch
from relay.forward.response_head import ResponseHead
from relay.forward.upstream import UpstreamClient
from relay.policy.verdict import NoResponse, UpstreamResponse
from relay.runtime.clock import SystemClock

TIMEOUT_MS = 30_000
TARGET = cast(ConnectionKey, SimpleNamespace(host="events.example", port=443, ssl=True))
REFUSED = OSError(errno.ECONNREFUSED, "Connection refused")
RESET = aiohttp.ClientOSError(errno.ECONNRESET, "Connection reset by peer")


def exchange(*, kept: bool = False, response: bytes | None = b"") -> Exchange:
    """Return an exchange with the received part of the response; None: the request was not sent."""
    if response is None:
        return Exchange()
    head = ResponseHead()
    if response:
        head.feed(response)
    return Exchange(is_kept=kept, head=head)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(
            aiohttp.ClientConnectorError(TARGET, REFUSED),
            NoResponse("cannot connect: Connection refused", True, True),
            id="refused",
        ),
        pytest.param(
            aiohttp.ClientConnectorError(TARGET, OSError(errno.ENETUNREACH, "Network is unreachable")),
            NoResponse("cannot connect: Network is unreachable", True, True),
            id="no route",
        ),
        pytest.param(
            aiohttp.ClientConnectorDNSError(TARGET, socket.gaierror(socket.EAI_AGAIN, "no name server")),
            NoResponse("cannot connect: no name server", True, True),
            id="no name",
        ),
        pytest.param(
            aiohttp.ClientProxyConnectionError(TARGET, REFUSED),
            NoResponse("cannot connect: Connection refused", True, True),
            id="no proxy",
        ),
        pytest.param(
            aiohttp.ConnectionTimeoutError(),
            NoResponse("cannot connect: no connection within 10 s", True, True),
            id="connect timeout",
        ),
        pytest.param(
            aiohttp.ClientConnectorSSLError(TARGET, ssl.SSLError(1, "handshake failure")),
            NoResponse("cannot connect: handshake failure", True),
            id="TLS",
        ),
        pytest.param(RESET, NoResponse("connection failed: Connection reset by peer"), id="reset"),
        pytest.param(
            aiohttp.ServerDisconnectedError(), NoResponse("connection closed before the response"), id="closed"
        ),
    ],
)
async def test_only_a_request_without_a_connection_did_not_leave_the_machine(
    error: Exception, expected: NoResponse
) -> None:
    watch = Watch(SystemClock(), TIMEOUT_MS, lambda _: None)
    assert no_response(error, watch, exchange(response=None), TIMEOUT_MS, str) == expected


@pytest.mark.parametrize(
    ("nothing_left", "received", "is_unreachable"), [(True, b"", True), (False, b"", False), (True, b"HTTP", False)]
)
async def test_a_reset_before_the_first_byte_of_the_request(
    nothing_left: bool, received: bytes, is_unreachable: bool
) -> None:
    watch = Watch(SystemClock(), TIMEOUT_MS, lambda _: None)
    watch.nothing_left = nothing_left
    result = no_response(RESET, watch, exchange(response=received), TIMEOUT_MS, str)
    assert (result.never_sent, result.is_unreachable) == (is_unreachable, is_unreachable)


class _Connection(asyncio.Protocol):
    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.watch.lost()
        self.lost.set()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the sent segments")
@pytest.mark.parametrize("sent", [b"", b"POST /v1/events HTTP/1.1\r\n"], ids=["before", "after"])
async def test_the_kernel_knows_whether_a_byte_left_before_a_reset(sent: bytes) -> None:
    loop, sockets = asyncio.get_running_loop(), Sockets()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        watch = Watch(SystemClock(), TIMEOUT_MS, lambda _: None)
        opened = sockets.open((socket.AF_INET, socket.SOCK_STREAM, 0, "", ()))
        opened.setblocking(False)
        await loop.sock_connect(opened, listener.getsockname())
        transport, connection = await loop.create_connection(lambda: _Connection(watch), sock=opened)
        accepted, _ = listener.accept()
        watch.attach(transport, sockets)
        transport.write(sent)
        if sent:
            accepted.recv(len(sent), socket.MSG_WAITALL)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        async with asyncio.timeout(60):
            await connection.lost.wait()
    assert watch.nothing_left is not bool(sent)


async def test_a_closed_port_is_reported_as_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1/events"
        settings = load(None, {"RELAY__UPSTREAM__URL": url, "RELAY__UPSTREAM__API_KEY": "canary-key-1"}).upstream
        client = UpstreamClient(settings, SystemClock())
        response = await client.post(1, b'{"events":[]}')
        await client.close()
    assert isinstance(response, NoResponse)
    assert (response.never_sent, response.is_unreachable) == (True, True)


async def test_after_a_change_of_the_network_requests_use_a_new_connection() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            await reader.readexactly(len(b'{"events":[]}'))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/events"
        settings = load(None, {"RELAY__UPSTREAM__URL": url, "RELAY__UPSTREAM__API_KEY": "canary-key-1"}).upstream
        client = UpstreamClient(settings, SystemClock())
        for _ in range(2):
            await client.post(1, b'{"events":[]}')
        assert connections == 1
        client.reconnect()
        await client.post(1, b'{"events":[]}')
        assert connections == 2
        await client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the sent segments")
async def test_after_a_lost_request_a_connection_that_is_closed_at_once_is_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server or modem without an uplink accepts each connection and resets it, also after it received the request."""
    monkeypatch.setattr(upstream, "_SETTLE_S", 60.0)  # The wait ends with the connection.
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/events"
        settings = load(None, {"RELAY__UPSTREAM__URL": url, "RELAY__UPSTREAM__API_KEY": "canary-key-1"}).upstream
        client = UpstreamClient(settings, SystemClock())
        lost, closed = [await client.post(1, b'{"events":[]}') for _ in range(2)]
        await client.close()
    assert isinstance(lost, NoResponse)
    assert not lost.is_unreachable
    assert closed == NoResponse("cannot connect: the connection was closed at once", True, True)


async def test_after_a_lost_request_the_next_one_is_sent_and_a_response_ends_the_caution() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        if connections > 1:
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/events"
        settings = load(None, {"RELAY__UPSTREAM__URL": url, "RELAY__UPSTREAM__API_KEY": "canary-key-1"}).upstream
        client = UpstreamClient(settings, SystemClock())
        assert isinstance(await client.post(1, b'{"events":[]}'), NoResponse)
        assert client._lost_origins
        assert isinstance(await client.post(1, b'{"events":[]}'), UpstreamResponse)
        assert not client._lost_origins
        await client.close()

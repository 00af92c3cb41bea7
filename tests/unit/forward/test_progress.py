"""Requests to an upstream that reads slowly or not at all, over real sockets, plain and TLS, on both event loops."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from relay.config import EndpointSettings, Upstream
from relay.forward.progress import SEND_BUFFER_BYTES, Sockets, Watch
from relay.forward.upstream import UpstreamClient
from relay.policy.verdict import NoResponse, UpstreamResponse
from relay.runtime.clock import SystemClock
from relay.runtime.secret import Secret

from tests.abuse.certificates import Authority

BODY = b"x" * 1_000_000
RECEIVE_BUFFER = 16 * 1024
ACCEPTED = b'HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"success":true}'
Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Peer:
    """An upstream with a small receive buffer. The test controls its reads; it counts the received bytes."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.port = self.listener.getsockname()[1]
        self.tls = tls
        self.received = 0
        self.end = ""
        """End of the connection: "reset", "closed", or the repr of another error."""
        self.connected = threading.Event()
        self.ended = threading.Event()

    def start(self, talk: Callable[[socket.socket], None]) -> None:
        """Accept one connection in a thread and call `talk` with it."""

        def serve() -> None:
            connection, _ = self.listener.accept()
            with connection:
                if self.tls:
                    connection = self.tls.wrap_socket(connection, server_side=True)
                connection.settimeout(30)
                self.connected.set()
                try:
                    talk(connection)
                except OSError as error:
                    self.end = "reset" if isinstance(error, ConnectionResetError) else repr(error)
                connection.close()
            self.ended.set()

        threading.Thread(target=serve, daemon=True).start()

    def read_wire(self, connection: socket.socket) -> None:
        """Read to the end of the connection, below TLS: OpenSSL reports a reset as an end."""
        with socket.socket(fileno=connection.detach()) as wire:
            wire.settimeout(30)
            self.read(wire, 2 * len(BODY))

    def read(self, connection: socket.socket, limit: int) -> None:
        """Read until the end of the connection, or at least this many bytes."""
        while self.received < limit:
            data = connection.recv(4096)
            if not data:
                self.end = "closed"
                return
            self.received += len(data)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return uvloop.run if request.param == "uvloop" else asyncio.run


@pytest.fixture(
    params=[
        "plain",
        "other system",
        pytest.param("tls", marks=pytest.mark.skipif(not shutil.which("openssl"), reason="")),
    ]
)
def wire(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Peer, str]]:
    """Yield an upstream and the file of its authority ("" without TLS). Only Linux reports acknowledged bytes."""
    authority, tls = "", None
    if request.param == "tls":
        made = Authority(tmp_path)
        tls, authority = made.server("good"), str(made.file)
    if request.param == "other system":
        monkeypatch.setattr(sys, "platform", "darwin")
    peer = Peer(tls)
    yield peer, authority
    peer.listener.close()


def client(peer: Peer, authority: str, timeout_ms: int) -> UpstreamClient:
    url = f"{'https' if authority else 'http'}://127.0.0.1:{peer.port}/v1/events"
    endpoint = EndpointSettings(url, Secret("k" * 20))
    return UpstreamClient(
        Upstream(default=endpoint, tenants={}, timeout_ms=timeout_ms, ca_file=authority), SystemClock()
    )


def test_timed_out_request_is_reset_and_its_body_is_not_received(wire: tuple[Peer, str], run: Run) -> None:
    peer, authority = wire
    timed_out = threading.Event()

    def talk(connection: socket.socket) -> None:
        timed_out.wait(30)
        peer.read_wire(connection)

    async def scenario() -> None:
        upstream = client(peer, authority, 1_000)
        response = await upstream.post(1, BODY)
        assert isinstance(response, NoResponse)
        assert response.while_sending
        assert not response.never_sent
        timed_out.set()
        assert await asyncio.to_thread(peer.ended.wait, 30)
        await upstream.close()

    peer.start(talk)
    run(scenario())
    assert peer.end == "reset"
    # The sender's buffer is discarded. The receiver's kernel may acknowledge several times its nominal buffer size.
    assert peer.received < SEND_BUFFER_BYTES + 8 * RECEIVE_BUFFER


def test_cancelled_request_is_reset_and_its_body_is_not_received(wire: tuple[Peer, str], run: Run) -> None:
    peer, authority = wire
    timed_out = threading.Event()

    def talk(connection: socket.socket) -> None:
        peer.read(connection, 1)
        timed_out.wait(30)
        peer.read_wire(connection)

    async def scenario() -> None:
        upstream = client(peer, authority, 30_000)
        task = asyncio.create_task(upstream.post(1, BODY))
        while not peer.received:
            assert not task.done()
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await upstream.close()

    peer.start(talk)
    run(scenario())
    timed_out.set()
    assert peer.ended.wait(30)
    assert peer.end == "reset"
    assert peer.received < SEND_BUFFER_BYTES + 8 * RECEIVE_BUFFER


def test_request_with_progress_may_take_longer_than_the_timeout(wire: tuple[Peer, str], run: Run) -> None:
    peer, authority = wire
    pause = threading.Event()

    def talk(connection: socket.socket) -> None:
        for part in range(1, 13):
            peer.read(connection, part * len(BODY) // 12)
            pause.wait(0.25)
        connection.sendall(ACCEPTED)

    async def scenario() -> None:
        upstream = client(peer, authority, 2_000)
        response = await upstream.post(1, BODY)
        assert isinstance(response, UpstreamResponse), response
        assert response.status == 202
        await upstream.close()

    peer.start(talk)
    run(scenario())
    assert peer.received >= len(BODY)


def test_received_request_waits_for_its_response_until_the_timeout(run: Run) -> None:
    peer = Peer()
    peer.start(lambda connection: peer.read(connection, 1 << 30))

    async def scenario() -> None:
        upstream = client(peer, "", 1_000)
        assert await upstream.post(1, b"{}") == NoResponse("no response within 1 s")
        assert await asyncio.to_thread(peer.ended.wait, 30)
        await upstream.close()

    run(scenario())
    peer.listener.close()
    assert peer.end == "reset"


def test_early_response_ends_the_request(run: Run) -> None:
    """The upstream responds with 413 before it reads the body. The relay does not send the rest."""
    peer = Peer()
    responded = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.recv(1024)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        responded.wait(30)
        peer.read(connection, 2 * len(BODY))

    async def scenario() -> None:
        upstream = client(peer, "", 30_000)
        response = await upstream.post(1, BODY)
        assert isinstance(response, UpstreamResponse), response
        assert response.status == 413
        responded.set()
        assert await asyncio.to_thread(peer.ended.wait, 30)
        await upstream.close()

    peer.start(talk)
    run(scenario())
    peer.listener.close()
    assert peer.received < SEND_BUFFER_BYTES + 8 * RECEIVE_BUFFER


class FastClock(SystemClock):
    """A clock that runs twenty times as fast as the system's."""

    def monotonic_ms(self) -> int:
        return 20 * super().monotonic_ms()


def test_silence_and_progress_of_a_request_are_reported(run: Run) -> None:
    peer = Peer()
    stalled = threading.Event()
    reported: list[int] = []

    def talk(connection: socket.socket) -> None:
        stalled.wait(30)
        peer.read(connection, len(BODY))
        connection.sendall(ACCEPTED)

    def report(silent_ms: int) -> None:
        reported.append(silent_ms)
        if silent_ms >= 5_000:
            stalled.set()

    async def scenario() -> None:
        endpoint = EndpointSettings(f"http://127.0.0.1:{peer.port}/v1/events", Secret("k" * 20))
        upstream = UpstreamClient(Upstream(default=endpoint, tenants={}, timeout_ms=600_000), FastClock())
        response = await upstream.post(1, BODY, report)
        assert isinstance(response, UpstreamResponse), response
        await upstream.close()

    peer.start(talk)
    run(scenario())
    peer.listener.close()
    longest = reported.index(max(reported))
    assert reported[longest] >= 5_000
    assert reported[longest + 1] < reported[longest], "bytes were received"
    assert reported[-1] == 0


def test_watch_of_an_ended_request_does_not_reset_the_connection_of_the_next(run: Run) -> None:
    async def scenario(address: tuple[str, int]) -> None:
        sockets = Sockets()
        opened = sockets.open((socket.AF_INET, socket.SOCK_STREAM, 0, "", address))
        opened.connect(address)
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=opened)
        first, second = (Watch(SystemClock(), 1_000, lambda _: None) for _ in range(2))
        first.attach(transport, sockets)
        second.attach(transport, sockets)
        first.abort()
        assert not transport.is_closing()
        second.abort()
        assert transport.is_closing()
        await asyncio.sleep(0)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        run(scenario(listener.getsockname()))


def test_send_buffer_is_small() -> None:
    opened = Sockets().open((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1)))
    with opened:
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= SEND_BUFFER_BYTES

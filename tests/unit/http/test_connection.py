"""Requests with a cached head get the same responses as those whose head is parsed, and the same as from aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import re
import socket
import termios
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import structlog
from aiohttp import web
from aiohttp.http import HttpVersion10
from hypothesis import given, settings
from hypothesis import strategies as st
from relay.config import Http
from relay.http.connection import KEEPALIVE_MS, LINGERING_MS, Connection
from relay.http.request import BodyHandler, Reply, Request
from relay.http.response import Response, Stream, Write, error_response
from relay.ingest.events_api import HttpIngest
from relay.outbox import OutboxFull, OutboxUnavailable
from relay.runtime.address import parse_address
from relay.runtime.metrics import REJECT_REASONS, Metrics

from tests.fault.sizes import LONG_S, size
from tests.support.event_loop import turns
from tests.support.ingest_harness import (
    BODY,
    PATIENCE_S,
    STORED,
    Client,
    HandClock,
    ScriptedOutbox,
    Served,
    gzipped,
    new_reader,
    post,
    request,
    until,
)

TIMEOUT_MS = 10_000
MAX_BODY_BYTES = 4_096
OTHER_BODY = BODY.replace(b"video.play", b"video.stop")
assert len(OTHER_BODY) == len(BODY)


async def taught(served: Served) -> Client:
    """A connection of a listener that knows the head of `post()`."""
    assert (await served.post()).status == 202
    return await served.connect()


# --- the cache


async def test_a_cached_head_is_not_parsed_again() -> None:
    async with Served() as served:
        client = await taught(served)
        for body in (BODY, OTHER_BODY, b"x" * len(BODY), BODY):
            client.send(post(body))
            assert (await client.response()).status == (400 if body[:1] == b"x" else 202)
        assert served.parsed_heads == 1
        assert [b"stop" in event.body for event in served.outbox.stored] == [False, False, True, False]
        assert served.count("events_received_total", transport="http") == 5
        assert served.count("events_accepted_total", transport="http") == 4


async def test_a_cached_head_and_its_body_may_arrive_separately_and_pipelined_data_waits() -> None:
    async with Served() as served:
        client = await taught(served)
        whole = post()
        for cut in (len(whole) - len(BODY), len(whole) - 1):
            client.send(whole[:cut])
            await turns(20)
            client.send(whole[cut:])
            assert (await client.response()).status == 202
        served.outbox.waits = True
        client.send(whole)
        await until(lambda: len(served.outbox.appends) == 4)
        client.send(whole)
        await turns(20)
        assert len(served.outbox.appends) == 4
        served.outbox.appends[3].set_result(STORED)
        assert (await client.response()).status == 202
        await until(lambda: len(served.outbox.appends) == 5)
        served.outbox.appends[4].set_result(STORED)
        assert (await client.response()).status == 202
        assert served.parsed_heads == 1


@pytest.mark.parametrize(
    ("raw", "parsed"),
    [
        (post(BODY, "Connection: close"), 1),
        (post(BODY, "Connection: Upgrade", "Upgrade: websocket"), 1),
        (post(BODY, "Upgrade: h2c"), 1),
        (post(BODY, "Expect: 100-continue"), 1),
        (post(BODY, "Origin: http://localhost"), 1),
        (post(gzipped(BODY), "Content-Encoding: gzip"), 1),
        (post(BODY).replace(b"HTTP/1.1", b"HTTP/1.0"), 1),
        (post(BODY).replace(b"/v1/events", b"/v1/events?x"), 1),
        (post(BODY, "Content-Type: text/html"), 2),
        (request("GET /nowhere HTTP/1.1"), 2),
        (request("POST /v1/events HTTP/1.1", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 2),
    ],
)
async def test_a_repeated_head_gets_the_same_response_and_only_accepted_ones_are_cached(
    raw: bytes, parsed: int
) -> None:
    async with Served(allowed_origins=["http://localhost"]) as served:
        first, second = await served.ask(raw), await served.ask(raw)
        assert (first.status, first.headers, first.body) == (second.status, second.headers, second.body)
        assert served.parsed_heads == parsed


# --- the same responses

PIECES = [
    post(), post(OTHER_BODY), post(b"x" * len(BODY)), post(b""), post(b"[]"), post(BODY, "X-Id: 1"),
    post(gzipped(BODY), "Content-Encoding: gzip"), request("GET /nowhere HTTP/1.1"),
    post(BODY, "Content-Type: text/html"),
    request("POST /v1/events HTTP/1.1", "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
    b"\r\n" + post(), post() + b"\r\n", post(BODY, "Connection: close"), b"GARBAGE\r\n\r\n", post()[:-3],
    post(BODY).replace(b"HTTP/1.1", b"HTTP/1.0"), post(host="evil.example"),
    post(b"[" + BODY + b"," + OTHER_BODY + b"]"), post(b'{"events":[' + BODY + b"]}"),
    post(BODY + b"\n" + OTHER_BODY, "Content-Type: application/x-ndjson"),
    post(b"[" + BODY.replace(b"tv", b"tx") + b"]"), post(BODY.replace(b"video.play", b"          ")),
    post(BODY.replace(b"video.play", b"x" * MAX_BODY_BYTES)), post(BODY, "Content-Length: 1"),
]  # fmt: skip
STATUSES = re.compile(rb"HTTP/1.[01] (\d+)")
PAUSES_MS = [0, 0, 0, TIMEOUT_MS // 2, TIMEOUT_MS - 1, TIMEOUT_MS]


@pytest.mark.timeout(LONG_S)
@given(
    st.lists(st.sampled_from(PIECES) | st.sampled_from(PIECES[:3]), min_size=1, max_size=6),
    st.lists(st.floats(0, 1), max_size=6),
    st.lists(st.sampled_from(PAUSES_MS), min_size=12, max_size=12),
)
@settings(max_examples=size(60, 10_000))
def test_cached_heads_give_the_same_responses_for_any_stream(
    requests: list[bytes], cuts: list[float], pauses_ms: list[int]
) -> None:
    stream = b"".join(requests)
    at = sorted({int(cut * len(stream)) for cut in cuts} | {sum(map(len, requests[:n])) for n in range(len(requests))})
    pieces = [stream[start:end] for start, end in zip([0, *at], [*at, len(stream)], strict=True) if start < end]
    paced = list(zip(pieces, pauses_ms, strict=False))
    assert asyncio.run(responses(paced, caches_heads=True)) == asyncio.run(responses(paced, caches_heads=False))


Paced = Sequence[tuple[bytes, int]]
"""Pieces of a stream, and how long the client then waits."""


async def responses(pieces: Paced, *, caches_heads: bool) -> tuple[bytes, list[bytes], dict[str, float]]:
    with structlog.testing.capture_logs():
        async with Served(caches_heads=caches_heads, max_body_bytes=MAX_BODY_BYTES) as served:
            assert (await served.post()).status == 202
            return (
                await exchange(served, pieces),
                [event.body for event in served.outbox.stored],
                {"received": served.count("events_received_total", transport="http")}
                | {reason: served.rejected(reason) for reason in REJECT_REASONS},
            )


@pytest.mark.parametrize(
    "teacher",
    [
        post() + request("GET /a HTTP/1.1") + b"x",
        request("POST /v1/events HTTP/1.1", "Transfer-Encoding: chunked")
        + b"1\r\n{\r\n0\r\n\r\nPOST /v1/events HTTP/1.1",
        post() + b"POST /v1/ev",
        b"POST /v1/ev",
        post()[:-1],
    ],
)
async def test_a_cached_head_inside_of_a_request_is_not_a_head(teacher: bytes) -> None:
    """The bytes of a whole known request, sent while the parser is inside of another, are that one's."""
    async with Served() as served:
        client = await taught(served)
        client.send(teacher)
        await turns(20)
        client.send(post())
        await turns(20)
        stored = len(served.outbox.stored)
        async with Served(caches_heads=False) as plain:
            other = await taught(plain)
            other.send(teacher)
            await turns(20)
            other.send(post())
            await turns(20)
            assert stored == len(plain.outbox.stored)


LAST = [PIECES[8], *PIECES[12:16], *PIECES[-2:]]
"""Requests after which a connection closes."""
INCOMPLETE = post()[:-3]
OTHERS = [piece for piece in PIECES if piece not in LAST]


@pytest.mark.timeout(LONG_S)
@given(
    st.lists(st.sampled_from(OTHERS), max_size=5),
    st.sampled_from(PIECES),
    st.lists(st.floats(0, 1), max_size=6),
)
@settings(max_examples=size(60, 10_000))
def test_any_stream_gets_the_same_statuses_from_aiohttps_server(
    requests: list[bytes], last: bytes, cuts: list[float]
) -> None:
    stream = b"".join([*requests, last])
    at = sorted({0, *(int(cut * len(stream)) for cut in cuts), len(stream)})
    pieces = [(stream[start:end], 0) for start, end in pairwise(at)]
    received, stored, _ = asyncio.run(responses(pieces, caches_heads=True))
    # The first event taught the relay its head.
    assert asyncio.run(aiohttps(requests, last)) == (STATUSES.findall(received), stored[1:])


async def aiohttps(requests: list[bytes], last: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return the statuses from aiohttp's own server with the same handlers, and the stored events."""
    outbox = ScriptedOutbox()
    settings = Http(max_body_bytes=MAX_BODY_BYTES)
    ingest = HttpIngest(new_reader(HandClock()), outbox, settings, Metrics())  # type: ignore[arg-type]

    async def serve(incoming: web.BaseRequest) -> web.Response:
        if incoming.host.startswith("evil"):
            return web.Response(status=403)
        handler = ingest.handle(Request(incoming.method, incoming.rel_url, incoming.headers, None))
        if not isinstance(handler, BodyHandler):
            return closing(web.Response(status=handler.status), handler.closes)
        body = await incoming.read()
        if len(body) > handler.max_bytes:
            return closing(web.Response(status=413), True)
        replied: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        handler.handle(body, replied.set_result)
        response = await replied
        return closing(web.Response(status=response.status), response.closes or incoming.version == HttpVersion10)

    runner = web.ServerRunner(web.Server(serve, auto_decompress=False, access_log=None, lingering_time=0.01))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
    received = b""
    with contextlib.suppress(ConnectionResetError):
        writer.write(b"".join(requests))
        while len(STATUSES.findall(received)) < len(requests):
            received += await reader.read(65_536)
        # aiohttp loses the requests of a segment that ends with a malformed one, and the responses after an EOF.
        writer.write(last)
        if last != INCOMPLETE:
            received += await reader.readuntil(b"\r\n\r\n")
        writer.write_eof()
        received += await reader.read()
    writer.close()
    await runner.cleanup()
    return STATUSES.findall(received), [event.body for event in outbox.stored]


def closing(response: web.Response, closes: bool) -> web.Response:
    if closes:
        response.force_close()
    return response


async def exchange(served: Served, pieces: Paced) -> bytes:
    """All that is answered to the pieces; the listener may close before the last one."""
    host, port = parse_address(served.listener.addresses[0])
    loop = asyncio.get_running_loop()
    received = b""
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, (host, port))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece, pause_ms in pieces:
                await loop.sock_sendall(client, piece)
                await until(lambda: not under_way(served, client))
                await turns(20)
                if pause_ms:
                    served.pass_time(pause_ms)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(PATIENCE_S):
                while data := await loop.sock_recv(client, 65_536):
                    received += data
    return received


def under_way(served: Served, client: socket.socket) -> bool:
    """Whether bytes were sent that the listener has not read, or will not because it closed (see tcp(7))."""
    transports = [connection._transport for connection in served.listener._connections]
    sockets = [transport.get_extra_info("socket") for transport in transports if transport is not None]
    return any(_queued(each, termios.FIONREAD) for each in sockets) or (
        bool(sockets) and _queued(client, termios.TIOCOUTQ)
    )


def _queued(of: socket.socket, queue: int) -> bool:
    return of.fileno() >= 0 and fcntl.ioctl(of, queue, b"\0" * 4) != b"\0" * 4


# --- deadlines, trouble and the end


async def test_a_cached_head_does_not_extend_the_timeout() -> None:
    async with Served() as served:
        client = await taught(served)
        client.send(post()[:-1])
        await turns(20)
        served.pass_time(TIMEOUT_MS - 1)
        assert served.rejected("timeout") == 0
        served.pass_time(1)
        assert (await client.response()).status == 408
        assert await client.rest() == b""


async def test_the_timeout_excludes_the_time_of_the_outbox() -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.waits = True
        client.send(post())
        await until(lambda: len(served.outbox.appends) == 2)
        client.send(post()[:-1])
        await turns(20)
        served.pass_time(TIMEOUT_MS * 9)
        served.outbox.appends[1].set_result(STORED)
        assert (await client.response()).status == 202
        served.pass_time(TIMEOUT_MS - 1)
        assert served.rejected("timeout") == 0
        served.pass_time(1)
        assert (await client.response()).status == 408


@pytest.mark.parametrize("error", [OutboxFull("the outbox is full"), OutboxUnavailable("the disk fails")])
async def test_a_failed_append_causes_503(error: Exception) -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.error = error
        client.send(post())
        response = await client.response()
        assert (response.status, response.json["error"]) == (503, str(error))
        assert "retry-after" in response.headers


async def test_a_cancelled_append_causes_503() -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.waits = True
        client.send(post())
        await until(lambda: len(served.outbox.appends) == 2)
        served.outbox.appends[1].cancel()
        assert (await client.response()).status == 503


async def test_an_exception_causes_503_and_is_logged() -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.error = ZeroDivisionError("a bug")
        with structlog.testing.capture_logs() as lines:
            client.send(post())
            assert (await client.response()).status == 503
        assert [type(line["exc_info"]) for line in lines] == [ZeroDivisionError]


async def test_an_exception_before_the_append_causes_503_and_is_logged() -> None:
    def fail(body: bytes, reply: Reply) -> None:
        if body == OTHER_BODY:
            raise ZeroDivisionError("a bug")
        reply(error_response(202, ""))

    def handler(_: Request) -> BodyHandler:
        return BodyHandler(fail, MAX_BODY_BYTES, lambda _: error_response(413, ""), is_cacheable=True)

    async with Served(handler) as served:
        client = await taught(served)
        with structlog.testing.capture_logs() as lines:
            client.send(post(OTHER_BODY))
            assert (await client.response()).status == 503
        assert [type(line["exc_info"]) for line in lines] == [ZeroDivisionError]


async def test_a_client_that_disconnects_before_the_commit_loses_no_event() -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.waits = True
        client.send(post())
        await until(lambda: len(served.outbox.appends) == 2)
        client.reset()
        await until(lambda: served.count("connections") == 0)
        served.outbox.appends[1].set_result(STORED)
        await until(lambda: served.count("events_accepted_total", transport="http") == 2)


async def test_a_client_that_finished_sending_gets_its_response() -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.waits = True
        client.send(post())
        client.writer.write_eof()
        await until(lambda: len(served.outbox.appends) == 2)
        served.outbox.appends[1].set_result(STORED)
        assert (await client.response()).status == 202
        assert await client.rest() == b""


@pytest.mark.parametrize("behind", [b"", post()[:-1], post(), post() + post()[:-1]])
@pytest.mark.parametrize("caches_heads", [True, False])
async def test_a_client_that_finished_sending_gets_responses_to_complete_requests(
    behind: bytes, caches_heads: bool
) -> None:
    async with Served(caches_heads=caches_heads) as served:
        client = await taught(served)
        served.outbox.waits = True
        client.send(post())
        await until(lambda: len(served.outbox.appends) == 2)
        client.send(behind)
        client.writer.write_eof()
        await turns(20)
        served.outbox.waits = False
        served.outbox.appends[1].set_result(STORED)
        assert (await client.rest()).count(b" 202 ") == 1 + behind.count(BODY)


async def test_a_connection_that_waits_for_a_commit_is_not_idle() -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.waits = True
        client.send(post())
        await until(lambda: len(served.outbox.appends) == 2)
        served.pass_time(KEEPALIVE_MS)
        served.outbox.appends[1].set_result(STORED)
        assert (await client.response()).status == 202
        served.pass_time(KEEPALIVE_MS - 1)
        client.send(post())
        await until(lambda: len(served.outbox.appends) == 3)
        served.outbox.appends[2].set_result(STORED)
        assert (await client.response()).status == 202
        served.pass_time(KEEPALIVE_MS)
        assert await client.rest() == b""


async def test_a_stop_waits_for_the_response() -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.waits = True
        client.send(post())
        await until(lambda: len(served.outbox.appends) == 2)
        stopping = asyncio.ensure_future(served.listener.stop(within_ms=20_000))
        await turns(20)
        assert not stopping.done()
        served.outbox.appends[1].set_result(STORED)
        assert (await client.response()).status == 202
        assert await client.rest() == b""
        await stopping


async def test_a_stop_does_not_exceed_its_time_limit() -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.waits = True
        client.send(post())
        await until(lambda: len(served.outbox.appends) == 2)
        await served.listener.stop(within_ms=20)
        assert await client.rest() == b""


# --- states


def only_connection(served: Served) -> Connection:
    (connection,) = served.listener._connections
    return connection


async def test_the_representation_names_the_state() -> None:
    async with Served() as served:
        client = await served.connect()
        await until(lambda: served.count("connections") == 1)
        connection = only_connection(served)
        assert repr(connection).startswith("<Connection new since 1000000 ms")
        served.outbox.waits = True
        client.send(post() + post()[:-1])
        await until(lambda: len(served.outbox.appends) == 1)
        assert "handling" in repr(connection)
        assert f"{len(post()) - 1} bytes pipelined" in repr(connection)
        served.outbox.waits = False
        served.outbox.appends[0].set_result(STORED)
        assert (await client.response()).status == 202
        await until(lambda: "receiving" in repr(connection))
        client.send(post()[-1:])
        assert (await client.response()).status == 202
        assert "idle" in repr(connection)


async def test_many_pipelined_requests_get_responses_in_order_and_other_clients_are_served_meanwhile() -> None:
    async with Served() as served:
        client, other = await served.connect(), await served.connect()
        client.send(b"".join(request(f"GET /{number} HTTP/1.1") + post() for number in range(2_000)))
        other.send(post())
        assert (await other.response()).status == 202
        assert [(await client.response()).status for _ in range(4_000)] == [404, 202] * 2_000


async def test_after_an_early_response_the_rest_of_the_body_is_discarded() -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(request("POST /nowhere HTTP/1.1", "Content-Length: 100000") + b"x" * 10)
        assert (await client.response()).status == 404
        client.send(b"x" * 99_990 + post())
        assert (await client.response()).status == 202


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_after_an_early_response_a_connection_lingers_for_a_limited_time(framing: str) -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(request("POST /nowhere HTTP/1.1", framing))
        assert (await client.response()).status == 404
        served.pass_time(LINGERING_MS - 1)
        assert "discarding" in repr(only_connection(served))
        served.pass_time(1)
        assert await client.rest() == b""
        assert served.rejected("timeout") == 0


async def test_line_breaks_are_not_the_start_of_a_request() -> None:
    async with Served() as served:
        silent, used = await served.connect(), await served.connect()
        used.send(post() + b"\r\n\r\n")
        assert (await used.response()).status == 202
        silent.send(b"\r\n")
        await turns(20)
        served.pass_time(TIMEOUT_MS)
        assert await silent.rest() == b""
        served.pass_time(KEEPALIVE_MS - TIMEOUT_MS)
        assert await used.rest() == b""
        assert served.rejected("timeout") == 0


@pytest.mark.parametrize("end", [b"", b"0\r\n\r\n"])
async def test_a_chunked_body_above_the_limit_gets_413(end: bytes) -> None:
    async with Served(max_body_bytes=MAX_BODY_BYTES) as served:
        client = await served.connect()
        body = b"%x\r\n%s\r\n" % (MAX_BODY_BYTES + 1, b"x" * (MAX_BODY_BYTES + 1))
        client.send(request("POST /v1/events HTTP/1.1", "Transfer-Encoding: chunked") + body + end)
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (413, "close")
        served.pass_time(LINGERING_MS)
        assert await client.rest() == b""
        assert served.rejected("too_large") == 1


async def test_a_request_waits_until_the_client_has_read_the_previous_response() -> None:
    large = 8 << 20

    def handler(_: Request) -> Response:
        return Response(200, bytes(large))

    async with Served(handler) as served:
        client = await served.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(request("GET / HTTP/1.1") * 2)
        await until(lambda: served.parsed_heads == 1)
        assert "writing" in repr(only_connection(served))
        assert only_connection(served).idle_since_ms is None
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert [len((await client.response()).body) for _ in range(2)] == [large, large]


@pytest.mark.parametrize("bug", [None, ZeroDivisionError("a bug")])
async def test_a_stream_ends_with_the_connection(bug: Exception | None) -> None:
    async def send(write: Write) -> None:
        write(b"first")
        await asyncio.sleep(0)
        write(b"second")
        if bug is not None:
            raise bug

    def handler(_: Request) -> BodyHandler:
        return BodyHandler(lambda _, reply: reply(Stream((), send)), 0, lambda _: error_response(413, ""))

    async with Served(handler) as served:
        client = await served.connect()
        with structlog.testing.capture_logs() as lines:
            client.send(request("GET / HTTP/1.1"))
            assert await client.rest() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfirstsecond"
        assert [line["exc_info"] for line in lines] == ([] if bug is None else [bug])


async def test_a_stream_to_a_client_that_does_not_read_is_aborted() -> None:
    ended = asyncio.Event()

    async def send(write: Write) -> None:
        try:
            while True:
                write(bytes(1 << 20))
                await asyncio.sleep(0)
        finally:
            ended.set()

    def handler(_: Request) -> BodyHandler:
        return BodyHandler(lambda _, reply: reply(Stream((), send)), 0, lambda _: error_response(413, ""))

    async with Served(handler) as served:
        client = await served.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(request("GET / HTTP/1.1"))
        await until(lambda: served.parsed_heads == 1)
        await until(lambda: served.pass_time(TIMEOUT_MS) or served.count("connections") == 0)
        await ended.wait()

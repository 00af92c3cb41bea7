"""Plain requests take the fast path, and get the same responses as on the normal path."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import termios
from collections.abc import Sequence

import pytest
import structlog
from aiohttp import web
from aiohttp.http import RawRequestMessage
from hypothesis import given, settings
from hypothesis import strategies as st
from relay.http.head_cache import BodyHandler, Reply
from relay.http.response import Response
from relay.outbox import OutboxFull, OutboxUnavailable
from relay.runtime.address import parse_address
from relay.runtime.metrics import REJECT_REASONS

from tests.fault.sizes import LONG_S, size
from tests.support.ingest_harness import ANSWERED_WITHIN_S, BODY, Client, Served, gzipped, post, request, until

TIMEOUT_MS = 10_000
MAX_BODY_BYTES = 4_096
OTHER_BODY = BODY.replace(b"video.play", b"video.stop")
assert len(OTHER_BODY) == len(BODY)


async def taught(served: Served) -> Client:
    """A connection of a listener that knows the head of `post()`."""
    assert (await served.post()).status == 202
    return await served.connect()


def ordinary(served: Served) -> int:
    """Requests that took the ordinary way."""
    assert served.listener._web is not None
    return served.listener._web.requests_count


# --- it is taken


async def test_a_cached_head_is_not_parsed_again() -> None:
    async with Served() as served:
        client = await taught(served)
        for body in (BODY, OTHER_BODY, b"x" * len(BODY), BODY):
            client.send(post(body))
            assert (await client.answer()).status == (400 if body[:1] == b"x" else 202)
        assert ordinary(served) == 1
        assert [b"stop" in event.body for event in served.outbox.kept] == [False, False, True, False]
        assert served.count("events_received_total", transport="http") == 5
        assert served.count("events_accepted_total", transport="http") == 4


async def test_a_cached_head_and_its_body_may_arrive_separately_and_pipelined_data_waits() -> None:
    async with Served() as served:
        client = await taught(served)
        whole = post()
        for cut in (len(whole) - len(BODY), len(whole) - 1):
            client.send(whole[:cut])
            for _ in range(20):
                await asyncio.sleep(0)
            client.send(whole[cut:])
            assert (await client.answer()).status == 202
        served.outbox.waits = True
        client.send(whole)
        await until(lambda: len(served.outbox.appends) == 4)
        client.send(whole)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(served.outbox.appends) == 4
        served.outbox.appends[3].set_result(0)
        assert (await client.answer()).status == 202
        await until(lambda: len(served.outbox.appends) == 5)
        served.outbox.appends[4].set_result(0)
        assert (await client.answer()).status == 202
        assert ordinary(served) == 1


@pytest.mark.parametrize(
    "raw",
    [
        post(BODY, "Connection: close"),
        post(BODY, "Connection: Upgrade", "Upgrade: websocket"),
        post(BODY, "Upgrade: h2c"),
        post(BODY, "Expect: 100-continue"),
        post(BODY, "Origin: http://localhost"),
        post(gzipped(BODY), "Content-Encoding: gzip"),
        post(BODY, "Content-Type: text/html"),
        post(BODY, host="evil.example"),
        post(BODY).replace(b"HTTP/1.1", b"HTTP/1.0"),
        post(BODY).replace(b"/v1/events", b"/v1/events?x"),
        request("GET /nowhere HTTP/1.1"),
        request("POST /v1/events HTTP/1.1", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    ],
)
async def test_a_request_that_is_not_plain_takes_the_normal_path(raw: bytes) -> None:
    async with Served(allowed_origins=["http://localhost"]) as served:
        first, second = await served.ask(raw), await served.ask(raw)
        assert (first.status, first.headers, first.body) == (second.status, second.headers, second.body)
        assert ordinary(served) == 2


# --- nobody can tell

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
PAUSES_MS = [0, 0, 0, TIMEOUT_MS // 2, TIMEOUT_MS - 1, TIMEOUT_MS]


@pytest.mark.timeout(LONG_S)
@given(
    st.lists(st.sampled_from(PIECES) | st.sampled_from(PIECES[:3]), min_size=1, max_size=6),
    st.lists(st.floats(0, 1), max_size=6),
    st.lists(st.sampled_from(PAUSES_MS), min_size=12, max_size=12),
)
@settings(max_examples=size(60, 10_000))
def test_the_fast_path_gives_the_same_responses_for_any_stream(
    requests: list[bytes], cuts: list[float], pauses_ms: list[int]
) -> None:
    stream = b"".join(requests)
    at = sorted({int(cut * len(stream)) for cut in cuts} | {sum(map(len, requests[:n])) for n in range(len(requests))})
    pieces = [stream[start:end] for start, end in zip([0, *at], [*at, len(stream)], strict=True) if start < end]
    paced = list(zip(pieces, pauses_ms, strict=False))
    assert asyncio.run(answers(paced, fast_path=True)) == asyncio.run(answers(paced, fast_path=False))


Paced = Sequence[tuple[bytes, int]]
"""Pieces of a stream, and how long the client then waits."""


async def answers(pieces: Paced, *, fast_path: bool) -> tuple[bytes, list[bytes], dict[str, float]]:
    with structlog.testing.capture_logs():
        async with Served(fast_path=fast_path, max_body_bytes=MAX_BODY_BYTES) as served:
            assert (await served.post()).status == 202
            return (
                await exchange(served, pieces),
                [event.body for event in served.outbox.kept],
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
        for _ in range(20):
            await asyncio.sleep(0)
        client.send(post())
        for _ in range(20):
            await asyncio.sleep(0)
        kept = len(served.outbox.kept)
        async with Served(fast_path=False) as plain:
            other = await taught(plain)
            other.send(teacher)
            for _ in range(20):
                await asyncio.sleep(0)
            other.send(post())
            for _ in range(20):
                await asyncio.sleep(0)
            assert kept == len(plain.outbox.kept)


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
                for _ in range(20):
                    await asyncio.sleep(0)
                if pause_ms:
                    served.pass_time(pause_ms)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(ANSWERED_WITHIN_S):
                while data := await loop.sock_recv(client, 65_536):
                    received += data
    return received


def under_way(served: Served, client: socket.socket) -> bool:
    """Whether bytes were sent that the listener has not read, or will not because it closed (see tcp(7))."""
    transports = [connection.transport for connection in served.listener._connections]
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
        for _ in range(20):
            await asyncio.sleep(0)
        served.pass_time(TIMEOUT_MS - 1)
        assert served.rejected("timeout") == 0
        served.pass_time(1)
        assert (await client.answer()).status == 408
        assert await client.rest() == b""


async def test_the_timeout_excludes_the_time_of_the_outbox() -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.waits = True
        client.send(post())
        await until(lambda: len(served.outbox.appends) == 2)
        client.send(post()[:-1])
        for _ in range(20):
            await asyncio.sleep(0)
        served.pass_time(TIMEOUT_MS * 9)
        served.outbox.appends[1].set_result(0)
        assert (await client.answer()).status == 202
        served.pass_time(TIMEOUT_MS - 1)
        assert served.rejected("timeout") == 0
        served.pass_time(1)
        assert (await client.answer()).status == 408


@pytest.mark.parametrize("error", [OutboxFull("the outbox is full"), OutboxUnavailable("the disk fails")])
async def test_a_failed_append_causes_503(error: Exception) -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.error = error
        client.send(post())
        answer = await client.answer()
        assert (answer.status, answer.json["error"]) == (503, str(error))
        assert "retry-after" in answer.headers


async def test_a_cancelled_append_causes_503() -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.waits = True
        client.send(post())
        await until(lambda: len(served.outbox.appends) == 2)
        served.outbox.appends[1].cancel()
        assert (await client.answer()).status == 503


async def test_an_exception_causes_503_and_is_logged() -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.error = ZeroDivisionError("a bug")
        with structlog.testing.capture_logs() as lines:
            client.send(post())
            assert (await client.answer()).status == 503
        assert [type(line["exc_info"]) for line in lines] == [ZeroDivisionError]


async def test_an_exception_before_the_append_causes_503_and_is_logged() -> None:
    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        return Response(202, b"{}")

    def take(_body: bytes, _reply: Reply) -> None:
        raise ZeroDivisionError("a bug")

    def judge(_: RawRequestMessage) -> BodyHandler:
        return take

    async with Served(handler, judge=judge) as served:
        client = await taught(served)
        with structlog.testing.capture_logs() as lines:
            client.send(post())
            assert (await client.answer()).status == 503
        assert [type(line["exc_info"]) for line in lines] == [ZeroDivisionError]


async def test_a_client_that_disconnects_before_the_commit_loses_no_event() -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.waits = True
        client.send(post())
        await until(lambda: len(served.outbox.appends) == 2)
        client.reset()
        await until(lambda: served.count("connections") == 0)
        served.outbox.appends[1].set_result(0)
        await until(lambda: served.count("events_accepted_total", transport="http") == 2)


async def test_a_client_that_finished_sending_gets_its_response() -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.waits = True
        client.send(post())
        client.writer.write_eof()
        await until(lambda: len(served.outbox.appends) == 2)
        served.outbox.appends[1].set_result(0)
        assert (await client.answer()).status == 202
        assert await client.rest() == b""


@pytest.mark.parametrize("behind", [b"", post()[:-1], post(), post() + post()[:-1]])
@pytest.mark.parametrize("fast_path", [True, False])
async def test_a_client_that_finished_sending_gets_responses_to_complete_requests(
    behind: bytes, fast_path: bool
) -> None:
    async with Served(fast_path=fast_path) as served:
        client = await taught(served)
        served.outbox.waits = True
        client.send(post())
        await until(lambda: len(served.outbox.appends) == 2)
        client.send(behind)
        client.writer.write_eof()
        for _ in range(20):
            await asyncio.sleep(0)
        served.outbox.waits = False
        served.outbox.appends[1].set_result(0)
        assert (await client.rest()).count(b" 202 ") == 1 + behind.count(BODY)


async def test_a_connection_that_waits_for_a_commit_is_not_idle() -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.waits = True
        client.send(post())
        await until(lambda: len(served.outbox.appends) == 2)
        (connection,) = [each for each in served.listener._connections if each._on_fast_path]
        connection._next_keepalive_close_time = 0
        connection._process_keepalive()
        served.outbox.appends[1].set_result(0)
        assert (await client.answer()).status == 202
        connection._next_keepalive_close_time = 0
        connection._process_keepalive()
        assert await client.rest() == b""


async def test_a_stop_waits_for_the_response() -> None:
    async with Served() as served:
        client = await taught(served)
        served.outbox.waits = True
        client.send(post())
        await until(lambda: len(served.outbox.appends) == 2)
        stopping = asyncio.ensure_future(served.listener.stop(within_ms=20_000))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not stopping.done()
        served.outbox.appends[1].set_result(0)
        assert (await client.answer()).status == 202
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

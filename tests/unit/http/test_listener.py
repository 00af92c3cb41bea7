"""Sockets, connections and deadlines of the HTTP side, over raw bytes and with a clock moved by hand."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import stat
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog
from relay.http.connection import LINGERING_MS
from relay.http.request import Request
from relay.http.response import Response
from relay.outbox import OutboxUnavailable
from relay.runtime.address import ListenError

from tests.support.event_loop import turns
from tests.support.ingest_harness import BODY, STORED, Client, Served, post, request, until

TIMEOUT_MS = 10_000


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture):
    """No behaviour of a client causes a log line."""
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as lines:
        yield lines
    assert [record for record in caplog.get_records("call") if record.levelno >= logging.INFO] == []


# --- what is no HTTP

HEAD = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x00\x00\x00\r\n\r\n",
        b"POST /v1/events\r\n\r\n",
        b"GET / HTTP/0.9\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        HEAD + b"Host: localhost\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: +5\r\n\r\nabcde",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        HEAD + b"X-Bare: a\nContent-Length: 5\r\n\r\nabcde",
        HEAD + b"X-Nul: a\x00b\r\n\r\n",
        HEAD + b"X Space: a\r\n\r\n",
        HEAD + b"X-Space : a\r\n\r\n",
        HEAD + b" folded: a\r\n\r\n",
        b"GET http:///v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
async def test_an_invalid_request_gets_400_and_the_connection_is_closed(raw: bytes, quiet: list[object]) -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(raw)
        response = await client.response()
        assert response.status == 400
        assert response.json["success"] is False
        assert response.headers["connection"] == "close"
        assert await client.rest() == b""
        assert served.outbox.appends == []
        assert served.rejected("malformed") == 1
        assert quiet == []


@pytest.mark.parametrize(
    "raw",
    [
        HEAD + b"".join(b"X-%d: 1\r\n" % number for number in range(5_000)) + b"\r\n",
        HEAD + b"X-Large: " + b"a" * 32_768 + b"\r\n\r\n",
        HEAD + b"Cookie: " + b"a" * 20_000 + b"\r\nX-Large: " + b"a" * 20_000 + b"\r\n\r\n",
        HEAD + b"Cookie: " + b"a" * 20_000 + b"\r\nX-Large: " + b"a" * 20_000,
        b"POST /" + b"a" * 32_768 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["fields", "field", "two fields", "incomplete", "target"],
)
@pytest.mark.parametrize("piece_bytes", [1 << 20, 32_000, 5_000])
async def test_a_head_beyond_32_kib_receives_431_and_is_closed(
    raw: bytes, piece_bytes: int, quiet: list[object]
) -> None:
    async with Served() as served:
        client = await served.connect()
        for at in range(0, len(raw), piece_bytes):
            client.send(raw[at : at + piece_bytes])
            await arrived(served, raw)
        response = await client.response()
        assert response.status == 431
        assert "32768 bytes" in response.json["error"]
        assert response.headers["connection"] == "close"
        assert served.rejected("malformed") == 1
        assert served.outbox.appends == []
        assert quiet == []


@pytest.mark.parametrize(
    "headers",
    [["Cookie: " + "a" * 8_300], ["Cookie: " + "a" * 32_600], [f"X-{number}: {number}" for number in range(2_000)]],
    ids=["8300", "32600", "2000 fields"],
)
async def test_a_head_within_32_kib_is_served(headers: list[str]) -> None:
    async with Served() as served:
        assert (await served.post(BODY, *headers)).status == 202


async def test_a_trailing_slash_changes_nothing() -> None:
    async with Served() as served:
        client = await served.connect()
        for _ in range(3):
            client.send(post().replace(b"/v1/events ", b"/v1/events/ "))
            assert (await client.response()).status == 202
        assert (await served.ask(request("GET /v1/events/ HTTP/1.1"))).status == 405


async def test_a_request_smuggled_behind_another_is_not_read() -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + post())
        assert (await client.response()).status == 400
        assert await client.rest() == b""
        assert served.outbox.appends == []


@pytest.mark.parametrize(
    ("line", "host"),
    [
        ("GET /v1/events/x HTTP/1.1", "evil.example"), ("GET / HTTP/1.1", "evil.example"),
        ("GET / HTTP/1.1", "0.0.0.0:8080"),
        ("GET /metrics HTTP/1.1", "evil.example"), ("GET http://evil.example/ HTTP/1.1", "localhost"),
        ("GET http://localhost/ HTTP/1.1", "evil.example"), ("CONNECT evil.example:443 HTTP/1.1", "localhost"),
        ("OPTIONS * HTTP/1.1", "evil.example"), ("GET / HTTP/1.0", "evil.example"),
    ],
)  # fmt: skip
async def test_the_guard_applies_to_every_route(line: str, host: str) -> None:
    def handler(_: Request) -> Response:
        raise AssertionError("the handler must not see this")

    async with Served(handler) as served:
        response = await served.ask(request(line, host=host))
        assert response.status == 403
        assert response.json["success"] is False


async def test_without_host_only_http_1_0_is_served_and_closed() -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(
            b"POST /v1/events HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
        )
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (202, "close")
        assert await client.rest() == b""


# --- requests in a row


async def test_pipelined_requests_get_responses_in_order() -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(post() + request("GET /nowhere HTTP/1.1") + post(b"{") + post())
        assert [(await client.response()).status for _ in range(4)] == [202, 404, 400, 202]


async def test_a_head_and_a_body_may_arrive_byte_by_byte() -> None:
    async with Served() as served:
        client = await served.connect()
        for byte in post():
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.response()).status == 202


async def test_a_client_that_expects_100_continue_gets_it() -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(request("POST /v1/events HTTP/1.1", f"Content-Length: {len(BODY)}", "Expect: 100-Continue"))
        assert await client.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(BODY)
        assert (await client.response()).status == 202


@pytest.mark.parametrize(
    ("header", "host", "status"),
    [
        ("Content-Length: 5", "evil.example", 403),
        (f"Content-Length: {2 << 20}", "localhost", 413),
        ("Content-Length: 5\r\nContent-Type: text/html", "localhost", 415),
    ],
)
async def test_a_client_whose_request_is_rejected_gets_no_100_continue(header: str, host: str, status: int) -> None:
    async with Served() as served:
        response = await served.ask(request("POST /v1/events HTTP/1.1", header, "Expect: 100-continue", host=host))
        assert response.status == status


async def test_the_relay_honours_connection_close() -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(post(BODY, "Connection: close"))
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (202, "close")
        assert await client.rest() == b""


async def test_a_client_that_finished_sending_gets_every_response() -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(post() + post())
        client.writer.write_eof()
        assert [(await client.response()).status for _ in range(2)] == [202, 202]
        assert await client.rest() == b""


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
async def test_a_declined_upgrade_closes_the_connection(protocol: str) -> None:
    async with Served() as served:
        for _ in range(2):
            client = await served.connect()
            client.send(post(BODY, "Connection: Upgrade", f"Upgrade: {protocol}") + post())
            response = await client.response()
            assert (response.status, response.headers["connection"]) == (202, "close")
            assert await client.rest() == b""
        assert len(served.outbox.stored) == 2


@pytest.mark.parametrize("leave", ["reset", "close"])
@pytest.mark.parametrize("after_turns", [0, 1, 2, 3, 4, 5, 30])
@pytest.mark.parametrize("sent", [b"", b"POST /v1", post()[:-5], post(), post() * 3])
async def test_a_client_that_disconnects_at_any_time_is_not_logged_or_counted(
    sent: bytes, after_turns: int, leave: str, quiet: list[object]
) -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(sent)
        await turns(after_turns)
        client.reset() if leave == "reset" else client.writer.close()
        await arrived(served, b"x")
        await until(lambda: served.count("connections") == 0)
        assert quiet == []
        assert served.rejected("malformed") == 0


@pytest.mark.parametrize("caches_heads", [True, False])
@pytest.mark.parametrize("framing", ["Content-Length: 900000", "Transfer-Encoding: chunked"])
async def test_an_incomplete_body_is_freed_without_a_garbage_collection(framing: str, caches_heads: bool) -> None:
    """Not when the garbage collector comes: by then there may be hundreds."""
    piece = b"[" + b" " * 99_999
    if "chunked" in framing:
        piece = b"%x\r\n%b\r\n" % (len(piece), piece)
    async with Served(caches_heads=caches_heads) as served:

        async def break_off() -> None:
            client = await served.connect()
            client.send(request("POST /v1/events HTTP/1.1", framing) + piece * 8)
            client.writer.close()
            await until(lambda: served.count("connections") == 1)
            await until(lambda: served.count("connections") == 0)

        assert await used_bytes(break_off) < 400_000, "of 4,000,000 that came"


@pytest.mark.parametrize("caches_heads", [True, False])
@pytest.mark.parametrize("start", [b"GET /", HEAD + b"X-Long: ", HEAD + b"Cookie: "])
async def test_a_head_above_the_limit_is_freed_without_a_garbage_collection(start: bytes, caches_heads: bool) -> None:
    async with Served(caches_heads=caches_heads) as served:

        async def flood() -> None:
            client = await served.connect()
            client.send(start + b"a=b; " * 160_000 + b"\r\n\r\n")
            await until(lambda: served.count("connections") == 1)
            assert (await client.response()).status == 431
            served.pass_time(LINGERING_MS)
            await client.rest()
            client.writer.close()
            await until(lambda: served.count("connections") == 0)

        assert await used_bytes(flood) < 400_000, "of 4,000,000 that came"


async def used_bytes(use: Callable[[], Awaitable[None]]) -> int:
    """What five uses leave to the garbage collector, and more; the first one, before them, does not count."""
    await use()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(5):
            await use()
        stored, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    return stored


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("leave", ["eof", "reset", "nonsense"])
async def test_errors_after_a_rejection_are_not_logged(framing: str, leave: str, quiet: list[object]) -> None:
    """The rest of the body is read only to be thrown away."""
    async with Served() as served:
        client = await served.connect()
        client.send(request("POST /nowhere HTTP/1.1", framing) + b"5\r\nabcde\r\n")
        assert (await client.response()).status == 404
        if leave == "eof":
            client.writer.write_eof()
        elif leave == "reset":
            client.reset()
        else:
            client.send(b"not a size\r\n")
            client.writer.write_eof()
        await until(lambda: served.count("connections") == 0)
    assert quiet == []


async def test_a_client_that_disconnects_before_the_commit_loses_no_event(quiet: list[object]) -> None:
    async with Served() as served:
        served.outbox.waits = True
        client = await served.connect()
        client.send(post())
        await until(lambda: bool(served.outbox.appends))
        client.reset()
        await until(lambda: served.count("connections") == 0)
        served.outbox.appends[0].set_result(STORED)
        await until(lambda: served.count("events_accepted_total", transport="http") == 1)
        assert quiet == []


# --- slow clients: the six shapes


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/ev",
        HEAD + b"X-Slow: a",
        HEAD + b"Content-Length: 100\r\n\r\n",
        HEAD + b"Content-Length: 100\r\n\r\nabc",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
    ids=["request line", "header", "no body", "half a body", "half a chunk"],
)
async def test_a_slow_client_gets_408_and_is_closed(sent: bytes) -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(sent)
        await until(lambda: served.count("connections") == 1)
        await arrived(served, sent)
        served.pass_time(TIMEOUT_MS - 1)
        assert served.count("connections") == 1
        served.pass_time(1)
        response = await client.response()
        assert response.status == 408
        assert response.json["success"] is False
        assert await client.rest() == b""
        assert served.rejected("timeout") == 1
        await until(lambda: served.count("connections") == 0)


@pytest.mark.parametrize("caches_heads", [True, False])
async def test_a_connection_that_sends_no_byte_is_closed_silently(caches_heads: bool) -> None:
    async with Served(caches_heads=caches_heads) as served:
        client = await served.connect()
        await until(lambda: served.count("connections") == 1)
        served.pass_time(TIMEOUT_MS - 1)
        assert served.count("connections") == 1
        served.pass_time(1)
        assert await client.rest() == b""
        assert served.count("events_received_total", transport="http") == 0
        assert served.rejected("timeout") == 0
        await until(lambda: served.count("connections") == 0)


async def test_an_allowed_page_can_read_the_408() -> None:
    origin = "http://box.example"
    async with Served(allowed_origins=[origin], request_timeout_ms=1_000) as served:
        client = await served.connect()
        begun = post(BODY, f"Origin: {origin}")[:-1]
        client.send(begun)
        await arrived(served, begun)
        served.pass_time(1_000)
        response = await client.response()
    assert response.status == 408
    assert response.headers["access-control-allow-origin"] == origin
    assert response.headers["vary"] == "Origin"


@pytest.mark.parametrize(
    "start", [b"POST /", HEAD, HEAD + b"Content-Length: 100\r\n\r\n"], ids=["line", "headers", "body"]
)
async def test_single_bytes_do_not_extend_the_timeout(start: bytes) -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(start)
        await arrived(served, start)
        for _ in range(9):
            client.send(b"a")
            await arrived(served, b"a")
            served.pass_time(TIMEOUT_MS // 10)
        assert served.rejected("timeout") == 0
        served.pass_time(TIMEOUT_MS // 10)
        assert (await client.response()).status == 408


async def test_the_timeout_of_the_next_request_starts_with_its_first_byte() -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(post())
        assert (await client.response()).status == 202
        served.pass_time(TIMEOUT_MS * 3)
        client.send(post()[:10])
        await arrived(served, b"x")
        served.pass_time(TIMEOUT_MS - 1)
        client.send(post()[10:])
        assert (await client.response()).status == 202
        assert served.rejected("timeout") == 0


async def test_the_timeout_excludes_the_time_of_the_outbox() -> None:
    async with Served() as served:
        served.outbox.waits = True
        client = await served.connect()
        client.send(post() + post()[:-1])
        await until(lambda: bool(served.outbox.appends))
        served.pass_time(TIMEOUT_MS * 5)
        served.outbox.appends[0].set_result(STORED)
        assert (await client.response()).status == 202
        served.pass_time(TIMEOUT_MS - 1)
        client.send(post()[-1:])
        await until(lambda: len(served.outbox.appends) == 2)
        served.outbox.appends[1].set_result(STORED)
        assert (await client.response()).status == 202
        assert served.rejected("timeout") == 0


async def test_a_slow_request_after_a_complete_one_times_out() -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(post() + post()[:-1])
        assert (await client.response()).status == 202
        await arrived(served, b"x")
        served.pass_time(TIMEOUT_MS)
        assert (await client.response()).status == 408


@pytest.mark.parametrize("header", ["Connection: keep-alive", "Connection: close"])
async def test_a_client_that_does_not_read_responses_is_closed(header: str) -> None:
    requested = asyncio.Event()

    def handler(_: Request) -> Response:
        requested.set()
        return Response(200, bytes(8 << 20))

    async with Served(handler) as served:
        client = await served.connect()
        client.writer.transport.pause_reading()
        client.send(request("GET / HTTP/1.1", header))
        await requested.wait()
        await arrived(served, b"x")
        served.pass_time(TIMEOUT_MS - 1)
        assert served.count("connections") == 1
        await until(lambda: served.pass_time(TIMEOUT_MS) or served.count("connections") == 0)
        assert served.rejected("timeout") == 0


async def arrived(served: Served, sent: bytes) -> None:
    """Let what a client sent over loopback reach the listener."""
    await turns(20 if sent else 2)


# --- how many


async def test_at_the_limit_the_longest_idle_connection_is_closed() -> None:
    async with Served(max_connections=3) as served:
        first, second, third = [await served.connect() for _ in range(3)]
        for client in (second, first, third, second):
            served.clock.now_ms += 1
            client.send(post())
            assert (await client.response()).status == 202
        newest = await served.connect()
        assert await first.rest() == b""
        for client in (second, third, newest):
            client.send(post())
            assert (await client.response()).status == 202
        assert served.count("connections_rejected_total") == 0


async def test_an_app_that_closes_no_connections_does_not_block_others() -> None:
    async with Served(max_connections=5) as served:
        for _ in range(20):
            served.clock.now_ms += 1
            leaky = await served.connect()
            leaky.send(post())
            assert (await leaky.response()).status == 202
        assert (await served.post()).status == 202
        assert served.count("connections_rejected_total") == 0
        assert len(served.listener._connections) == served.count("connections") <= 5


async def test_if_no_connection_is_idle_the_new_one_receives_503_and_is_counted() -> None:
    async with Served(max_connections=2) as served:
        served.outbox.waits = True
        half, whole = [await served.connect() for _ in range(2)]
        half.send(post()[:-1])
        whole.send(post())
        await until(lambda: bool(served.outbox.appends))
        await arrived(served, b"x")
        rejected = await served.connect()
        response = await rejected.response()
        assert response.status == 503
        assert int(response.headers["retry-after"]) > 0
        assert await rejected.rest() == b""
        assert served.count("connections_rejected_total") == 1
        served.outbox.waits = False
        served.outbox.appends[0].set_result(STORED)
        half.send(post()[-1:])
        assert [(await client.response()).status for client in (half, whole)] == [202, 202]


# --- bugs


async def test_an_exception_causes_503_and_one_log_line_without_locals(quiet: list[dict[str, object]]) -> None:
    def handler(_: Request) -> Response:
        raise RuntimeError("a bug")

    async with Served(handler) as served:
        responses = [await served.ask(request("GET / HTTP/1.1")) for _ in range(3)]
        assert {response.status for response in responses} == {503}
        assert responses[0].json["success"] is False
        assert "a bug" not in responses[0].json["error"]
        assert [line["log_level"] for line in quiet] == ["error"]
        assert isinstance(quiet[0]["exc_info"], RuntimeError)
        assert served.count("log_lines_suppressed_total") == 2
        served.pass_time(60_000)
        await served.ask(request("GET / HTTP/1.1"))
        assert len(quiet) == 2


# --- start and stop


async def test_ipv6_and_unix_sockets_are_served(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    async with Served(listen="[::1]:0", unix_socket=str(path)) as served:
        tcp, unix = served.listener.addresses
        assert tcp.startswith("[::1]:") and unix == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        for address in (tcp, unix):
            client = await Client.connect(address)
            client.send(post())
            assert (await client.response()).status == 202
            client.writer.close()
    assert not path.exists()


@pytest.mark.parametrize("host", ["", "/run/relay/relay.sock", "%2Frun%2Frelay%2Frelay.sock", "unix", "relay.sock"])
async def test_over_the_unix_socket_any_host_is_accepted(tmp_path: Path, host: str) -> None:
    async with Served(listen="", unix_socket=str(tmp_path / "relay.sock")) as served:
        client = await Client.connect(served.listener.addresses[0])
        for _ in range(3):
            client.send(post(host=host))
            assert (await client.response()).status == 202
        client.writer.close()


async def test_a_head_that_the_unix_socket_served_is_still_forbidden_over_tcp(tmp_path: Path) -> None:
    async with Served(unix_socket=str(tmp_path / "relay.sock")) as served:
        tcp, unix = [await Client.connect(address) for address in served.listener.addresses]
        for _ in range(3):
            unix.send(post(host="evil.example"))
            assert (await unix.response()).status == 202
        tcp.send(post(host="evil.example"))
        assert (await tcp.response()).status == 403
        for client in (tcp, unix):
            client.writer.close()


async def test_over_the_unix_socket_a_page_of_another_origin_is_still_forbidden(tmp_path: Path) -> None:
    async with Served(listen="", unix_socket=str(tmp_path / "relay.sock")) as served:
        assert (await served.post(BODY, "Origin: https://evil.example")).status == 403


async def test_a_removed_socket_file_is_recreated_with_a_warning(
    tmp_path: Path, quiet: list[dict[str, object]]
) -> None:
    path = tmp_path / "relay.sock"
    async with Served(listen="", unix_socket=str(path)) as served:
        before = await served.connect()
        await served.listener.check()
        assert quiet == []
        path.unlink()
        await served.listener.check()
        assert [(line["log_level"], line["path"]) for line in quiet] == [("warning", str(path))]
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert served.listener.addresses == [str(path)]
        for client in (before, await served.connect()):
            client.send(post())
            assert (await client.response()).status == 202
    assert not path.exists()


async def test_a_socket_file_that_cannot_be_recreated_is_logged_once_and_retried(
    tmp_path: Path, quiet: list[dict[str, object]]
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    path = directory / "relay.sock"
    async with Served(listen="", unix_socket=str(path)) as served:
        path.unlink()
        directory.rmdir()
        await served.listener.check()
        await served.listener.check()
        assert [line["log_level"] for line in quiet] == ["warning"]
        directory.mkdir()
        await served.listener.check()
        assert (await served.post()).status == 202


async def test_a_socket_file_left_by_a_crash_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with Served(listen="", unix_socket=str(path)) as served:
        assert (await served.post()).status == 202


async def test_the_socket_of_a_running_relay_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    async with Served(listen="", unix_socket=str(path)):
        with pytest.raises(ListenError, match=r"relay\.sock.*http\.unix_socket"):
            await Served(listen="", unix_socket=str(path)).listener.start()
        client = await Client.connect(str(path))
        client.send(post())
        assert (await client.response()).status == 202
        client.writer.close()


async def test_another_file_at_the_sockets_path_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    path.write_text("precious")
    with pytest.raises(ListenError):
        await Served(listen="", unix_socket=str(path)).listener.start()
    assert path.read_text() == "precious"


async def test_the_error_names_an_address_in_use_and_all_sockets_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    async with Served() as served:
        occupied = served.listener.addresses[0]
        second = Served(listen=occupied, unix_socket=str(path))
        with pytest.raises(ListenError, match=rf"{occupied}.*http\.listen"):
            await second.listener.start()
        assert second.listener.addresses == []
        assert not path.exists()


@pytest.mark.parametrize("address", ["8080", "localhost", "127.0.0.1:", "127.0.0.1:99999", "::1:80", "a b:80"])
async def test_the_error_names_an_invalid_address(address: str) -> None:
    with pytest.raises(ListenError, match="HOST:PORT"):
        await Served(listen=address).listener.start()


async def test_a_stop_finishes_complete_requests_and_closes_other_connections() -> None:
    async with Served() as served:
        served.outbox.waits = True
        idle, silent, half, whole = [await served.connect() for _ in range(4)]
        idle.send(request("GET /nowhere HTTP/1.1"))
        assert (await idle.response()).status == 404
        half.send(post()[:-1])
        whole.send(post())
        await until(lambda: bool(served.outbox.appends))
        await arrived(served, b"x")
        stopping = asyncio.ensure_future(served.listener.stop(within_ms=20_000))
        assert await idle.rest() == b""
        assert await silent.rest() == b""
        assert b" 503 " in await half.rest()
        with pytest.raises(ConnectionRefusedError):
            await served.connect()
        assert not stopping.done()
        served.outbox.appends[0].set_result(STORED)
        assert (await whole.response()).status == 202
        assert await whole.rest() == b""
        await stopping
        assert served.count("connections") == 0


async def test_a_stop_responds_503_with_retry_after_while_the_outbox_closes() -> None:
    async with Served() as served:
        served.outbox.error = OutboxUnavailable("the relay is stopping")
        response = await served.post()
        assert (response.status, "retry-after" in response.headers) == (503, True)


def owned(address: str | tuple[str, int]) -> tuple[socket.socket, socket.socket]:
    """Return a listening socket and the copy of it that a relay receives."""
    own = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET, socket.SOCK_STREAM)
    own.bind(address)
    own.listen()
    return own, own.dup()


async def test_passed_sockets_replace_the_addresses_and_still_listen_after_the_stop(tmp_path: Path) -> None:
    path = str(tmp_path / "relay.sock")
    (tcp, passed), (unix, passed_unix) = owned(("127.0.0.1", 0)), owned(path)
    with tcp, unix:
        async with Served(unix_socket=path, passed=[passed], passed_unix=[passed_unix]) as served:
            addresses = served.listener.addresses
            assert addresses == [f"127.0.0.1:{tcp.getsockname()[1]}", path]
            await served.listener.check()
            for address in addresses:
                client = await Client.connect(address)
                client.send(post())
                assert (await client.response()).status == 202
                client.writer.close()
        for address in addresses:
            waiting = await Client.connect(address)
            waiting.writer.close()
        assert Path(path).is_socket()


async def test_at_a_stop_clients_of_a_passed_socket_get_their_response_and_close() -> None:
    """An idle client sends one more request, another one the rest of its request, and a third one nothing."""
    tcp, passed = owned(("127.0.0.1", 0))
    with tcp:
        async with Served(passed=[passed]) as served:
            idle, sending, silent = [await served.connect() for _ in range(3)]
            for client in (idle, silent):
                client.send(post())
                assert "connection" not in (await client.response()).headers
            sending.send(post()[:-1])
            await until(lambda: "receiving" in repr(list(served.listener._connections)))

            stopping = asyncio.ensure_future(served.listener.stop(within_ms=40_000))
            await asyncio.sleep(0)
            idle.send(post())
            sending.send(post()[-1:])

            for client in (idle, sending):
                response = await client.response()
                assert (response.status, response.headers["connection"]) == (202, "close")
                assert await client.rest() == b""
            assert await silent.rest() == b""
            await stopping


async def test_a_stop_does_not_exceed_its_time_limit() -> None:
    async with Served() as served:
        served.outbox.waits = True
        client = await served.connect()
        client.send(post())
        await until(lambda: bool(served.outbox.appends))
        await served.listener.stop(within_ms=20)
        assert await client.rest() == b""

"""Connections that are cut, silent, slow, endless or invalid. The relay cannot know whether the events arrived."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import running
from tests.fault.apps import Fleet, all_settled, ready, settings, state
from tests.fault.sizes import some
from tests.fault.trouble import DEVICES, EACH, WATCHED_S, check_delivery, check_recovery, relay_and_apps

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ACCEPTED = b'HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"success":true}'
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


def fault(**rule: object) -> Misbehaviour:
    """Convert a rule as the sandbox does: actions are text here."""
    return msgspec.convert(rule, Misbehaviour)


async def test_a_connection_that_breaks(sandbox: Sandbox, tmp_path: Path) -> None:
    """A connection that is cut at any point is a request without a response."""
    actions = some(
        ["reset_mid_request", "close_after_commit", "cut_body", "cut_chunked"],
        [
            "close_mid_request",
            "reset_before_commit",
            "close_before_commit",
            "reset_after_commit",
            "reset_mid_body",
        ],
    )
    await check_recovery(sandbox, tmp_path, "backing_off", *(fault(action=action) for action in actions))


@pytest.mark.parametrize("action", some(["reset_at_accept"], ["close_at_accept", "silence_at_accept"]))
async def test_a_port_that_does_not_respond(sandbox: Sandbox, tmp_path: Path, action: str) -> None:
    """A load balancer without a backend accepts connections and sends nothing."""
    await check_recovery(sandbox, tmp_path, "backing_off", fault(action=action))


async def test_a_response_that_is_not_http(sandbox: Sandbox, tmp_path: Path) -> None:
    """A broken proxy sends bytes of another protocol, a chunk without a size, or a header of 100 kB."""
    actions = ["garbage", "bad_chunk", "huge_header"]
    await check_recovery(sandbox, tmp_path, "backing_off", *(fault(action=action) for action in actions))


async def test_a_silent_connection(sandbox: Sandbox, tmp_path: Path) -> None:
    """A middlebox lost its connection table: no byte arrives any more. `upstream.timeout` ends the request."""
    actions = some(["continue_then_silence", "long_length"], ["silence"])
    await check_recovery(sandbox, tmp_path, "backing_off", *(fault(action=action) for action in actions))


async def test_a_slow_response(sandbox: Sandbox, tmp_path: Path) -> None:
    """The response arrives byte by byte: `upstream.timeout` bounds the whole request, not the gaps."""
    actions = ["trickle_head", "trickle_body"]
    troubles = (fault(action=action, pause_ms=300) for action in actions)
    await check_recovery(sandbox, tmp_path, "backing_off", *troubles)


@pytest.mark.parametrize(
    "action",
    some(["endless_body", "close_after_answer"], ["early_hints", "http_1_0", "connection_close"]),
)
async def test_an_unusual_but_successful_response(sandbox: Sandbox, tmp_path: Path, action: str) -> None:
    """The relay reads 64 KiB of a response, skips 1xx, and does not reuse a connection that the upstream closed."""
    sandbox.change(max_body_bytes=0)
    sandbox.faults.add(fault(action=action))
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await all_settled(relay, sandbox, fleet, repeats=4)
        peak_kib = int(next(line for line in _proc(relay.pid, "status") if line.startswith("VmHWM")).split()[1])
        assert peak_kib < 100 << 10


async def test_a_response_that_inflates_without_end(sandbox: Sandbox, tmp_path: Path) -> None:
    """The relay inflates 64 KiB of a compression bomb, and keeps all events."""
    await check_recovery(sandbox, tmp_path, "misconfigured", fault(action="gzip_bomb"))


async def test_two_responses_to_one_request(sandbox: Sandbox, tmp_path: Path) -> None:
    """The relay ignores bytes after the response, and does not reuse the connection."""
    await check_delivery(sandbox, tmp_path, fault(action="two_answers"))


async def test_a_response_longer_than_its_content_length(sandbox: Sandbox, tmp_path: Path) -> None:
    """The rest of the body is not HTTP, so the relay trusts no response on this connection."""
    await check_recovery(sandbox, tmp_path, "backing_off", fault(action="short_length"))


async def test_a_slow_upstream(sandbox: Sandbox, tmp_path: Path) -> None:
    """Each response takes 600 ms, the timeout is 1 s. All events arrive once."""
    await check_delivery(sandbox, tmp_path, Misbehaviour(action="slow_answer", pause_ms=600))


async def test_an_unrequested_response_is_ignored(tmp_path: Path) -> None:
    """A late second response on a kept connection must not become the next request's 202: its events would be lost."""
    bodies: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            bodies.append(request)
            if len(bodies) > 1:
                writer.write(UNAVAILABLE)
                continue
            writer.write(ACCEPTED)
            await writer.drain()
            await asyncio.sleep(0.05)  # Until the connection is back in the pool.
            writer.write(ACCEPTED)

    async with upstream(talk) as url, running(settings(url, tmp_path)) as relay:
        fleet = Fleet(1)
        fleet.address = relay.http
        await fleet.send(1)
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)
        await asyncio.sleep(0.2)
        await fleet.send(1)
        status = await relay.until(lambda status: state(status) == "backing_off" or not status["ledger"]["pending"])
        assert status["ledger"]["delivered"] == 1


@pytest.mark.parametrize(
    "flood",
    some(
        [
            pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="ssh"),
            pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, id="a-thousand-1xx"),
            pytest.param(
                b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello", id="two-lengths"
            ),
        ],
        [
            pytest.param(b"\x15\x03\x03\x00\x02\x02\x46", id="tls-alert"),
            pytest.param(b"HTTP/1.1 202 Accepted\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", id="20000-headers"),
            pytest.param(
                b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 300_000, id="extension"
            ),
            pytest.param(b"HTTP/1.1 99999 Huh\r\n\r\n", id="no-status"),
            pytest.param(b"HTTP/1.1 202 Accepted\r\nContent-Length: -1\r\n\r\n", id="negative-length"),
        ],
    ),
)
async def test_bytes_that_are_not_a_response(tmp_path: Path, flood: bytes) -> None:
    """Another service at that port, or a broken proxy: the events stay pending, and the relay does not busy-loop."""
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if await read_request(reader):
            writer.write(flood)
            await writer.drain()

    async with upstream(talk) as url:
        await check_backoff(url, tmp_path, lambda: connections)


async def test_an_upstream_that_never_accepts(tmp_path: Path) -> None:
    """A hung server process: the kernel accepts connections until its queue is full, then drops every SYN."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as hung:
        await check_backoff(f"http://127.0.0.1:{hung.getsockname()[1]}/v1/events", tmp_path, lambda: 0)


async def test_a_name_that_is_not_found(tmp_path: Path) -> None:
    """Without a network or a resolver, the upstream is unavailable, not misconfigured."""
    await check_backoff("https://relay-test.invalid/v1/events", tmp_path, lambda: 0)


async def test_a_response_before_the_request_was_read(tmp_path: Path) -> None:
    """A proxy responds 503 to the head and closes before the body. This is a response to an incomplete request."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(UNAVAILABLE)

    async with upstream(talk) as url:
        await check_backoff(url, tmp_path, lambda: 0)


async def check_backoff(url: str, tmp_path: Path, connections: Callable[[], int]) -> None:
    """Check that the events stay pending, the state is backing_off, attempts are few, and the process is idle."""
    env = settings(url, tmp_path, upstream__timeout="1s", retry__max="300ms")
    async with running(env) as relay:
        fleet = Fleet(DEVICES)
        fleet.address = relay.http
        await fleet.send(EACH)
        status = await relay.until(lambda status: state(status) == "backing_off")
        assert status["ledger"]["pending"] == DEVICES * EACH
        before, ticks = connections(), cpu_ticks(relay.pid)
        await asyncio.sleep(WATCHED_S)
        assert connections() - before <= 25
        assert cpu_ticks(relay.pid) - ticks <= 40, "0.6 s have 60 ticks"
        assert await ready(relay)


@asynccontextmanager
async def upstream(talk: Talk) -> AsyncIterator[str]:
    """Run a server that calls `talk` for each connection and closes it. Yield the URL of its events endpoint."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/events"
    finally:
        server.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Return the next request's body, empty at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        return b""
    (length,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return await reader.readexactly(int(length.partition(b":")[2]))


def _proc(pid: int, name: str) -> list[str]:
    return Path(f"/proc/{pid}/{name}").read_text().splitlines()


def cpu_ticks(pid: int) -> int:
    """Return the process's user and system CPU time, in 1/100 s."""
    fields = _proc(pid, "stat")[0].rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])

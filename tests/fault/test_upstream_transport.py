"""Connections of an upstream from hell: cut, silent, slow, endless, odd. Whether it took the events is unknown then."""

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
from tests.fault.trouble import DEVICES, EACH, WATCHED_S, arrives_all_the_same, relay_and_apps, suffers_and_heals

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ACCEPTED = b'HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"success":true}'
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


def fault(**rule: object) -> Misbehaviour:
    """The sandbox's own reading of a rule: the actions here are text."""
    return msgspec.convert(rule, Misbehaviour)


async def test_a_connection_that_breaks(sandbox: Sandbox, tmp_path: Path) -> None:
    """A dying modem, a proxy that restarts: a connection cut at any point is no answer."""
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
    await suffers_and_heals(sandbox, tmp_path, "backing_off", *(fault(action=action) for action in actions))


@pytest.mark.parametrize("action", some(["reset_at_accept"], ["close_at_accept", "silence_at_accept"]))
async def test_a_port_that_lets_nobody_in(sandbox: Sandbox, tmp_path: Path, action: str) -> None:
    """A load balancer with nobody behind it: connections open, and that is all."""
    await suffers_and_heals(sandbox, tmp_path, "backing_off", fault(action=action))


async def test_an_answer_that_is_no_http(sandbox: Sandbox, tmp_path: Path) -> None:
    """A broken proxy: bytes of something else, a chunk without a size, a header of 100 kB."""
    actions = ["garbage", "bad_chunk", "huge_header"]
    await suffers_and_heals(sandbox, tmp_path, "backing_off", *(fault(action=action) for action in actions))


async def test_a_connection_that_falls_silent(sandbox: Sandbox, tmp_path: Path) -> None:
    """A middlebox that lost its table: nothing comes any more, at any point. `upstream.timeout` ends it."""
    actions = some(["continue_then_silence", "long_length"], ["silence"])
    await suffers_and_heals(sandbox, tmp_path, "backing_off", *(fault(action=action) for action in actions))


async def test_an_answer_that_trickles(sandbox: Sandbox, tmp_path: Path) -> None:
    """A byte now and then for ever: `upstream.timeout` bounds the whole request, not the gaps."""
    actions = ["trickle_head", "trickle_body"]
    troubles = (fault(action=action, pause_ms=300) for action in actions)
    await suffers_and_heals(sandbox, tmp_path, "backing_off", *troubles)


@pytest.mark.parametrize(
    "action",
    some(["endless_body", "close_after_answer"], ["early_hints", "http_1_0", "connection_close"]),
)
async def test_an_answer_that_is_odd_but_a_yes(sandbox: Sandbox, tmp_path: Path, action: str) -> None:
    """The relay judges the first 64 KiB, skips 1xx, and does not use a connection again that the upstream closed."""
    sandbox.change(max_body_bytes=0)
    sandbox.faults.add(fault(action=action))
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await all_settled(relay, sandbox, fleet, repeats=4)
        peak_kib = int(next(line for line in _proc(relay.pid, "status") if line.startswith("VmHWM")).split()[1])
        assert peak_kib < 100 << 10


async def test_a_response_that_inflates_without_end(sandbox: Sandbox, tmp_path: Path) -> None:
    """A bomb is not the API's response: the relay inflates 64 KiB of it, and all events stay."""
    await suffers_and_heals(sandbox, tmp_path, "misconfigured", fault(action="gzip_bomb"))


async def test_two_answers_to_one_request(sandbox: Sandbox, tmp_path: Path) -> None:
    """A proxy that replays: what follows an answer is nobody's, and the connection is not used again."""
    await arrives_all_the_same(sandbox, tmp_path, fault(action="two_answers"))


async def test_an_answer_longer_than_it_says(sandbox: Sandbox, tmp_path: Path) -> None:
    """A wrong Content-Length: what was cut off is no HTTP, so that no answer on that connection can be believed."""
    await suffers_and_heals(sandbox, tmp_path, "backing_off", fault(action="short_length"))


async def test_an_upstream_that_is_only_slow(sandbox: Sandbox, tmp_path: Path) -> None:
    """A mobile network at night: 600 ms for each answer, with a timeout of 1 s. All arrives, nothing twice."""
    await arrives_all_the_same(sandbox, tmp_path, Misbehaviour(action="slow_answer", pause_ms=600))


async def test_an_answer_nobody_asked_for_is_not_believed(tmp_path: Path) -> None:
    """A late second answer on a kept connection must not become the next request's 202: that would lose its events."""
    bodies: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            bodies.append(request)
            if len(bodies) > 1:
                writer.write(UNAVAILABLE)
                continue
            writer.write(ACCEPTED)
            await writer.drain()
            await asyncio.sleep(0.05)  # until the connection is back in the pool
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
async def test_bytes_that_are_no_answer(tmp_path: Path, flood: bytes) -> None:
    """Somebody else's service at that port, a broken proxy: nothing is taken for a yes, and nothing runs hot."""
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if await read_request(reader):
            writer.write(flood)
            await writer.drain()

    async with upstream(talk) as url:
        await backs_off_without_heat(url, tmp_path, lambda: connections)


async def test_an_upstream_that_never_accepts(tmp_path: Path) -> None:
    """A hung server process: the kernel takes connections until its queue is full, then drops every SYN."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as hung:
        await backs_off_without_heat(f"http://127.0.0.1:{hung.getsockname()[1]}/v1/events", tmp_path, lambda: 0)


async def test_a_name_that_is_not_found(tmp_path: Path) -> None:
    """No network, or a resolver that fails: it is an upstream that is away, not one that is misconfigured."""
    await backs_off_without_heat("https://relay-test.invalid/v1/events", tmp_path, lambda: 0)


async def test_an_upstream_that_answers_before_it_has_read(tmp_path: Path) -> None:
    """A proxy that says 503 to the head and closes on the body: an answer, though the request was not taken."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(UNAVAILABLE)

    async with upstream(talk) as url:
        await backs_off_without_heat(url, tmp_path, lambda: 0)


async def backs_off_without_heat(url: str, tmp_path: Path, connections: Callable[[], int]) -> None:
    """The events stay, the state says backing off, tries are few, and the process idles."""
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
        assert cpu_ticks(relay.pid) - ticks <= 40, "of the 60 there are in 0.6 s"
        assert await ready(relay)


@asynccontextmanager
async def upstream(talk: Talk) -> AsyncIterator[str]:
    """A server that says what `talk` says on each connection, and closes; its events endpoint."""

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
    """The next request's body; empty at the connection's end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        return b""
    (length,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return await reader.readexactly(int(length.partition(b":")[2]))


def _proc(pid: int, name: str) -> list[str]:
    return Path(f"/proc/{pid}/{name}").read_text().splitlines()


def cpu_ticks(pid: int) -> int:
    """Hundredths of a second of processor time, user's and system's."""
    fields = _proc(pid, "stat")[0].rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])

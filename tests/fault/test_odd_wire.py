"""Valid responses in unusual forms, connections that close early, and proxies that reject requests.

The upstream has received the events each time: if the relay cannot read the response, it repeats them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.e2e.harness import environment, event, running
from tests.fault.test_upstream_transport import ACCEPTED, Talk, cpu_ticks, read_request, upstream

BODY = b'{"success":true}'
FLOOD = 100_000
"""Number of informational responses in a flood."""


def accepted(*lines: str, status: str = "202 Accepted", length: bool = True) -> bytes:
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json", *lines]
    head += [f"Content-Length: {len(BODY)}"] if length else []
    return "\r\n".join([*head, "", ""]).encode("latin-1") + BODY


ODD = {
    "a header line of 64 KiB": accepted("Set-Cookie: " + "a" * (65_535 - len("Set-Cookie: \r"))),
    "many headers": accepted(*(f"X-H{n}: 1" for n in range(900))),
    "a 204 with a body": accepted(status="204 No Content"),
    "a 204 with chunks": b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n"
    + BODY
    + b"\r\n0\r\n\r\n",
    "a 204 with a body of no length": accepted(status="204 No Content", length=False),
    "the length twice": accepted(f"Content-Length: {len(BODY)}"),
    "the length in a list": accepted(f"Content-Length: {len(BODY)}, {len(BODY)}", length=False),
    "length and chunks": b"HTTP/1.1 202 Accepted\r\nContent-Length: 16\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n"
    + BODY
    + b"\r\n0\r\n\r\n",
    "a space before the colon": accepted("X-A : 1"),
    "16 informational responses": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 16 + accepted(),
    "bare line feeds": accepted().replace(b"\r\n", b"\n"),
    "no reason": accepted(status="202"),
    "a folded header": accepted("X-A: a", "  b"),
    "HTTP/1.0 until the end": accepted(length=False).replace(b"HTTP/1.1", b"HTTP/1.0"),
}


def replies(response: bytes, *, in_pieces: bool = False) -> tuple[Talk, list[bytes]]:
    """Return a server that sends `response` to each request, and the list of the bodies that it receives."""
    bodies: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while body := await read_request(reader):
            bodies.append(body)
            for piece in [response[:7], response[7:100], response[100:]] if in_pieces else [response]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if response.startswith(b"HTTP/1.0"):
                return

    return talk, bodies


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_an_odd_response_is_understood(tmp_path: Path, in_pieces: bool) -> None:
    """The relay sends three events one after the other, so that it reuses the connection where the response permits."""
    for n, (name, response) in enumerate(ODD.items()):
        talk, bodies = replies(response, in_pieces=in_pieces)
        (directory := tmp_path / str(n)).mkdir()
        async with upstream(talk) as url, running(environment(url, directory)) as relay:
            for number in range(1, 4):
                assert await relay.post(event(number)) == 202
                status = await relay.until(
                    lambda status, number=number: (
                        status["ledger"]["delivered"] == number  # type: ignore[misc]
                        or status["upstreams"][0]["last_error"]
                    )
                )
                assert status["ledger"]["delivered"] == number, f"{name}: {status['upstreams'][0]['last_error']}"
            assert len(bodies) == 3, name


UNREADABLE = {
    "SSH-2.0": (b"SSH-2.0-OpenSSH_9.2\r\n", "it begins with 'SSH-2.0-OpenSSH_9.2"),
    "a line of more than 64 KiB": (
        accepted("Set-Cookie: " + "a" * 70_000),
        "header line 'Set-Cookie' is longer than 65536 bytes",
    ),
    "lengths that differ": (accepted("Content-Length: 5"), "Content-Length"),
    "a negative length": (accepted("Content-Length: -1", length=False), "Content-Length"),
    "half a head": (b"HTTP/1.1 202 Accepted\r\nContent-", "the connection closed within its head"),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_a_response_that_cannot_be_read_is_reported_with_the_reason(tmp_path: Path, name: str) -> None:
    response, reason = UNREADABLE[name]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await read_request(reader):
            writer.write(response)

    async with upstream(talk) as url, running(environment(url, tmp_path)) as relay:
        assert await relay.post(event(1)) == 202
        status = await relay.until(lambda status: status["upstreams"][0]["state"] == "backing_off")
        assert reason in status["upstreams"][0]["last_error"]
        assert status["ledger"]["pending"] == 1


async def test_a_flood_of_informational_responses_uses_little_cpu_time(tmp_path: Path) -> None:
    """The relay closes the connection after the seventeenth. Reading all would block the event loop for 10 s."""
    flood = b"HTTP/1.1 100 Continue\r\n\r\n" * FLOOD

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await read_request(reader):
            writer.write(flood)
            await writer.drain()

    async with (
        upstream(talk) as url,
        running(environment(url, tmp_path, retry__initial="1h", retry__max="1h")) as relay,
    ):
        before = cpu_ticks(relay.pid)
        assert await relay.post(event(1)) == 202
        status = await relay.until(lambda status: status["upstreams"][0]["state"] == "backing_off")
        assert "more than 16 informational responses" in status["upstreams"][0]["last_error"]
        assert cpu_ticks(relay.pid) - before <= 100, "a second of processor time"


async def test_a_proxy_that_sends_only_informational_responses_costs_one_timeout(tmp_path: Path) -> None:
    """CONNECT has no limit of their number. The timeout ends the attempt, and the event stays pending."""
    connects: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connects.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1_000)
        await reader.read()

    async with upstream(talk) as url:
        env = environment(
            "https://events.example.test/v1/events",
            tmp_path,
            upstream__proxy=url.removesuffix("/v1/events"),
            upstream__timeout="1s",
            retry__initial="1h",
            retry__max="1h",
        )
        async with running(env) as relay:
            assert await relay.post(event(1)) == 202
            status = await relay.until(lambda status: status["upstreams"][0]["state"] == "backing_off")
            assert "within 1 s" in status["upstreams"][0]["last_error"]
            assert (status["ledger"]["pending"], status["ledger"]["dead_lettered"]) == (1, 0)
            assert connects[0].startswith(b"CONNECT events.example.test:443 ")


def one_request_a_connection() -> tuple[Talk, list[bytes], list[int]]:
    """Return a server that closes each connection on its second request, the accepted bodies, and the number of each
    received request within its connection, from 0.
    """
    bodies: list[bytes] = []
    seen: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(2):
            body = await read_request(reader)
            if body:
                seen.append(number)
            if not body or number:
                return
            bodies.append(body)
            writer.write(ACCEPTED)

    return talk, bodies, seen


async def test_a_closed_keep_alive_connection_is_replaced_at_once(tmp_path: Path) -> None:
    """A backoff would delay the next attempt by an hour."""
    talk, bodies, seen = one_request_a_connection()
    async with upstream(talk) as url:
        env = environment(url, tmp_path, retry__initial="1h", retry__max="1h")
        async with running(env) as relay:
            for number in range(1, 6):
                assert await relay.post(event(number)) == 202
                status = await relay.until(lambda status, n=number: status["ledger"]["delivered"] == n)  # type: ignore[misc]
                assert status["upstreams"][0]["state"] == "ok"
                assert not status["upstreams"][0]["last_error"]
            assert not [line for line in relay.log if line["message"] == "upstream state"]
    assert len(bodies) == 5
    assert seen == [0, 1, 0, 1, 0, 1, 0, 1, 0]


async def test_the_retry_is_a_fresh_connection_and_the_only_one(tmp_path: Path) -> None:
    """A fresh connection that closes too is a failure like any other, whose cause a batch without events shows."""
    requests: list[tuple[int, list[int]]] = []  # Number of the connection, and numbers of the events.
    connections = 0

    async def read(reader: asyncio.StreamReader, connection: int) -> None:
        events = json.loads(await read_request(reader))["events"]
        requests.append((connection, [each["context"]["n"] for each in events]))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        connection = connections
        if connection == 1:
            await read(reader, connection)
            writer.write(ACCEPTED)
        await read(reader, connection)

    async with upstream(talk) as url:
        env = environment(url, tmp_path, retry__initial="1h", retry__max="1h")
        async with running(env) as relay:
            assert await relay.post(event(1)) == 202
            await relay.until(lambda status: status["ledger"]["delivered"] == 1)
            assert await relay.post(event(2)) == 202
            await relay.until(lambda status: status["upstreams"][0]["state"] == "backing_off")
    assert requests == [(1, [1]), (1, [2]), (2, [2]), (3, [])]


async def test_the_retry_counts_against_the_device_limit(tmp_path: Path) -> None:
    talk, _, seen = one_request_a_connection()
    async with upstream(talk) as url:
        env = environment(url, tmp_path, rate__device_per_window="3", rate__window="10m")
        async with running(env) as relay:
            for number in range(1, 3):
                assert await relay.post(event(number)) == 202
                await relay.until(lambda status, n=number: status["ledger"]["delivered"] == n)  # type: ignore[misc]
            assert await relay.post(event(3)) == 202
            await relay.until(lambda status: status["devices_held"] == 1)
    assert seen == [0, 1, 0]


PROXY_PASSWORD = "pr0xy-s3cret-pw"


@asynccontextmanager
async def proxy(response: bytes) -> AsyncIterator[str]:
    """Run a proxy that sends the same response to every request. Yield its URL."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)

    async with upstream(talk) as url:
        yield url.replace("http://", f"http://user:{PROXY_PASSWORD}@").removesuffix("/v1/events")


@pytest.mark.parametrize(
    ("status", "header", "state", "says"),
    [
        (
            "407 Proxy Authentication Required",
            "",
            "unauthorized",
            "407 Proxy Authentication Required: check user and password in upstream.proxy",
        ),
        ("403 Forbidden", "", "unauthorized", "403 Forbidden"),
        ("502 Bad Gateway", "", "backing_off", "502 Bad Gateway"),
        ("511 Network Authentication Required", "", "misconfigured", "511 Network Authentication Required"),
        (
            "302 Found",
            "Location: http://portal.example/login?token=x\r\n",
            "misconfigured",
            "302 Found redirects to http://portal.example",
        ),
    ],
)
async def test_a_proxy_that_rejects_the_connection_is_named_with_its_status(
    tmp_path: Path, status: str, header: str, state: str, says: str
) -> None:
    response = f"HTTP/1.1 {status}\r\n{header}Content-Length: 0\r\n\r\n".encode()
    async with proxy(response) as url:
        env = environment("https://events.example.test/v1/events", tmp_path, upstream__proxy=url)
        async with running(env) as relay:
            assert await relay.post(event(1)) == 202
            found = await relay.until(lambda found: found["upstreams"][0]["last_error"])
            assert found["upstreams"][0]["state"] == state
            assert found["upstreams"][0]["last_error"] == f"the proxy rejected the connection with {says}"
            assert found["ledger"]["pending"] == 1
            assert PROXY_PASSWORD not in f"{found}{relay.log}"


async def test_a_redirect_names_its_target_without_path_and_query(tmp_path: Path) -> None:
    response = b"HTTP/1.1 302 Found\r\nLocation: https://portal.example:8443/login?token=x\r\nContent-Length: 0\r\n\r\n"
    talk, _ = replies(response)
    async with upstream(talk) as url, running(environment(url, tmp_path)) as relay:
        assert await relay.post(event(1)) == 202
        status = await relay.until(lambda status: status["upstreams"][0]["state"] == "misconfigured")
        assert status["upstreams"][0]["last_error"].startswith("302 redirects to https://portal.example ")
        assert "token" not in status["upstreams"][0]["last_error"]

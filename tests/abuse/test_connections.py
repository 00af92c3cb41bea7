"""Slow, too many and ambiguous clients: the relay closes their connections and serves a well-behaved app meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from relay.sandbox.server import Sandbox

from tests.abuse.box import Healthy, ask, connect, metrics, peak_memory_bytes, rejected
from tests.e2e.harness import PATIENCE_S, RelayProcess, environment, event, running
from tests.fault.sizes import size
from tests.support.ingest_harness import BODY, Client, post

HEAD = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n"
MOST = 100


@pytest.fixture
async def tight(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    """Run a relay with a request timeout of one second and a limit of `MOST` connections."""
    env = environment(sandbox.url, tmp_path, http__request_timeout="1s", http__max_connections=str(MOST))
    async with running(env) as process:
        yield process


async def drip(client: Client, rest: bytes) -> None:
    """Send a byte every 100 ms."""
    for byte in rest:
        client.send(bytes([byte]))
        await asyncio.sleep(0.1)


SLOW_SHAPES = {
    "silent": (b"", b""),
    "line": (b"POST /v1", b""),
    "headers": (HEAD + b"X-Slow: a", b"b" * 600),
    "no body": (HEAD + b"Content-Length: 600\r\n\r\n", b""),
    "body": (HEAD + b"Content-Length: 600\r\n\r\n", b"b" * 600),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 100),
}


async def test_slow_clients_of_every_shape_are_closed_while_others_are_served(tight: RelayProcess) -> None:
    async with Healthy(tight) as healthy:
        clients, drips = [], []
        for begun, rest in SLOW_SHAPES.values():
            for _ in range(10):
                client = await connect(tight)
                client.send(begun)
                clients.append(client)
                drips.append(asyncio.create_task(drip(client, rest)))
        await healthy.served()
        for client in clients:
            # A byte sent after the relay has closed resets the connection, which may discard the response.
            assert (await client.rest())[9:12] in (b"408", b"")
            client.writer.close()
        for task in drips:
            task.cancel()
        await healthy.served()
    # A connection that sent no byte is closed silently.
    assert await rejected(tight, "timeout") == len(clients) - 10


async def test_a_client_that_reads_no_responses_is_closed_while_others_are_served(tight: RelayProcess) -> None:
    async with Healthy(tight) as healthy:
        client = await connect(tight)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        requests = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200
        async with asyncio.timeout(PATIENCE_S):
            while (await metrics(tight))["connections"] > 2:  # The healthy app's connection and that of this request.
                client.send(requests)
                await healthy.served(1)
        client.writer.transport.abort()


async def test_a_flood_of_idle_connections_blocks_no_app(tight: RelayProcess) -> None:
    leaked = []
    for number in range(size(3 * MOST, 10 * MOST)):
        leaked.append(await connect(tight))
        if number % 50 == 0:
            status, _ = await ask(tight, post(json.dumps(event(number)).encode(), "Connection: close"))
            assert status == 202
    assert (await metrics(tight))["connections_rejected_total"] == 0
    for client in leaked:
        client.writer.close()


async def test_beyond_the_limit_of_busy_connections_new_ones_are_rejected_at_once(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    env = environment(sandbox.url, tmp_path, http__request_timeout="5m", http__max_connections=str(MOST))
    async with running(env) as process:
        busy = [await connect(process) for _ in range(MOST)]
        for client in busy:
            client.send(HEAD + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n")
            await client.read(len(b"HTTP/1.1 100 Continue\r\n\r\n"))
        for _ in range(size(10, 500)):
            rejected_one = await connect(process)
            response = await rejected_one.response()
            assert (response.status, response.headers["retry-after"]) == (503, "5")
            assert await rejected_one.rest() == b""
            rejected_one.writer.close()
        for client in busy:
            client.writer.close()
        async with asyncio.timeout(PATIENCE_S):
            while (await ask(process, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))[
                0
            ] != 200:
                await asyncio.sleep(0.02)
        now = await metrics(process)
    assert now["connections_rejected_total"] >= size(10, 500)
    assert now["max_connections"] == MOST


async def test_closed_connections_leave_no_memory_behind(tight: RelayProcess) -> None:
    async def come_and_go(number: int) -> None:
        client = await connect(tight)
        client.send((b"", b"POST", post(BODY)[:-1], HEAD + b"Content-Length: 9\r\n\r\n")[number % 4])
        client.reset()

    descriptors = f"/proc/{tight.pid}/fd"
    async with Healthy(tight) as healthy:
        await healthy.served()
        # The first delivery opens a connection to the upstream, which stays open.
        await tight.until(lambda status: status["ledger"]["delivered"] > 0)
        before = len(os.listdir(descriptors))
        for _ in range(size(20, 500)):
            await asyncio.gather(*(come_and_go(number) for number in range(40)))
        await healthy.served()
        async with asyncio.timeout(PATIENCE_S):
            while (await metrics(tight))["connections"] > 2 or len(os.listdir(descriptors)) > before:
                await asyncio.sleep(0.02)
    assert all(line.get("level") in ("info", "debug") for line in tight.log), tight.log


async def test_floods_of_headers_are_rejected_within_bounded_memory(relay: RelayProcess) -> None:
    memory = peak_memory_bytes(relay.pid)
    async with Healthy(relay) as healthy:
        for raw in (
            HEAD + b"".join(b"X-%d: 1\r\n" % number for number in range(50_000)) + b"\r\n",
            HEAD + b"X-Long: " + b"a" * 5_000_000 + b"\r\n\r\n",
            b"GET /" + b"a" * 5_000_000 + b" HTTP/1.1\r\n\r\n",
            HEAD + b"Cookie: " + b"a=b; " * 500_000 + b"\r\n\r\n",
        ):
            for _ in range(size(5, 100)):
                status, _ = await ask(relay, raw)
                # A reset while the test still writes may discard the response.
                assert status in (431, 0)
        await healthy.served()
    assert peak_memory_bytes(relay.pid) - memory < 160 << 20


VALID = post(BODY)
SMUGGLING = {
    "length and chunks": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(VALID),
    "a list of lengths": HEAD + b"Content-Length: 0, 0\r\n\r\n",
    "a signed length": HEAD + b"Content-Length: +0\r\n\r\n",
    "a length in hex": HEAD + b"Content-Length: 0x0\r\n\r\n",
    "a length with an underscore": HEAD + b"Content-Length: 0_0\r\n\r\n",
    "an obscured coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a coding with a vertical tab": HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "space before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded header": HEAD + b"X: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bare line feed": HEAD + b"X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bare carriage return": HEAD + b"X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a NUL": HEAD + b"X: a\x00\r\n\r\n",
    "a chunk size beyond 64 bits": HEAD + b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
    "a negative chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "a chunk longer than its size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    "two hosts": HEAD + b"Host: evil.example\r\n\r\n",
    "no host": b"POST /v1/events HTTP/1.1\r\n\r\n",
    "version 0.9": b"POST /v1/events HTTP/0.9\r\nHost: localhost\r\n\r\n",
    "version 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


BEHIND = post(b'{"event_type":"a","tenant_id":1,"source":{"platform":"tv","device_id":"smuggled"}}')


@pytest.mark.parametrize("taught", [False, True], ids=["new connection", "after a known head"])
async def test_a_request_smuggled_after_an_ambiguous_one_is_not_read(relay: RelayProcess, taught: bool) -> None:
    """The relay responds once with 400 and closes: it does not process the valid request behind it."""
    for name, raw in SMUGGLING.items():
        client = await connect(relay)
        for _ in range(2 * taught):
            client.send(VALID)
            assert (await client.response()).status == 202
        client.send(raw + BEHIND)
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (400, "close"), name
        assert await client.rest() == b"", name
        client.writer.close()
    assert (await relay.status())["ledger"]["accepted"] == taught


async def test_the_next_request_on_a_keep_alive_connection_is_read_from_its_first_byte(relay: RelayProcess) -> None:
    """Bodies that look like requests are not read as requests."""
    client = await connect(relay)
    inner = post(b"{}")
    for _ in range(3):
        client.send(post(inner))
        assert (await client.response()).status == 400
    client.send(post(b"[%b]" % BODY) + post(inner) + b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert [(await client.response()).status for _ in range(3)] == [202, 400, 200]
    client.writer.close()
    assert await relay.post(event(1)) == 202

"""Known and generated hostile bodies and datagrams: no 500, no hang, and no accepted event that is not strict JSON.

The relay delivers accepted events to the sandbox, which rejects JSON that PHP cannot decode; `judge` checks it again.
`RELAY_NIGHTLY=1` generates a hundred times as many, `RELAY_SEED` repeats a run.
"""

from __future__ import annotations

import asyncio
import gzip
from itertools import islice

import pytest
from relay.sandbox.server import Sandbox

from tests.abuse.box import (
    check_accepted_events_are_strict,
    connect,
    datagram_socket,
    metrics,
    udp_address,
)
from tests.abuse.hostile import BODIES, GOOD, describe, mutants, wire_mutants
from tests.e2e.harness import PATIENCE_S, RelayProcess, event
from tests.fault.sizes import SEED, size
from tests.support.ingest_harness import post

STATUSES = {202, 400, 413, 422}


async def still_serves(relay: RelayProcess) -> None:
    assert await relay.post(event(999_999)) == 202
    assert (await relay.request("GET", "/livez"))[0] == 200
    assert [line for line in relay.log if line.get("level") in ("error", "critical") or "exception" in line] == []


async def test_each_hostile_body_gets_its_status_and_stores_nothing(relay: RelayProcess) -> None:
    statuses = {}
    client = await connect(relay)
    for name, (body, _) in BODIES.items():
        client.send(post(body))
        response = await client.response()
        assert response.json["success"] is False
        statuses[name] = response.status
    client.writer.close()
    assert statuses == {name: status for name, (_, status) in BODIES.items()}
    assert (await relay.status())["ledger"]["accepted"] == 0
    await still_serves(relay)


async def test_each_hostile_datagram_is_counted_and_stores_nothing(relay: RelayProcess) -> None:
    bodies = [body for body, _ in BODIES.values() if len(body) < 60_000]
    sending = datagram_socket()
    for body in bodies:
        sending.sendto(body, udp_address(relay))
    async with asyncio.timeout(PATIENCE_S):
        while (now := await metrics(relay))['events_received_total{transport="udp"}'] < len(bodies):
            await asyncio.sleep(0.02)
    sending.close()
    assert now['events_accepted_total{transport="udp"}'] == 0
    await still_serves(relay)


async def test_generated_bodies_get_a_response_and_accepted_events_are_strict(
    relay: RelayProcess, sandbox: Sandbox
) -> None:
    client = await connect(relay)
    accepted = 0
    for number, body in enumerate(islice(mutants(SEED), size(2_000, 200_000))):
        headers = ["Content-Type: application/x-ndjson"] if number % 5 == 0 else []
        if number % 7 == 0:
            body, headers = gzip.compress(body, 1), [*headers, "Content-Encoding: gzip"]  # noqa: PLW2901
        client.send(post(body, *headers))
        response = await client.response()
        assert response.status in STATUSES, describe(body)
        accepted += response.status == 202
    client.writer.close()
    assert accepted > 0
    await still_serves(relay)
    assert await check_accepted_events_are_strict(relay, sandbox) >= 1


async def test_generated_datagrams_are_counted_and_accepted_events_are_strict(
    relay: RelayProcess, sandbox: Sandbox
) -> None:
    sending, to = datagram_socket(), udp_address(relay)
    sent = 0
    for number, body in enumerate(islice(mutants(SEED + 1), size(2_000, 200_000))):
        sending.sendto((gzip.compress(body, 1) if number % 7 == 0 else body)[:60_000], to)
        sent += 1
        if sent % 50 == 0:
            await asyncio.sleep(0)
    sending.sendto(GOOD[0], to)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            now = await metrics(relay)
            seen = now['events_received_total{transport="udp"}'] + now['udp_datagrams_dropped_total{reason="kernel"}']
            if seen > sent:
                break
            await asyncio.sleep(0.05)
    sending.close()
    assert now['events_accepted_total{transport="udp"}'] > 0
    await still_serves(relay)
    assert await check_accepted_events_are_strict(relay, sandbox) >= 1


@pytest.mark.parametrize("part", range(2))
async def test_generated_requests_end_in_a_response_or_a_closed_connection(
    relay: RelayProcess, sandbox: Sandbox, part: int
) -> None:
    async def one(raw: bytes) -> None:
        client = await connect(relay)
        client.send(raw)
        client.writer.write_eof()
        response = await client.rest()
        client.writer.close()
        if response:
            assert response.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), describe(raw)
            assert int(response[9:12]) < 500, describe(raw)

    requests = wire_mutants(SEED + 10 + part)
    for _ in range(size(20, 2_000)):
        await asyncio.gather(*(one(raw) for raw in islice(requests, 20)))
    await still_serves(relay)
    await check_accepted_events_are_strict(relay, sandbox)

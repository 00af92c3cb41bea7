"""Arbitrary ids, paths and status codes of apps, pages and upstreams: metrics, log and status stay small."""

from __future__ import annotations

import asyncio
import json

from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from relay.runtime.metrics import Metrics
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.abuse.box import connect, datagram_socket, metrics, rejected, udp_address
from tests.e2e.harness import PATIENCE_S, RelayProcess, event
from tests.support.ingest_harness import post, request

MAX_SERIES = 300


def test_upstream_responses_create_at_most_300_series() -> None:
    """Every status code is counted, in the text format and in OpenMetrics."""
    counted = Metrics()
    counted.build_info("1", "3", "3")
    for status in range(100, 1_000):
        counted.upstream_requests.labels(counted.code(status)).inc()
    counted.upstream_requests.labels("error").inc()
    for text in (generate_latest(counted.registry), generate_openmetrics(counted.registry)):
        assert len([line for line in text.splitlines() if not line.startswith(b"#")]) < MAX_SERIES


async def test_ten_thousand_devices_and_paths_do_not_grow_metrics_log_or_status(
    relay: RelayProcess, sandbox: Sandbox
) -> None:
    sandbox.faults.add(Misbehaviour(answer=418, share=0.01))
    before = len(await metrics(relay))
    client = await connect(relay)
    for start in range(0, 10_000, 500):
        batch = [{**event(n, f"device-{n}"), "event_type": f"type-{n}"} for n in range(start, start + 500)]
        client.send(post(json.dumps(batch).encode()))
        assert (await client.response()).status == 202
    for number in range(2_000):
        client.send(request(f"GET /path-{number}?q={number} HTTP/1.1", f"User-Agent: app-{number}"))
        assert (await client.response()).status == 404
        client.send(post(b"{", f"X-App: {number}", host="localhost" if number % 2 else f"host-{number}.example"))
        assert (await client.response()).status in (400, 403)
    client.writer.close()
    sending = datagram_socket()
    for number in range(2_000):
        sending.sendto(b"\x1b[31m no event %d\n" % number, udp_address(relay))
        if number % 100 == 0:
            await asyncio.sleep(0)
    sending.close()
    async with asyncio.timeout(PATIENCE_S):
        while await rejected(relay, "malformed", "udp") < 100:
            await asyncio.sleep(0.02)
    series = await metrics(relay)
    assert len(series) < MAX_SERIES
    assert len(series) - before < 30
    assert not [name for name in series if "device-" in name or "path-" in name or "type-" in name]
    status = await relay.status()
    assert len(status["devices"]) <= 20
    assert len(json.dumps(status)) < 32 << 10
    assert len(json.dumps(relay.log)) < 64 << 10


async def test_unknown_tenants_grow_neither_log_nor_status(relay: RelayProcess, sandbox: Sandbox) -> None:
    """64 tenants have their own endpoint, the others share one, and every endpoint fails."""
    sandbox.faults.add(Misbehaviour(answer=500))
    client = await connect(relay)
    for start in range(1, 1_000, 100):
        batch = [{**event(n, f"device-{n}"), "tenant_id": n} for n in range(start, start + 100)]
        client.send(post(json.dumps(batch).encode()))
        assert (await client.response()).status == 202
    client.writer.close()
    status = await relay.until(lambda status: status["upstreams_left_out"] == 15)
    assert len(status["upstreams"]) == 50
    assert len(json.dumps(status)) < 32 << 10
    async with asyncio.timeout(PATIENCE_S):
        while sandbox.report().requests < 500:
            await asyncio.sleep(0.02)
    assert len([line for line in relay.log if line["message"] == "upstream state"]) < 100


async def test_no_received_text_forges_a_log_line(relay: RelayProcess, sandbox: Sandbox) -> None:
    forged = 'x\n{"level":"critical","message":"forged"}\r\n\x1b[2J\x9b31m'
    body = json.dumps({"message": forged, "errors": {"events.0.event_type": [forged]}})
    sandbox.faults.add(Misbehaviour(answer=422, body=body, when="forged"))
    assert await relay.post({**event(1, forged), "event_type": forged}) == 202
    assert (await relay.request("GET", "/dead-letters", headers={"User-Agent": forged.replace("\n", " ")[:4]}))[
        0
    ] == 200
    sending = datagram_socket()
    sending.sendto(forged.encode(), udp_address(relay))
    sending.close()
    await relay.until(lambda status: status["ledger"]["dead_lettered"] == 1)
    await relay.logged("a datagram was rejected")
    assert all({"level", "timestamp", "message"} <= set(line) for line in relay.log)
    assert not [line for line in relay.log if line["message"] == "forged"]
    assert "\\u001b" not in json.dumps(relay.log) and "\\u009b" not in json.dumps(relay.log)

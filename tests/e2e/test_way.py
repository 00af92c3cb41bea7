"""The path of an event through the real process, from an app's socket to the upstream."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from pathlib import Path

from relay.sandbox.server import Sandbox

from tests.e2e.harness import KEY, PATIENCE_S, environment, event, running


async def test_an_event_posted_reaches_the_upstream_byte_for_byte(sandbox: Sandbox, tmp_path: Path) -> None:
    body = b'{ "event_type":"post.view","tenant_id":1, "event_id":"550e8400-e29b-41d4-a716-446655440000",\n'
    body += b'  "occurred_at":"2026-11-23T08:00:00.123+01:00", "x":1.50, "source":{"platform":"tv","device_id":"D"} }'
    async with running(environment(sandbox.url, tmp_path)) as relay:
        status, headers, content = await relay.request("POST", "/v1/events", body)
        assert (status, json.loads(content), headers["relay-durability"]) == (202, {"success": True}, "full")
        async with asyncio.timeout(PATIENCE_S):
            await sandbox.until(lambda record: record.distinct == 1)
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)
    assert sandbox.record.contents[0].body == b'{"events":[' + body + b"]}"
    sent = sandbox.record.contents[0].headers
    assert (sent["x-events-key"], sent["accept"]) == (KEY, "application/json")
    assert re.fullmatch(r"relay/\d+\.\d+\.\d+", sent["user-agent"])


async def test_missing_fields_are_added_and_nothing_else_changes(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(
        sandbox.url, tmp_path, defaults__tenant_id="2", defaults__platform="tv", defaults__device_id="auto"
    )
    async with running(env) as relay:
        status, _, _ = await relay.request("POST", "/v1/events", b'{"event_type":"app.start","z":[1.0,"\\u00e9"]}')
        assert status == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)
    body = sandbox.record.contents[0].body
    assert body.endswith(b'"event_type":"app.start","z":[1.0,"\\u00e9"]}]}')
    (sent,) = json.loads(body)["events"]
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", sent["event_id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", sent["occurred_at"])
    assert (sent["tenant_id"], sent["source"]["platform"]) == (2, "tv")
    assert (tmp_path / "device_id").read_text().strip() == sent["source"]["device_id"]


async def test_a_datagram_is_stored_and_forwarded(sandbox: Sandbox, tmp_path: Path) -> None:
    async with running(environment(sandbox.url, tmp_path, udp__ack="true")) as relay:
        host, _, port = relay.udp.rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as app:
            app.setblocking(False)
            app.connect((host, int(port)))
            app.send(json.dumps(event(1)).encode())
            async with asyncio.timeout(PATIENCE_S):
                content = await asyncio.get_running_loop().sock_recv(app, 65536)
        assert json.loads(content) == {"stored": [event(1)["event_id"]], "count": 1}
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)
    assert sandbox.record.distinct == 1


async def test_a_batch_of_one_device_is_one_request(sandbox: Sandbox, tmp_path: Path) -> None:
    async with running(environment(sandbox.url, tmp_path)) as relay:
        body = json.dumps({"events": [event(n) for n in range(50)]}).encode()
        status, _, _ = await relay.request("POST", "/v1/events", body)
        assert status == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == 50)
    report = sandbox.report()
    assert (report.requests, report.distinct, report.order_breaks) == (1, 50, 0)


async def test_a_repeated_event_id_gets_202_and_is_sent_once(sandbox: Sandbox, tmp_path: Path) -> None:
    async with running(environment(sandbox.url, tmp_path)) as relay:
        assert await relay.post(event(1)) == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)
        assert await relay.post(event(1)) == 202
        assert (await relay.status())["ledger"]["accepted"] == 1
    async with running(environment(sandbox.url, tmp_path)) as relay:
        assert await relay.post(event(1)) == 202
        status, _, body = await relay.request("GET", f"/v1/events/{event(1)['event_id']}")
        assert (status, json.loads(body)["state"]) == (200, "delivered")
        assert (await relay.status())["ledger"]["accepted"] == 1
    assert sandbox.report().events == 1


async def test_bad_events_are_rejected_with_every_error_by_path(sandbox: Sandbox, tmp_path: Path) -> None:
    async with running(environment(sandbox.url, tmp_path)) as relay:
        bad = event(2) | {"tenant_id": "1"}
        del bad["source"]["platform"]
        body = json.dumps([event(1), bad]).encode()
        status, _, content = await relay.request("POST", "/v1/events", body)
        assert status == 422
        assert sorted(json.loads(content)["errors"]) == ["events.1.source.platform", "events.1.tenant_id"]
        assert (await relay.status())["ledger"]["accepted"] == 0

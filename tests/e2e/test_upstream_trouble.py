"""Failures of the upstream: nothing is lost, the state reports the failure, and delivery resumes by itself."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import KEY, PATIENCE_S, RelayProcess, environment, event, running


def state(status: dict[str, Any], tenant_id: int = 1) -> str | None:
    """Return the state of a tenant's endpoint, None before its first event."""
    return next((route["state"] for route in status["upstreams"] if route["tenant"] == tenant_id), None)


async def all_delivered(relay: RelayProcess, events: int) -> dict[str, Any]:
    status = await relay.until(lambda status: status["ledger"]["delivered"] == events)
    assert status["ledger"]["pending"] == 0
    assert state(status) == "ok"
    return status


async def test_a_wrong_key_loses_nothing_and_delivery_resumes_when_the_key_file_changes(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("wrong\n")
    env = environment(sandbox.url, tmp_path, upstream__api_key_file=str(key_file))
    del env["RELAY__UPSTREAM__API_KEY"]
    async with running(env) as relay:
        for n in range(10):
            assert await relay.post(event(n)) == 202
        status = await relay.until(lambda status: state(status) == "unauthorized")
        assert status["ledger"] | {"accepted": 10, "pending": 10, "dead_lettered": 0} == status["ledger"]
        assert "401" in status["upstreams"][0]["last_error"]
        # Without the change of the file, the next probe of the paused endpoint would be after 30 s.
        key_file.write_text(KEY + "\n")
        await all_delivered(relay, 10)
        assert await relay.logged("a key or certificate file has changed")
    assert sandbox.report().distinct == 10


async def test_a_wrong_url_loses_nothing_and_delivery_resumes_after_a_reload(sandbox: Sandbox, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[upstream]\nurl = "{sandbox.origin}/v2/events"\n')
    env = environment("", tmp_path)
    del env["RELAY__UPSTREAM__URL"]
    command = ("python", "-m", "relay", "run", "--config", str(config))
    async with running(env, *_this_python(command)) as relay:
        assert await relay.post(event(1)) == 202
        status = await relay.until(lambda status: state(status) == "misconfigured")
        assert status["ledger"]["pending"] == 1
        config.write_text(f'[upstream]\nurl = "{sandbox.url}"\n')
        relay.signal(signal.SIGHUP)
        await all_delivered(relay, 1)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Misbehaviour(answer=503), id="503"),
        pytest.param(Misbehaviour(answer=500), id="500"),
        pytest.param(Misbehaviour(action="reset_before_commit"), id="reset"),
        pytest.param(Misbehaviour(action="garbage"), id="garbage"),
        pytest.param(Misbehaviour(action="silence"), id="silence"),
    ],
)
async def test_an_upstream_down_for_a_while_backs_off_and_recovers(
    sandbox: Sandbox, tmp_path: Path, fault: Misbehaviour
) -> None:
    sandbox.faults.add(fault)
    async with running(environment(sandbox.url, tmp_path, upstream__timeout="1s")) as relay:
        for n in range(5):
            assert await relay.post(event(n)) == 202
        status = await relay.until(lambda status: state(status) == "backing_off")
        assert status["ledger"]["pending"] == 5
        sandbox.faults.heal()
        await all_delivered(relay, 5)
    assert sandbox.report().distinct == 5


async def test_events_wait_for_an_unavailable_upstream(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.close_port()
    async with running(environment(sandbox.url, tmp_path)) as relay:
        assert await relay.post(event(1)) == 202
        await relay.until(lambda status: state(status) == "backing_off")
        await sandbox.open_port()
        await all_delivered(relay, 1)


@pytest.mark.parametrize("response", ["422", "422_unnamed"])
async def test_one_bad_event_among_500_is_dead_lettered_alone(sandbox: Sandbox, tmp_path: Path, response: str) -> None:
    poisoned = event(317)["event_id"]
    sandbox.faults.add(Misbehaviour(answer=int(response) if response.isdigit() else response, when=poisoned))
    async with running(environment(sandbox.url, tmp_path)) as relay:
        body = json.dumps([event(n) for n in range(500)]).encode()
        assert (await relay.request("POST", "/v1/events", body))[0] == 202
        status = await relay.until(lambda status: status["ledger"]["pending"] == 0)
        ledger = status["ledger"]
        assert (ledger["delivered"], ledger["dead_lettered"], ledger["dropped"]) == (499, 1, 0)
        assert state(status) == "ok"
        _, _, dead = await relay.request("GET", "/dead-letters")
        (letter,) = json.loads(dead)["dead_letters"]
        assert (letter["event_id"], letter["reason"], letter["status"]) == (poisoned, "refused", 422)
        assert letter["message"].startswith("422 ")
    report = sandbox.report()
    assert (report.distinct, report.order_breaks) == (499, 0)
    # A named event needs a second request without it. An unnamed one is found by halving: 2 * log2(500) requests.
    assert report.requests <= (2 if response == "422" else 20)


async def test_a_response_lost_after_the_commit_repeats_the_same_events(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Misbehaviour(action="reset_after_commit", count=1))
    async with running(environment(sandbox.url, tmp_path)) as relay:
        for n in range(5):
            assert await relay.post(event(n)) == 202
        await all_delivered(relay, 5)
    report = sandbox.report()
    assert report.distinct == 5
    assert report.duplicates <= 5


async def test_a_redirect_is_not_followed(sandbox: Sandbox, tmp_path: Path) -> None:
    visits: list[bytes] = []

    async def thief(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.append(await reader.read(65536))
        writer.close()

    elsewhere = await asyncio.start_server(thief, "127.0.0.1", 0)
    port = elsewhere.sockets[0].getsockname()[1]
    sandbox.faults.add(Misbehaviour(answer=307, headers={"Location": f"http://127.0.0.1:{port}/"}))
    async with running(environment(sandbox.url, tmp_path)) as relay:
        assert await relay.post(event(1)) == 202
        status = await relay.until(lambda status: state(status) == "misconfigured")
        assert status["ledger"]["pending"] == 1
    elsewhere.close()
    assert visits == []


async def test_a_wrong_key_of_one_tenant_does_not_delay_another(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(sandbox.url, tmp_path) | {"RELAY__UPSTREAM__TENANTS__2__API_KEY": "wrong"}
    async with running(env) as relay:
        assert await relay.post(event(1, tenant_id=2)) == 202
        await relay.until(lambda status: state(status, 2) == "unauthorized")
        assert await relay.post(event(1, tenant_id=1)) == 202
        status = await relay.until(lambda status: status["ledger"]["delivered"] == 1)
        assert (state(status, 1), state(status, 2)) == ("ok", "unauthorized")


async def test_an_unannounced_shared_limit_is_found_and_followed(sandbox: Sandbox, tmp_path: Path) -> None:
    """50 devices share 20 requests per window and IP. Once the limit is found, at most 5 % of the responses are 429.

    `make bench` measures how much of the limit is used.
    """
    window_ms = 2_000
    sandbox.change(ip_limit="always", ip_per_window=20, announce_limits=False, window_ms=window_ms)
    env = environment(sandbox.url, tmp_path, rate__window="2s", batch__max_events="5", batch__mix_devices="never")
    async with running(env) as relay:
        for start in range(50):
            device = f"device-{start}"
            body = json.dumps([event(n, device) for n in range(60)]).encode()
            assert (await relay.request("POST", "/v1/events", body))[0] == 202
        # Three windows to find the limit, five to follow it: at most 8 * 20 requests.
        async with asyncio.timeout(PATIENCE_S):
            await sandbox.until(lambda record: record.distinct >= 7 * 20 * 5)
        status = await relay.status()
        assert state(status) == "rate_limited"
    statuses = [(request.at_ms, request.status) for request in sandbox.record.requests()]
    began = statuses[0][0]
    later = [status for at, status in statuses if at >= began + 3 * window_ms]
    assert later.count(429) * 20 <= len(later)


def _this_python(command: tuple[str, ...]) -> tuple[str, ...]:
    import sys

    return (sys.executable, *command[1:])

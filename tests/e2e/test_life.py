"""Starts, stops and kills: every event answered with 202 is delivered, in order and within the limits."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
import structlog
from relay.app.service import Service
from relay.config import load
from relay.outbox import OutboxUnavailable
from relay.runtime.clock import SystemClock
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import command, environment, event, http, launch, running

DEVICES = 50
KILLS = 5
MAX_IN_FLIGHT = 8


class App:
    """The app of one device. It sends without a pause, and repeats an event until it gets a 202."""

    def __init__(self, number: int) -> None:
        self.device = f"device-{number:02}"
        self.stored: list[str] = []
        """Ids of the events answered with 202, in order."""
        self._next = 0

    async def send_until(self, stop: asyncio.Event, address: Any) -> None:
        while not stop.is_set():
            one = event(self._next, self.device)
            try:
                status, _, _ = await http(address(), "POST", "/v1/events", json.dumps(one).encode())
            except (OSError, IndexError, ValueError):
                # The relay was killed. Whether it stored the event is unknown, so the app repeats it.
                await asyncio.sleep(0.01)
                continue
            if status == 202:
                self.stored.append(one["event_id"])
                self._next += 1


def ledger_balances(status: dict[str, Any]) -> bool:
    ledger = status["ledger"]
    settled = ledger["delivered"] + ledger["dead_lettered"] + ledger["dropped"]
    return bool(ledger["accepted"] + ledger["requeued"] == settled + ledger["pending"])


async def test_kills_under_load_lose_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    """G1 to G5 hold with five kills (SIGKILL) while fifty devices send.

    Only events in flight may be repeated: at most `upstream.max_in_flight` batches per kill.
    """
    env = environment(sandbox.url, tmp_path, rate__window="5s", http__listen="127.0.0.1:0")
    apps = [App(number) for number in range(DEVICES)]
    stop = asyncio.Event()
    address = ""
    senders = [asyncio.create_task(app.send_until(stop, lambda: address)) for app in apps]
    for kill in range(KILLS + 1):
        async with running(env) as relay:
            address = relay.http
            before = sum(len(app.stored) for app in apps)
            goal = sandbox.record.distinct + 300
            status = await relay.until(lambda _, goal=goal: sandbox.record.distinct >= goal)
            assert ledger_balances(status)
            assert sum(len(app.stored) for app in apps) > before
            if kill < KILLS:
                await relay.kill()
                continue
            stop.set()
            await asyncio.gather(*senders)
            status = await relay.until(lambda status: status["ledger"]["pending"] == 0)
            assert ledger_balances(status)
            assert status["ledger"]["dead_lettered"] == status["ledger"]["dropped"] == 0
    report = sandbox.report()
    missing = [i for app in apps for i in app.stored if not sandbox.record.has(bytes.fromhex(i.replace("-", "")))]
    assert missing == []
    assert report.order_breaks == 0
    assert report.most_of_device <= 120
    assert report.rate_limited == 0
    largest = max(request.events for request in sandbox.record.requests())
    assert report.duplicates <= KILLS * MAX_IN_FLIGHT * largest


async def test_a_restart_after_more_than_a_window_forgets_new_devices_only(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Misbehaviour(answer=422, when='"new"'))
    env = environment(sandbox.url, tmp_path, rate__window="1s")
    async with running(env) as relay:
        assert await relay.post(event(1, "known")) == 202
        assert await relay.post(event(2, "new")) == 202
        await relay.until(lambda status: status["ledger"]["pending"] == 0)
    await asyncio.sleep(1.1)
    async with running(env) as relay:
        _, _, metrics = await relay.request("GET", "/metrics")
        assert b"relay_devices 1.0" in metrics


async def test_sigterm_sends_pending_events_and_exits_0(sandbox: Sandbox, tmp_path: Path) -> None:
    async with running(environment(sandbox.url, tmp_path, batch__linger="10m")) as relay:
        assert await relay.post(event(1)) == 202
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0
    assert sandbox.report().distinct == 1


async def test_sigterm_with_a_silent_upstream_leaves_events_pending(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Misbehaviour(action="silence"))
    env = environment(sandbox.url, tmp_path, shutdown__drain="200ms", upstream__timeout="5m")
    async with running(env) as relay:
        assert await relay.post(event(1)) == 202
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0
        # The stop is complete: the process did not end because the stop took too long.
        assert relay.log[-1]["message"] == "stopped"
    sandbox.faults.heal()
    async with running(env) as relay:
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)
    assert sandbox.report().distinct == 1


@pytest.mark.parametrize(
    ("broken", "step", "sent"),
    [
        ("relay.http.listener.Listener._remove_unix_socket", "listener", 1),
        ("relay.ingest.udp.sockets.kernel_drops", "udp", 1),
        ("relay.forward.forwarder.Forwarder.drain", "drain", 0),
    ],
)
async def test_a_bug_in_a_step_of_the_stop_is_logged_and_the_outbox_is_closed(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, step: str, sent: int
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    env = environment(sandbox.url, tmp_path, batch__linger="10m")
    service = Service(load(None, env), lambda: load(None, env), SystemClock())
    await service.start()
    status, _, _ = await http(service.http_addresses[0], "POST", "/v1/events", json.dumps(event(1)).encode())
    assert status == 202
    monkeypatch.setattr(broken, fail)
    with structlog.testing.capture_logs() as lines:
        await service.stop()
    failed = [line for line in lines if line["log_level"] == "error"]
    assert [(line["step"], repr(line["exc_info"])) for line in failed] == [(step, repr(RuntimeError("a bug")))]
    assert service.udp_addresses == []
    assert sandbox.report().distinct == sent
    with pytest.raises(OutboxUnavailable):
        await service.outbox.append([])
    assert not (tmp_path / "outbox.db-wal").exists()


async def test_a_second_signal_exits_at_once_and_loses_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Misbehaviour(action="silence"))
    env = environment(sandbox.url, tmp_path, shutdown__drain="5m")
    async with running(env) as relay:
        assert await relay.post(event(1)) == 202
        relay.signal(signal.SIGTERM)
        await relay.logged("stop signal received")
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 128 + signal.SIGTERM
    sandbox.faults.heal()
    async with running(env) as relay:
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)


async def test_a_second_relay_on_the_same_outbox_exits_75(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(sandbox.url, tmp_path)
    async with running(env) as relay:
        code, _, message = await command(env, "run")
        assert code == 75
        assert str(tmp_path / "outbox.db") in message
        assert await relay.post(event(1)) == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)


async def test_a_wrong_configuration_exits_78_and_suggests_the_right_name(tmp_path: Path) -> None:
    env = environment("https://events.example/v1/events", tmp_path) | {"RELAY__BATCH__LINGR": "5s"}
    code, _, message = await command(env, "run")
    assert code == 78
    assert "RELAY__BATCH__LINGR" in message
    assert "RELAY__BATCH__LINGER" in message


async def test_only_allowed_tenants_are_accepted_and_they_contain_the_configured_ones(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    env = environment(sandbox.url, tmp_path, upstream__allowed_tenants="2, 3")
    async with running(env) as relay:
        status, _, body = await relay.request("POST", "/v1/events", json.dumps(event(1, tenant_id=1)).encode())
        assert await relay.post(event(2, tenant_id=3)) == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)
        _, _, metrics = await relay.request("GET", "/metrics")
    assert (status, json.loads(body)["error"]) == (422, "The events.0.tenant_id field must be one of 2, 3, but is 1.")
    assert b'relay_events_rejected_total{reason="invalid",transport="http"} 1.0' in metrics
    beyond = {"RELAY__UPSTREAM__TENANTS__4__API_KEY": "four", "RELAY__DEFAULTS__TENANT_ID": "5"}
    code, _, message = await command(env | beyond, "run")
    assert code == 78
    assert "upstream.allowed_tenants = [2, 3]: lacks tenants of upstream.tenants: add 4, or remove" in message
    assert "defaults.tenant_id = 5: is not in upstream.allowed_tenants = [2, 3]" in message


async def test_only_the_owner_can_read_the_outbox_and_its_files(sandbox: Sandbox, tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with running(environment(sandbox.url, state, defaults__device_id="auto")) as relay:
        assert await relay.post(event(1)) == 202
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()}
    assert {"outbox.db", "outbox.db-wal", "device_id"} <= set(modes)
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


@pytest.mark.parametrize("listen", ["http", "ops"])
async def test_an_address_in_use_is_reported_and_exits_1(sandbox: Sandbox, tmp_path: Path, listen: str) -> None:
    occupied = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = occupied.sockets[0].getsockname()[1]
    env = environment(sandbox.url, tmp_path) | {f"RELAY__{listen.upper()}__LISTEN": f"127.0.0.1:{port}"}
    code, _, message = await command(env, "run")
    occupied.close()
    assert code == 1
    assert f"127.0.0.1:{port}" in message


async def test_a_relay_killed_during_its_start_starts_again(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(sandbox.url, tmp_path)
    for delay_ms in (20, 60, 120, 200, 300):
        relay = await launch(env)
        await asyncio.sleep(delay_ms / 1000)
        await relay.kill()
    async with running(env) as relay:
        assert await relay.post(event(1)) == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)

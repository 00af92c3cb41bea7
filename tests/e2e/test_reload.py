"""Reloads of the configuration: all changes apply or none, the log reports them without secrets, without a stop."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from relay.app.service import Service
from relay.config import load
from relay.outbox.engine.outbox import OutboxEngine
from relay.runtime.clock import SystemClock
from relay.sandbox.server import Sandbox

from tests.e2e.harness import KEY, PATIENCE_S, RelayProcess, command, environment, event, running

APPLIED, REJECTED = "configuration applied", "configuration rejected, the previous one stays in effect"


class Box:
    """A running relay with a configuration file that a test can rewrite."""

    def __init__(self, relay: RelayProcess, file: Path) -> None:
        self.relay = relay
        self._file = file

    def write(self, toml: str) -> None:
        self._file.write_text(toml)

    def reload(self, toml: str) -> None:
        self.write(toml)
        self.relay.signal(signal.SIGHUP)

    async def successful(self) -> float:
        _, _, text = await self.relay.request("GET", "/metrics")
        (line,) = [one for one in text.splitlines() if one.startswith(b"relay_config_last_reload_successful ")]
        return float(line.split()[1])

    async def works(self, n: int) -> None:
        before = (await self.relay.status())["ledger"]["delivered"]
        assert await self.relay.post(event(n)) == 202
        await self.relay.until(lambda status: status["ledger"]["delivered"] == before + 1)


@pytest.fixture
async def box(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Box]:
    file = tmp_path / "config.toml"
    file.write_text("[rate]\ndevice_per_window = 100\n")
    command = (sys.executable, "-m", "relay", "run", "--config", str(file))
    env = environment(sandbox.url, tmp_path)
    del env["RELAY__LOG__LEVEL"]  # The configuration file sets the level.
    async with running(env, *command) as relay:
        yield Box(relay, file)


async def test_a_changed_key_is_noticed_while_the_disk_hangs(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_: Any) -> None:
        await asyncio.Event().wait()

    key = tmp_path / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    env = environment(sandbox.url, tmp_path, upstream__api_key_file=str(key))
    del env["RELAY__UPSTREAM__API_KEY"]
    monkeypatch.setattr(OutboxEngine, "check", hang)
    service = Service(load(None, env), lambda: load(None, env), SystemClock())
    await service.start()
    try:
        key.write_text("another")
        async with asyncio.timeout(PATIENCE_S):
            while service.settings.upstream.default.api_key.reveal() != "another":
                await asyncio.sleep(0.02)
    finally:
        await service.stop()


async def test_changes_are_applied_and_logged_with_old_and_new_values(box: Box) -> None:
    box.reload('[rate]\ndevice_per_window = 90\n[log]\nlevel = "debug"\n')

    applied = await box.relay.logged(APPLIED)

    assert applied["changed"] == {"rate.device_per_window": "100 -> 90", "log.level": '"info" -> "debug"'}
    assert applied["needs_restart"] == []
    assert await box.successful() == 1
    await box.works(1)


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("[rate]\ndevice_per_window = 'many'\n[log]\nlevel = 'debug'\n", "rate.device_per_window"),
        ("[rate]\ndevice_per_windw = 90\n[log]\nlevel = 'debug'\n", "rate.device_per_window"),
        ("[rate\n", "config.toml"),
        ("[log]\nlevel = 'debug'\n[upstream]\nca_file = 'config.toml'\n", "upstream.ca_file"),
    ],
)
async def test_one_error_rejects_the_whole_configuration(box: Box, toml: str, named: str, tmp_path: Path) -> None:
    box.reload(toml.replace("'config.toml'", f"'{tmp_path / 'config.toml'}'"))

    rejected = await box.relay.logged(REJECTED)

    assert named in rejected["error"]
    assert await box.successful() == 0
    await box.works(1)
    # The rejected file had set the debug level.
    assert not any(line.get("level") == "debug" for line in box.relay.log)
    box.reload("[rate]\ndevice_per_window = 90\n")
    assert (await box.relay.logged(APPLIED))["changed"] == {"rate.device_per_window": "100 -> 90"}
    assert await box.successful() == 1


async def test_keys_that_need_a_restart_are_logged_at_every_reload(box: Box) -> None:
    waits = "[outbox]\nmax_dead_letters = 99\n"
    box.reload(waits)
    first = await box.relay.logged(APPLIED)
    assert (first["changed"], first["needs_restart"]) == (
        {"rate.device_per_window": "100 -> 120"},
        ["outbox.max_dead_letters"],
    )

    box.reload(waits + "[rate]\ndevice_per_window = 90\n")
    second = await box.relay.logged(APPLIED, changed={"rate.device_per_window": "120 -> 90"})

    assert second["needs_restart"] == ["outbox.max_dead_letters"]


async def test_a_changed_key_file_is_applied_without_a_signal_and_never_logged(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("canary-wrong-1a2b3c\n")
    env = environment(sandbox.url, tmp_path, upstream__api_key_file=str(key_file))
    del env["RELAY__UPSTREAM__API_KEY"]
    async with running(env) as relay:
        assert await relay.post(event(1)) == 202
        await relay.until(lambda status: status["upstreams"][0]["state"] == "unauthorized")
        # The replacement is atomic, so the relay cannot read a part of the file.
        (tmp_path / "new").write_text(KEY + "\n")
        (tmp_path / "new").rename(key_file)

        applied = await relay.logged(APPLIED)

        assert list(applied["changed"]) == ["upstream.api_key"]
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)
        log_text = json.dumps(relay.log)
    assert KEY not in log_text
    assert "canary-wrong" not in log_text


async def test_a_deleted_key_file_is_reported_and_the_old_key_stays(sandbox: Sandbox, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(KEY + "\n")
    env = environment(sandbox.url, tmp_path, upstream__api_key_file=str(key_file))
    del env["RELAY__UPSTREAM__API_KEY"]
    async with running(env) as relay:
        key_file.unlink()

        rejected = await relay.logged(REJECTED)

        assert str(key_file) in rejected["error"]
        assert await relay.post(event(1)) == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)


async def test_a_key_file_that_changes_while_the_relay_starts_is_noticed(sandbox: Sandbox, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("canary-old-4d5e6f\n")
    key_file.chmod(0o600)
    env = environment(sandbox.url, tmp_path, upstream__api_key_file=str(key_file))
    del env["RELAY__UPSTREAM__API_KEY"]
    service = Service(load(None, env), lambda: load(None, env), SystemClock())
    key_file.write_text(KEY + "\n")

    await service.start()
    async with asyncio.timeout(PATIENCE_S):
        while service.settings.upstream.default.api_key.reveal() != KEY:
            await asyncio.sleep(0.05)
    await service.stop()


async def test_a_smaller_batch_size_applies_to_a_known_tenant(box: Box, sandbox: Sandbox) -> None:
    await box.works(1)
    box.reload('[batch]\nmax_bytes = "64KiB"\nlinger = "500ms"\n[http]\nmax_event = "64KiB"\n')
    applied = await box.relay.logged(APPLIED)
    assert "batch.max_bytes" in applied["changed"]
    before = sandbox.report().requests
    padding = "x" * 20_000
    for n in range(2, 10):
        assert await box.relay.post(event(n) | {"context": {"n": n, "padding": padding}}) == 202

    await box.relay.until(lambda status: status["ledger"]["delivered"] == 9)

    assert sandbox.report().requests - before >= 3, "eight events of 20 kB do not fit two requests of 64 KiB"


async def test_a_changed_key_file_applies_nothing_else_of_the_configuration(sandbox: Sandbox, tmp_path: Path) -> None:
    file, key_file = tmp_path / "config.toml", tmp_path / "key"
    file.write_text("[batch]\nmax_events = 7\n")
    key_file.write_text("canary-wrong-1a2b3c\n")
    env = environment(sandbox.url, tmp_path, upstream__api_key_file=str(key_file))
    del env["RELAY__UPSTREAM__API_KEY"]
    async with running(env, sys.executable, "-m", "relay", "run", "--config", str(file)) as relay:
        file.write_text("[batch]\nmax_events = 8\n")
        key_file.write_text(KEY + "\n")

        applied = await relay.logged(APPLIED)

        assert list(applied["changed"]) == ["upstream.api_key"]
        relay.signal(signal.SIGHUP)
        await relay.logged(APPLIED, changed={"batch.max_events": "7 -> 8"})


async def test_a_reload_reads_the_defaults_file_again(sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "image.toml"
    file.write_text("[rate]\ndevice_per_window = 100\n")
    env = environment(sandbox.url, tmp_path) | {"RELAY_DEFAULTS_FILE": str(file)}
    async with running(env) as relay:
        file.write_text("[rate]\ndevice_per_window = 90\n")
        relay.signal(signal.SIGHUP)
        applied = await relay.logged(APPLIED)
        assert applied["changed"] == {"rate.device_per_window": "100 -> 90"}
        file.write_text("[rate]\ndevices_per_window = 80\n")
        relay.signal(signal.SIGHUP)
        rejected = await relay.logged(REJECTED)
        assert f"defaults file {file}: rate.devices_per_window: is not a known key" in rejected["error"]
    code, _, message = await command(env, "run")
    assert code == 78
    assert f"defaults file {file}: rate.devices_per_window" in message

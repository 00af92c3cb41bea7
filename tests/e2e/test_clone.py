"""An image of a running relay on several machines: each machine gets a new id, and no event is sent twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from relay.sandbox.server import Sandbox

from tests.e2e.harness import command, environment, running


def can_unshare() -> bool:
    tool = shutil.which("unshare")
    if tool is None or os.geteuid() != 0 or not Path("/etc/machine-id").exists():
        return False
    return subprocess.run([tool, "-m", "true"], check=False, capture_output=True).returncode == 0


needs_machines = pytest.mark.skipif(not can_unshare(), reason="needs root, unshare(1) and /etc/machine-id")


def on_machine(directory: Path) -> list[str]:
    """Return the command that runs a relay on a machine with a new machine id."""
    machine_id = directory / "machine-id"
    machine_id.write_text(uuid.uuid4().hex + "\n")
    script = f'mount --bind {machine_id} /etc/machine-id && exec "$@"'
    return ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "relay", "run"]


def boot_event() -> dict[str, str]:
    return {"event_type": "boot.test"}


@needs_machines
async def test_clones_get_new_ids_and_send_no_event_of_the_image(sandbox: Sandbox, tmp_path: Path) -> None:
    settings = {
        "defaults__device_id": "auto",
        "defaults__platform": "tv",
        "defaults__tenant_id": "1",
        "batch__linger": "60s",
        "outbox__identity": "machine",
    }
    master = tmp_path / "master"
    master.mkdir()
    env = environment(sandbox.url, master / "data", **settings)
    async with running(env, *on_machine(master)) as relay:
        for _ in range(5):
            assert await relay.post(boot_event()) == 202
        await relay.kill()
    device_ids = {(master / "data/device_id").read_text()}
    for number in range(2):
        box = tmp_path / f"box-{number}"
        shutil.copytree(master / "data", box / "data")
        env = environment(sandbox.url, box / "data", **settings) | {"RELAY__BATCH__LINGER": "0s"}
        async with running(env, *on_machine(box)) as clone:
            await clone.logged("this installation is a copy from another machine, or its disk was moved")
            device_ids.add((box / "data/device_id").read_text())
            assert await clone.post(boot_event()) == 202
            status = await clone.until(lambda status: status["ledger"]["delivered"] == 1)
            assert status["ledger"] == {
                "accepted": 6, "requeued": 0, "delivered": 1, "dead_lettered": 0, "dropped": 0, "pending": 5,
            }  # fmt: skip
            assert status["outbox"]["quarantined_events"] == 5
            assert status["summary"]["level"] == "trouble"
            _, _, metrics = await clone.request("GET", "/metrics")
            assert b"relay_installation_changed_total 1.0" in metrics
            assert b"relay_events_quarantined 5.0" in metrics
            options = ["--discard"] if number else []
            code, out, _ = await command(env | {"RELAY__HTTP__LISTEN": clone.http}, "adopt", *options)
            assert (code, out) == (0, "5 events discarded\n" if number else "5 events adopted\n")
            await clone.until(lambda status: status["ledger"]["pending"] == 0)
    assert len(device_ids) == 3

"""The relay runs with what Python has on macOS, and without /proc: every use of a Linux interface has a fallback."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from relay.sandbox.server import Sandbox

from tests.e2e.harness import PATIENCE_S, environment, event, running

WITHOUT_PROC = (
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs none /proc && exec "$@"',
    "sh",
)
RELAY = (sys.executable, "-m", "tests.e2e.as_on_macos")
EVENTS = 20


def can_hide_proc() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*WITHOUT_PROC, "true"], capture_output=True, check=False).returncode == 0


needs_namespace = pytest.mark.skipif(not can_hide_proc(), reason="/proc cannot be hidden from a process here")


@needs_namespace
async def test_events_are_stored_delivered_and_survive_a_kill(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(sandbox.url, tmp_path, batch__linger="50ms", udp__ack="true")
    async with running(
        env | {"RELAY__UPSTREAM__URL": "http://127.0.0.1:1/v1/events"}, *WITHOUT_PROC, *RELAY, "run"
    ) as relay:
        for n in range(EVENTS):
            assert await relay.post(event(n)) == 202
        stored = await acknowledged(relay.udp, EVENTS)
        status, _, metrics = await relay.request("GET", "/metrics")
        relay.signal(signal.SIGKILL)
        await relay.ended()
    async with running(env, *WITHOUT_PROC, *RELAY, "run") as relay:
        await relay.until(lambda status: status["ledger"]["delivered"] == EVENTS + 1)
        relay.signal(signal.SIGHUP)
        await relay.logged("configuration applied")
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0

    assert stored["count"] == 1
    assert (status, b"process_" in metrics, b"relay_outbox_events" in metrics) == (200, False, True)
    assert [line for line in relay.log if line["level"] in ("error", "critical")] == []


@needs_namespace
def test_the_demo_of_make_run_delivers(tmp_path: Path) -> None:
    demo = ("demo", "--devices", "3", "--seconds", "3")
    done = subprocess.run(
        [*WITHOUT_PROC, *RELAY, *demo],
        capture_output=True, text=True, timeout=100, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert "The sandbox received 0 " not in done.stdout


async def acknowledged(address: str, n: int) -> dict[str, int]:
    """Send an event as a datagram, and return the relay's acknowledgement."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as app:
        app.setblocking(False)
        app.connect((host, int(port)))
        await loop.sock_sendall(app, json.dumps(event(n)).encode())
        async with asyncio.timeout(PATIENCE_S):
            answer: dict[str, int] = json.loads(await loop.sock_recv(app, 1_500))
    return answer

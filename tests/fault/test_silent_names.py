"""Name servers that never respond. The stop is bounded, a second signal ends the process, other tenants are served."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from pathlib import Path

import pytest
from relay.sandbox.server import Sandbox

from tests.e2e.harness import PATIENCE_S, environment, event, running
from tests.fault.names import LOCAL, SILENT, with_silent_names
from tests.fault.shim import needs_cc

pytestmark = needs_cc

DEAD_TENANTS = 40
"""More than the threads of any executor."""


async def test_a_stop_does_not_wait_for_a_lookup(tmp_path: Path) -> None:
    env = with_silent_names(environment(f"https://{SILENT}/v1/events", tmp_path, shutdown__drain="0s"))
    async with running(env) as relay:
        assert await relay.post(event(1)) == 202
        await relay.until(lambda status: status["upstreams"][0]["state"] == "backing_off")
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0
        assert relay.log[-1]["message"] == "stopped", "the deadline had to end the process"
    async with running(env) as relay:
        assert (await relay.status())["ledger"]["pending"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_the_process_while_a_lookup_hangs(tmp_path: Path, number: signal.Signals) -> None:
    env = environment(f"https://{SILENT}/v1/events", tmp_path, shutdown__drain="5m", batch__linger="10m")
    async with running(with_silent_names(env)) as relay:
        assert await relay.post(event(1)) == 202
        relay.signal(number)
        await relay.logged("stop signal received")
        relay.signal(number)
        assert await relay.ended() == 128 + number


async def test_names_that_are_silent_do_not_delay_another_tenant(sandbox: Sandbox, tmp_path: Path) -> None:
    dead = {f"upstream__tenants__{10 + n}__url": f"https://{n}.{SILENT}/v1/events" for n in range(DEAD_TENANTS)}
    url = sandbox.url.replace("127.0.0.1", LOCAL)
    env = environment(url, tmp_path, upstream__allow_http="true", upstream__max_in_flight="64", **dead)
    async with running(with_silent_names(env)) as relay:
        for n in range(DEAD_TENANTS):
            assert await relay.post(event(n, tenant_id=10 + n)) == 202
        await relay.until(lambda status: status["ledger"]["pending"] == DEAD_TENANTS)
        assert await relay.post(event(1, tenant_id=1)) == 202
        status = await relay.until(lambda status: status["ledger"]["delivered"] == 1)
        assert status["ledger"]["pending"] == DEAD_TENANTS


async def launched_with_a_stalled_log(env: dict[str, str]) -> tuple[asyncio.subprocess.Process, int]:
    """Start a relay whose standard error is a full pipe that is not read. Return the process and the read end."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    try:
        while os.write(writing, bytes(4096)):
            pass
    except BlockingIOError:
        pass
    os.set_blocking(writing, True)
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "relay", "run", env=env, stderr=writing)
    os.close(writing)
    return process, reading


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_the_process_while_the_log_hangs(tmp_path: Path, number: signal.Signals) -> None:
    env = environment("http://127.0.0.1:1/v1/events", tmp_path, shutdown__drain="5m")
    process, reading = await launched_with_a_stalled_log(env)
    try:
        await receives_signals(process.pid)
        process.send_signal(number)
        await first_signal_is_received(process.pid, number)
        process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 128 + number
    finally:
        os.close(reading)


async def test_a_stop_ends_while_the_log_hangs(tmp_path: Path) -> None:
    env = environment("http://127.0.0.1:1/v1/events", tmp_path, shutdown__drain="0s")
    process, reading = await launched_with_a_stalled_log(env)
    try:
        await receives_signals(process.pid)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 0
    finally:
        os.close(reading)


def _signal_set(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(value, 16)


async def receives_signals(pid: int) -> None:
    """Wait until the relay has blocked the stop signals: from then on its own thread receives them."""
    async with asyncio.timeout(PATIENCE_S):
        while not _signal_set(pid, "SigBlk") & 1 << (signal.SIGTERM - 1):
            await asyncio.sleep(0.02)


async def first_signal_is_received(pid: int, number: signal.Signals) -> None:
    """Wait until the signal is not pending any more: a second one would be merged into it."""
    async with asyncio.timeout(PATIENCE_S):
        while _signal_set(pid, "ShdPnd") & 1 << (number - 1):
            await asyncio.sleep(0.02)

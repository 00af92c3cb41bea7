"""A stalled reader of the log, and closed standard streams. Neither blocks the relay."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from relay.sandbox.server import Sandbox

from tests.e2e.harness import PATIENCE_S, environment, event, http, running

RELOADS_MAX = 20_000


@asynccontextmanager
async def with_a_stalled_reader(env: dict[str, str]) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, int]]:
    """Run a relay whose log is read only until it has started. Yield process, address and the pipe's read end."""
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "relay", "run", env=env, stderr=writing)
    os.close(writing)
    try:
        yield process, await asyncio.to_thread(_started, reading), reading
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(reading)


def _started(reading: int) -> str:
    with os.fdopen(reading, closefd=False) as log:
        for line in log:
            if (fields := json.loads(line))["message"] == "relay started":
                return str(fields["http"][0])
    raise AssertionError("the relay did not start")


async def lines_lost(address: str) -> int:
    _, _, body = await http(address, "GET", "/metrics")
    (value,) = re.findall(rb"^relay_log_lines_lost_total (\d+)", body, re.MULTILINE)
    return int(value)


async def fill(process: asyncio.subprocess.Process, address: str) -> None:
    """Reload until the pipe and the log queue are full and lines are lost."""
    for reload in range(RELOADS_MAX):
        process.send_signal(signal.SIGHUP)
        await asyncio.sleep(0.001)
        if reload % 100 == 0 and await lines_lost(address):
            return
    raise AssertionError("no line was lost")


async def test_a_stalled_log_reader_blocks_neither_events_nor_the_stop(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(sandbox.url, tmp_path, defaults__app_version="x" * 100)
    async with with_a_stalled_reader(env) as (process, address, _):
        await fill(process, address)

        status, _, _ = await http(address, "POST", "/v1/events", json.dumps(event(1)).encode())
        assert status == 202
        async with asyncio.timeout(PATIENCE_S):
            while json.loads((await http(address, "GET", "/status.json"))[2])["ledger"]["delivered"] != 1:
                await asyncio.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 0


async def test_the_log_reports_the_number_of_lost_lines(sandbox: Sandbox, tmp_path: Path) -> None:
    async with with_a_stalled_reader(environment(sandbox.url, tmp_path)) as (process, address, reading):
        await fill(process, address)
        process.send_signal(signal.SIGTERM)
        text = await asyncio.to_thread(_read_to_the_end, reading)
        assert await process.wait() == 0

    notices = [line for line in map(json.loads, text.splitlines()[1:]) if line["message"] == "log lines are missing"]
    assert notices
    assert all(line["lines"] > 0 for line in notices)


def _read_to_the_end(reading: int) -> str:
    with os.fdopen(reading, closefd=False) as log:
        return log.read()


@pytest.mark.parametrize("closed", ["2>&-", "0<&-", ">&- 2>&-", "0<&- >&- 2>&-"])
async def test_the_relay_works_with_closed_standard_streams(sandbox: Sandbox, tmp_path: Path, closed: str) -> None:
    address_file = tmp_path / "http.sock"
    env = environment(sandbox.url, tmp_path, http__unix_socket=str(address_file))
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", f'exec "$0" -m relay run {closed}', sys.executable, env=env
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not address_file.exists():
                assert process.returncode is None, "the relay ended"
                await asyncio.sleep(0.02)
        descriptors = Path(f"/proc/{process.pid}/fd")
        assert not any(str((descriptors / str(n)).readlink()).startswith(str(tmp_path)) for n in range(3))
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_the_last_line_reaches_the_log(sandbox: Sandbox, tmp_path: Path) -> None:
    async with running(environment(sandbox.url, tmp_path)) as relay:
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0
    assert relay.log[-1]["message"] == "stopped"

"""The real relay under a service manager, replaced by a unix datagram socket for its notifications."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from relay.sandbox.server import Sandbox

from tests.e2e.harness import PATIENCE_S, environment, event, launch, running

STRACE = shutil.which("strace")


class Manager:
    """The notification socket of a service manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    async def hears(self, start: str) -> list[str]:
        """Wait for a message that begins with `start`. Return all messages up to it."""
        heard: list[str] = []
        async with asyncio.timeout(PATIENCE_S):
            while not heard or not heard[-1].startswith(start):
                heard.append((await asyncio.get_running_loop().sock_recv(self._socket, 4096)).decode())
        return heard

    def heard(self) -> list[str]:
        """Return the received messages that were not read yet."""
        found = []
        try:
            while True:
                found.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    listening = Manager(tmp_path / "notify")
    yield listening
    listening.close()


def supervised(manager: Manager, sandbox: Sandbox, tmp_path: Path, **settings: str) -> dict[str, str]:
    notifying = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "120000000"}
    return environment(sandbox.url, tmp_path, **settings) | notifying


async def test_start_reload_and_stop_are_reported(sandbox: Sandbox, tmp_path: Path, manager: Manager) -> None:
    """The relay reports READY, WATCHDOG with a status, RELOADING followed by READY, and STOPPING."""
    async with running(supervised(manager, sandbox, tmp_path)) as relay:
        assert await manager.hears("READY=1") == ["READY=1"]
        assert (await manager.hears("WATCHDOG=1"))[-1] == "WATCHDOG=1\nSTATUS=0 events pending, upstream not tried yet"

        relay.signal(signal.SIGHUP)
        reload = (await manager.hears("RELOADING=1"))[-1]
        assert reload.split("\n")[1].startswith("MONOTONIC_USEC=")
        assert (await manager.hears("READY=1"))[-1] == "READY=1"

        relay.signal(signal.SIGTERM)
        assert (await manager.hears("STOPPING=1"))[-1] == "STOPPING=1"
        assert await relay.ended() == 0


async def test_a_rejected_reload_is_reported_as_ended(sandbox: Sandbox, tmp_path: Path, manager: Manager) -> None:
    config = tmp_path / "config.toml"
    config.write_text("")
    env = supervised(manager, sandbox, tmp_path)
    async with running(env, sys.executable, "-m", "relay", "run", "--config", str(config)) as relay:
        await manager.hears("READY=1")
        config.write_text("[batch]\nlingr = '5s'\n")

        relay.signal(signal.SIGHUP)

        await manager.hears("RELOADING=1")
        await manager.hears("READY=1")
        await relay.logged("configuration rejected, the previous one stays in effect")


async def test_a_relay_that_cannot_start_is_never_ready(sandbox: Sandbox, tmp_path: Path, manager: Manager) -> None:
    env = supervised(manager, sandbox, tmp_path, http__listen="203.0.113.1:80")
    relay = await launch(env)

    assert await relay.ended() == 1
    assert manager.heard() == []


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can trace a relay")
async def test_a_hanging_disk_stops_the_keep_alive_messages(sandbox: Sandbox, tmp_path: Path, manager: Manager) -> None:
    """The relay sends a keep-alive every second, and none while a commit hangs, because it checks the outbox first."""
    async with running(supervised(manager, sandbox, tmp_path)) as relay, every_sync_taking(6, relay.pid):
        await manager.hears("WATCHDOG=1")

        posting = asyncio.create_task(relay.post(event(1)))
        manager.heard()
        assert await posting == 202

        assert len(manager.heard()) <= 2
        await manager.hears("WATCHDOG=1")


@asynccontextmanager
async def every_sync_taking(seconds: int, pid: int) -> AsyncIterator[None]:
    assert STRACE is not None
    inject = ["-e", "trace=fdatasync", "-e", f"inject=fdatasync:delay_enter={seconds}000000"]
    tracer = await asyncio.create_subprocess_exec(
        STRACE, "-f", *inject, "-o", "/dev/null", "-p", str(pid), stderr=asyncio.subprocess.PIPE
    )
    assert tracer.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            line = await tracer.stderr.readline()
        assert b"attached" in line, line
        yield
    finally:
        tracer.kill()
        await tracer.wait()

"""Attempts after a change of the network: random delay, lowest interval, and the sources of changes."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from relay.forward.network_watch import Attempts, NetworkWatch, open_netlink
from relay.runtime.clock import SystemClock


@pytest.mark.parametrize(
    ("changes", "attempts"),
    [
        pytest.param([(100, 0.0)], [100], id="at once"),
        pytest.param([(100, 0.5)], [1_100], id="after half of the longest delay"),
        pytest.param([(100, 0.999)], [2_098], id="after almost 2 s"),
        pytest.param([(100, 0.5), (900, 0.0)], [1_100], id="a second change before the attempt"),
        pytest.param([(100, 0.0), (101, 0.0)], [100, 10_100], id="a change after it: at most once in 10 s"),
        pytest.param([(100, 0.0), (9_500, 0.5)], [100, 10_500], id="the delay is longer than the interval"),
        pytest.param([(100, 0.0), (60_000, 0.1)], [100, 60_200], id="a change much later"),
    ],
)
def test_when_the_relay_tries_after_changes(changes: list[tuple[int, float]], attempts: list[int]) -> None:
    planned, made = Attempts(), []
    for now in range(80_000):
        for at, u in changes:
            if at == now:
                planned.changed(now, u)
        if planned.take(now):
            made.append(now)
    assert made == attempts
    assert planned.due_at is None


class EagerClock(SystemClock):
    """A clock whose random numbers are 0."""

    def chance(self) -> float:
        return 0.0


class Watched:
    """A running watch over files of the test."""

    def __init__(self, directory: Path, *, source: socket.socket | None = None) -> None:
        self.resolver, self.table = directory / "resolv.conf", directory / "route"
        self.resolver.write_text("nameserver 192.0.2.1\n")
        self.table.write_text("eth0\n")
        self.tried = asyncio.Event()
        watch = NetworkWatch(
            EagerClock(),
            self.tried.set,
            open_source=lambda: source,
            files=[self.resolver],
            tables=[self.table],
        )
        self._task = asyncio.create_task(watch.run())

    async def changed(self) -> None:
        async with asyncio.timeout(60):
            await self.tried.wait()

    async def __aenter__(self) -> Watched:
        await asyncio.sleep(0)  # The watch reads the files in its first step.
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


async def test_another_resolver_configuration_is_a_change(tmp_path: Path) -> None:
    async with Watched(tmp_path) as watched:
        assert not watched.tried.is_set()
        replacement = tmp_path / "new"
        replacement.write_text("nameserver 192.0.2.2\n")
        os.replace(replacement, watched.resolver)
        await watched.changed()


async def test_without_netlink_the_tables_of_the_kernel_are_compared(tmp_path: Path) -> None:
    async with Watched(tmp_path) as watched:
        watched.table.write_text("eth0\nwlan0\n")
        await watched.changed()


async def test_a_broken_source_is_closed_and_counts_as_a_change(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as unconnected:
        unconnected.setblocking(False)  # Reading it fails with ENOTCONN.
        async with Watched(tmp_path, source=unconnected) as watched:
            await watched.changed()
            assert unconnected.fileno() == -1


@pytest.mark.skipif(sys.platform != "linux", reason="netlink is part of Linux")
def test_the_netlink_socket_does_not_block_the_relay() -> None:
    source = open_netlink()
    if source is None:
        pytest.skip("netlink is not permitted here")
    with source:
        assert source.getblocking() is False


def test_other_systems_have_no_netlink(monkeypatch: pytest.MonkeyPatch) -> None:
    """FreeBSD has a netlink of its own. Without it, the relay tries at the end of a backoff of at most 15 s."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert open_netlink() is None

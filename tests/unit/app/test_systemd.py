"""Messages of sd_notify(3), received on a socket of a service manager."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from relay.app.systemd import Supervisor


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(10)
        yield listening


def environ(manager: socket.socket, **others: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.getsockname(), **others}


def test_each_state_is_one_message(manager: socket.socket) -> None:
    supervisor = Supervisor(environ(manager))

    supervisor.ready()
    supervisor.stopping()

    assert [manager.recv(4096), manager.recv(4096)] == [b"READY=1", b"STOPPING=1"]


def test_reload_message_contains_its_start_time(manager: socket.socket) -> None:
    before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    Supervisor(environ(manager)).reloading()

    state, at = manager.recv(4096).decode().split("\n")
    assert state == "RELOADING=1"
    assert before_us <= int(at.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize(
    ("watchdog", "watches"),
    [
        ({}, False),
        ({"WATCHDOG_USEC": "30000000"}, True),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
    ],
)
def test_keep_alive_is_sent_only_if_this_process_is_watched(
    manager: socket.socket, watchdog: dict[str, str], watches: bool
) -> None:
    supervisor = Supervisor(environ(manager, **watchdog))

    supervisor.alive("3 events pending")

    assert supervisor.watches is watches
    assert manager.recv(4096) == (b"WATCHDOG=1\n" if watches else b"") + b"STATUS=3 events pending"


def test_status_cannot_contain_another_message(manager: socket.socket) -> None:
    Supervisor(environ(manager)).alive("fine\nMAINPID=1")

    assert manager.recv(4096) == b"STATUS=fine MAINPID=1"


def test_messages_are_sent_to_abstract_sockets() -> None:
    name = f"relay-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(10)

        Supervisor({"NOTIFY_SOCKET": f"@{name}"}).ready()

        assert listening.recv(4096) == b"READY=1"


@pytest.mark.parametrize("path", ["", "/nowhere/notify", "x" * 300, "a\0b"])
def test_missing_service_manager_raises_nothing(path: str) -> None:
    Supervisor({"NOTIFY_SOCKET": path}).ready()


def test_service_manager_that_does_not_read_does_not_block(manager: socket.socket) -> None:
    """The kernel buffers a few hundred datagrams. Later messages are dropped."""
    supervisor = Supervisor(environ(manager))

    for _ in range(2_000):
        supervisor.ready()

    assert manager.recv(4096) == b"READY=1"

"""The messages of sd_notify(3), as a service manager's socket receives them."""

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


def test_a_reload_says_when_it_began(manager: socket.socket) -> None:
    before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    Supervisor(environ(manager)).reloading()

    state, at = manager.recv(4096).decode().split("\n")
    assert state == "RELOADING=1"
    assert before_us <= int(at.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize(
    ("asked", "watches"),
    [
        ({}, False),
        ({"WATCHDOG_USEC": "30000000"}, True),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
    ],
)
def test_a_keep_alive_is_told_only_to_who_asked_this_process(
    manager: socket.socket, asked: dict[str, str], watches: bool
) -> None:
    supervisor = Supervisor(environ(manager, **asked))

    supervisor.alive("3 events wait")

    assert supervisor.watches is watches
    assert manager.recv(4096) == (b"WATCHDOG=1\n" if watches else b"") + b"STATUS=3 events wait"


def test_a_status_cannot_add_a_message(manager: socket.socket) -> None:
    Supervisor(environ(manager)).alive("fine\nMAINPID=1")

    assert manager.recv(4096) == b"STATUS=fine MAINPID=1"


def test_abstract_sockets_are_reached() -> None:
    name = f"relay-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(10)

        Supervisor({"NOTIFY_SOCKET": f"@{name}"}).ready()

        assert listening.recv(4096) == b"READY=1"


@pytest.mark.parametrize("path", ["", "/nowhere/notify", "x" * 300, "a\0b"])
def test_nobody_there_is_no_error(path: str) -> None:
    Supervisor({"NOTIFY_SOCKET": path}).ready()


def test_a_manager_that_does_not_read_blocks_nobody(manager: socket.socket) -> None:
    """The kernel holds a few hundred datagrams for it; what does not fit is not told."""
    supervisor = Supervisor(environ(manager))

    for _ in range(2_000):
        supervisor.ready()

    assert manager.recv(4096) == b"READY=1"

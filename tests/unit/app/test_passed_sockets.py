"""Sockets of systemd: names, types, and the messages for a wrong socket unit."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from relay.app.passed_sockets import PassedSockets, check, take
from relay.config import ConfigError, load

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these sockets")
FIRST = 200
"""Number of the first passed descriptor."""


class Manager:
    """Passes sockets from descriptor FIRST on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.next = FIRST

    def passes(self, kind: str) -> None:
        if kind == "pipe":
            opened, other = os.pipe()
            os.close(other)
        else:
            opened = self._socket(kind).detach()
        os.dup2(opened, self.next)
        os.close(opened)
        self.next += 1

    def _socket(self, kind: str) -> socket.socket:
        if kind == "netlink":
            return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
        family = socket.AF_UNIX if "unix" in kind else socket.AF_INET
        made = socket.socket(family, socket.SOCK_DGRAM if "datagram" in kind else socket.SOCK_STREAM)
        path = f"\0{self.directory}" if "abstract" in kind else str(self.directory / f"socket-{self.next}")
        made.bind(path if family == socket.AF_UNIX else ("127.0.0.1", 0))
        if "listening" in kind:
            made.listen()
        return made


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    for descriptor in range(FIRST, manager.next):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def variables(count: int, names: str | None, pid: int = 7) -> dict[str, str]:
    given = {"LISTEN_PID": str(pid), "LISTEN_FDS": str(count), "OTHER": "kept"}
    return given if names is None else given | {"LISTEN_FDNAMES": names}


def test_several_sockets_may_have_one_name(manager: Manager) -> None:
    for kind in ("listening", "listening", "datagram", "listening unix", "listening"):
        manager.passes(kind)
    environ = variables(5, "http:ops:udp:unix:http")

    passed = take(environ, 7, FIRST)

    assert [len(each) for each in passed] == [2, 1, 1, 1]
    assert passed.listeners == ["http", "unix", "udp", "ops"]
    assert environ == {"OTHER": "kept"}
    for each in (*passed.http, *passed.udp):
        assert fcntl.fcntl(each, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert not each.getblocking()
    passed.close()


def test_variables_for_another_process_are_removed_and_ignored() -> None:
    environ = variables(3, "http:http:http", pid=8)

    assert take(environ, 7, FIRST) == PassedSockets()
    assert environ == {"OTHER": "kept"}
    assert take({}, 7, FIRST) == PassedSockets()


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("listening", "htpp", "is not the name of a listener; did you mean http?"),
        ("listening", "event-relay.socket", "set FileDescriptorName= to one of http, unix, udp, ops"),
        ("listening", None, "unknown"),
        ("datagram", "http", "is a socket of AF_INET and SOCK_DGRAM; use ListenStream=ADDRESS:PORT"),
        ("listening", "udp", "is a socket of AF_INET and SOCK_STREAM; use ListenDatagram=ADDRESS:PORT"),
        ("listening unix", "http", "is a socket of AF_UNIX and SOCK_STREAM; use ListenStream=ADDRESS:PORT"),
        ("listening", "unix", "use ListenStream=/PATH"),
        ("datagram unix", "ops", "is a socket of AF_UNIX and SOCK_DGRAM"),
        ("stream", "http", "does not listen; set Accept=no"),
        pytest.param("listening unix abstract", "http", "http = @/", marks=only_linux),
        pytest.param("netlink", "http", "is a socket of AF_NETLINK and SOCK_RAW", marks=only_linux),
        ("pipe", "http", "cannot be used as a socket: Socket operation on non-socket"),
    ],
)
def test_a_wrong_socket_unit_is_reported(manager: Manager, kind: str, name: str | None, message: str) -> None:
    manager.passes(kind)

    with pytest.raises(ConfigError) as error:
        take(variables(1, name), 7, FIRST)

    assert message in str(error.value)
    assert str(error.value).startswith(f"systemd socket {FIRST}: {name or 'unknown'}")
    if kind == "pipe":
        os.close(FIRST)


def test_all_faults_are_reported_and_all_sockets_are_closed(manager: Manager) -> None:
    for kind in ("datagram", "listening", "listening"):
        manager.passes(kind)

    with pytest.raises(ConfigError) as error:
        take(variables(3, "http:x:ops"), 7, FIRST)

    assert len(error.value.faults) == 2


def test_the_number_of_names_must_match() -> None:
    with pytest.raises(ConfigError, match="LISTEN_FDNAMES = 'http': is not 2 names"):
        take(variables(2, "http"), 7, FIRST)


@pytest.mark.parametrize(
    ("name", "kind", "key", "variable"),
    [
        ("http", "listening", "http.listen", "RELAY__HTTP__LISTEN"),
        ("unix", "listening unix", "http.unix_socket", ""),
        ("udp", "datagram", "udp.listen", "RELAY__UDP__LISTEN"),
        ("ops", "listening", "ops.listen", ""),
    ],
)
def test_a_socket_of_a_disabled_listener_is_an_error(
    manager: Manager, name: str, kind: str, key: str, variable: str
) -> None:
    environ = {"RELAY__UPSTREAM__URL": "https://up.example/v1/events", "RELAY__UPSTREAM__API_KEY": "k"}
    manager.passes(kind)
    passed = take(variables(1, name), 7, FIRST)

    with pytest.raises(ConfigError, match=rf'{key} = "": disables the listener, but systemd passes a socket'):
        check(passed, load(None, environ | ({variable: ""} if variable else {})))

"""Take the listening sockets that systemd passes to the relay, see sd_listen_fds(3).

Rules:
- FileDescriptorName= of the socket unit names the listener: http, unix, udp or ops. Several sockets may have one name.
- Passed sockets replace the addresses of the listener's configuration key. An empty key is an error, because the
  operator disabled the listener.
- systemd keeps each socket open while no relay runs: connections and datagrams wait in the kernel for the next relay.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from relay.config import ConfigError, ConfigFault, Settings
from relay.runtime.address import format_address

_FIRST = 3
"""Number of the first passed descriptor, SD_LISTEN_FDS_START."""
_INTERNET = frozenset({socket.AF_INET, socket.AF_INET6})
_UNIX = frozenset({socket.AF_UNIX})


class PassedSockets(NamedTuple):
    """The passed sockets by the name of their listener."""

    http: Sequence[socket.socket] = ()
    unix: Sequence[socket.socket] = ()
    udp: Sequence[socket.socket] = ()
    ops: Sequence[socket.socket] = ()

    @property
    def listeners(self) -> list[str]:
        """Return the names of the listeners that have passed sockets."""
        return [name for name, sockets in self._asdict().items() if sockets]

    def close(self) -> None:
        for sockets in self:
            for each in sockets:
                each.close()


_NEEDED = {
    "http": (_INTERNET, socket.SOCK_STREAM, "ListenStream=ADDRESS:PORT"),
    "unix": (_UNIX, socket.SOCK_STREAM, "ListenStream=/PATH"),
    "udp": (_INTERNET, socket.SOCK_DGRAM, "ListenDatagram=ADDRESS:PORT"),
    "ops": (_INTERNET, socket.SOCK_STREAM, "ListenStream=ADDRESS:PORT"),
}
"""Families, type, and setting of the socket unit, by the name of the listener."""


def take(environ: MutableMapping[str, str], pid: int, first: int = _FIRST) -> PassedSockets:
    """Return the passed sockets, and remove their variables, which no other process may use.

    `first` is the number of the first passed descriptor. Raises ConfigError, with all passed sockets closed.
    """
    meant_for, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if meant_for != str(pid) or not count.isdecimal():
        return PassedSockets()
    named = names.split(":") if names else ["unknown"] * int(count)
    if len(named) != int(count):
        raise ConfigError([ConfigFault("environment", "LISTEN_FDNAMES", repr(names), f"is not {count} names")])
    found: dict[str, list[socket.socket]] = {name: [] for name in PassedSockets._fields}
    faults = []
    for descriptor, name in enumerate(named, first):
        try:
            os.set_inheritable(descriptor, False)
            passed = socket.socket(fileno=descriptor)
        except OSError as error:
            faults.append(_fault(descriptor, name, "", f"cannot be used as a socket: {error.strerror}"))
            continue
        passed.setblocking(False)
        found.setdefault(name, []).append(passed)
        problem = _problem(passed, name)
        if problem:
            faults.append(_fault(descriptor, name, format_address(passed.getsockname()), problem))
    if faults:
        for sockets in found.values():
            PassedSockets(sockets).close()
        raise ConfigError(faults)
    return PassedSockets(**found)


def check(passed: PassedSockets, settings: Settings) -> None:
    """Raise ConfigError, with all passed sockets closed, if the configuration disables a listener that has some."""
    keys = {
        "http": ("http.listen", settings.http.listen),
        "unix": ("http.unix_socket", settings.http.unix_socket),
        "udp": ("udp.listen", settings.udp.listen),
        "ops": ("ops.listen", settings.ops.listen),
    }
    faults = [
        ConfigFault(
            settings.sources.get(key, ""),
            key,
            '""',
            f"disables the listener, but systemd passes a socket {name!r}; set the key to the socket's address, or "
            "disable the socket unit",
        )
        for name, (key, value) in keys.items()
        if name in passed.listeners and not value
    ]
    if faults:
        passed.close()
        raise ConfigError(faults)


def _problem(passed: socket.socket, name: str) -> str:
    """Return why a socket cannot serve the listener of this name, or ""."""
    if name not in _NEEDED:
        near = get_close_matches(name, _NEEDED, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        return f"is not the name of a listener{meant}; set FileDescriptorName= to one of {', '.join(_NEEDED)}"
    families, kind, setting = _NEEDED[name]
    if passed.family not in families or passed.type != kind:
        return f"is a socket of {socket.AddressFamily(passed.family).name} and {passed.type.name}; use {setting}"
    if kind == socket.SOCK_STREAM and not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "does not listen; set Accept=no"
    return ""


def _fault(descriptor: int, name: str, address: str, problem: str) -> ConfigFault:
    return ConfigFault(f"systemd socket {descriptor}", name, address, problem)

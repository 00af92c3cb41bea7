"""A small service manager that owns the listening sockets of a relay, and passes them to each relay as systemd does."""

from __future__ import annotations

import fcntl
import socket
import sys
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager

from tests.e2e.harness import RelayProcess, launch, running

_SO_RCVBUFFORCE = 33
_FREE_DESCRIPTOR = 100
"""The smallest descriptor of an owned socket, so that the relay's places are free."""
_BECOME_RELAY = """
import os, sys
for place, owned in enumerate(map(int, sys.argv[1].split(",")), 3):
    os.dup2(owned, place)
    os.close(owned)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "relay", "run"])
"""


class SocketOwner:
    """Owns named sockets. Use it as a context manager."""

    def __init__(self) -> None:
        self._owned: list[tuple[str, socket.socket]] = []

    def __enter__(self) -> SocketOwner:
        return self

    def __exit__(self, *_: object) -> None:
        for _, each in self._owned:
            each.close()

    def listen(self, name: str, address: str | tuple[str, int]) -> socket.socket:
        """Listen on a path, or on host and port."""
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listening:
            listening.bind(address)
            listening.listen(4096)
            return self._own(name, listening)

    def receive(self, name: str, buffer_bytes: int) -> socket.socket:
        """Receive datagrams with a buffer that only root may set."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving:
            receiving.bind(("127.0.0.1", 0))
            try:
                receiving.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer_bytes)
            except PermissionError:
                receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            return self._own(name, receiving)

    def launch(self, env: dict[str, str]) -> Coroutine[None, None, RelayProcess]:
        """Start a relay with the sockets."""
        return launch(env | self._variables, *self._command, pass_fds=self._descriptors)

    def relay(self, env: dict[str, str]) -> AbstractAsyncContextManager[RelayProcess]:
        """Run a relay with the sockets that accepts events. Kill it at the end if it still runs."""
        return running(env | self._variables, *self._command, pass_fds=self._descriptors)

    @property
    def _descriptors(self) -> list[int]:
        return [each.fileno() for _, each in self._owned]

    @property
    def _variables(self) -> dict[str, str]:
        return {"LISTEN_FDS": str(len(self._owned)), "LISTEN_FDNAMES": ":".join(name for name, _ in self._owned)}

    @property
    def _command(self) -> list[str]:
        return [sys.executable, "-S", "-E", "-c", _BECOME_RELAY, ",".join(map(str, self._descriptors))]

    def _own(self, name: str, opened: socket.socket) -> socket.socket:
        owned = socket.socket(fileno=fcntl.fcntl(opened.fileno(), fcntl.F_DUPFD_CLOEXEC, _FREE_DESCRIPTOR))
        self._owned.append((name, owned))
        return owned

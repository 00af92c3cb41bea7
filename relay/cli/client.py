"""Requests of the command line to a running relay: one connection each."""

from __future__ import annotations

import contextlib
import json
import socket
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple
from urllib.parse import urlencode

from relay.cli import exits
from relay.cli.common import Place, is_config_named, no_relay
from relay.secret import Secret

TIMEOUT_S = 30
"""Of one request; requeueing takes a commit, which takes seconds on a busy disk."""


_WHAT_TO_DO = {
    401: "; run this with the relay's own configuration (--config), as a user who can read its ops.token_file",
    403: "; run this on the relay's own machine, or set ops.token_file in its configuration",
}


class Reply(NamedTuple):
    status: int
    data: Any


class Client:
    """Asks the listener at `place`."""

    def __init__(self, place: Place, token: Secret | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self.place = place
        self._token = token
        self._timeout_s = timeout_s

    def is_there(self) -> bool:
        """Whether anybody listens there. Raises Failed if that cannot be told."""
        try:
            self._exchange("GET", "/livez", None)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            raise no_relay(self.place, error) from error
        return True

    def get(self, path: str, **query: object) -> Reply:
        """Parameters that are None are left out. Raises as `ask`."""
        given = {name: value for name, value in query.items() if value is not None}
        return self.ask("GET", f"{path}?{urlencode(given)}" if given else path)

    def post(self, path: str, data: object) -> Reply:
        """Raises as `ask`."""
        return self.ask("POST", path, json.dumps(data).encode())

    def ask(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """The answer, whatever its status. Raises Failed if no relay answers."""
        status, content = self._ask(method, path, body)
        try:
            return Reply(status, json.loads(content))
        except ValueError as error:
            raise self._no_relay_there() from error

    def text(self, path: str) -> str:
        """An answer that is no JSON. Raises Failed if no relay answers, or refuses."""
        status, content = self._ask("GET", path, None)
        if status >= 300:
            self.expect(self.ask("GET", path))
        return content.decode(errors="replace")

    def expect(self, reply: Reply) -> Any:
        """The data of a reply that is fine. Raises Failed with the relay's words otherwise."""
        if reply.status >= 300:
            words = reply.data.get("error", "no reason given") if isinstance(reply.data, dict) else "no reason given"
            raise exits.Failed(
                f"the relay at {self.place} refused ({reply.status}): {words}{_WHAT_TO_DO.get(reply.status, '')}"
            )
        return reply.data

    def _ask(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            return self._exchange(method, path, body)
        except OSError as error:
            raise no_relay(self.place, error) from error

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Raises OSError if nobody answers, Failed if it is no relay."""
        # a loopback name is always allowed, an address the relay listens on may not be
        headers = {"Host": "localhost", "Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.reveal()}"
        try:
            with contextlib.closing(_connection(self.place, self._timeout_s)) as connection:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
        except HTTPException as error:
            if isinstance(error, OSError):  # RemoteDisconnected is both
                raise
            raise self._no_relay_there() from error

    def _no_relay_there(self) -> exits.Failed:
        otherwise = "" if is_config_named() else "name the relay's configuration with --config, or "
        return exits.Failed(
            f"what answers at {self.place} is not a relay: {otherwise}"
            "give the relay another address (http.listen, ops.listen)"
        )


def _connection(place: Place, timeout_s: float) -> HTTPConnection:
    if place.socket_path:
        return _UnixConnection(place.socket_path, timeout_s)
    return HTTPConnection(place.host, place.port, timeout=timeout_s)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

"""The HTTP client of every command that talks to a running relay.

Another server may listen at the relay's address. Every response is therefore bounded in time and size (`exchange`)
and its shape is checked (`shape`). A response that no relay sends ends the command with a message. The operator token
is sent only after `/livez` has shown that a relay listens there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from relay.cli import exits
from relay.cli.common import Place, has_ops, is_config_named, no_relay, ops_place
from relay.cli.exchange import InvalidHttp, exchange, follow
from relay.cli.shape import difference
from relay.cli.terminal import printable
from relay.config import Settings
from relay.runtime.secret import Secret

TIMEOUT_S = 30
"""Time for one request, up to the last byte of the response. A commit can take seconds on a busy disk."""
_GUARDED = ("log", "configuration", "flush", "dead-letters", "quarantine")
"""First parts of the paths that need the operator token. No other request contains the token."""
_HEADERS = {"Host": "localhost", "Connection": "close"}
"""The relay always accepts the name localhost. It may reject the address at which it listens."""
_SHOWN_CHARS = 60
_MAX_DEPTH = 32
"""Maximum nesting of a response, far below the limit of the JSON encoder."""

_WHAT_TO_DO = {
    401: "; run this with the relay's own configuration (--config), as a user who can read its ops.token_file",
    403: "; run this on the relay's own machine, or set ops.token_file in its configuration",
}


class CommandReply(NamedTuple):
    """The status and the JSON object of a response."""

    status: int
    data: Any


def running_relay(settings: Settings) -> RelayClient | None:
    """Return a client for the operations of the running relay; None if no relay runs. Raises CommandFailed."""
    if not has_ops(settings):
        return None
    client = RelayClient(ops_place(settings), settings.ops.token)
    return client if client.is_there() else None


class RelayClient:
    """Send requests to the listener at `place`. Each request takes at most `timeout_s` in total."""

    def __init__(self, place: Place, token: Secret | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self.place = place
        self._token = token
        self._timeout_s = timeout_s
        self._is_relay = False

    def is_there(self) -> bool:
        """Return whether a relay listens there. Raises CommandFailed if another server does, or without a response."""
        try:
            self._require_relay()
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            raise no_relay(self.place, error) from error
        return True

    def get(self, path: str, **query: object) -> CommandReply:
        """Send a GET; parameters that are None are omitted. Raises as `ask`."""
        return self.ask("GET", _target(path, query))

    def post(self, path: str, data: object) -> CommandReply:
        """Send `data` as JSON. Raises as `ask`."""
        return self.ask("POST", path, json.dumps(data).encode())

    def ask(self, method: str, path: str, body: bytes | None = None) -> CommandReply:
        """Return the response, a JSON object, with any status. Raises CommandFailed if no relay responds."""
        status, content = self._ask(method, path, body)
        return CommandReply(status, self._read(content))

    def text(self, path: str) -> str:
        """Return a response that is not JSON. Raises CommandFailed if no relay responds or it rejects the request."""
        status, content = self._ask("GET", path, None)
        if status != 200:
            self.expect(CommandReply(status, self._read(content)))
            raise self.not_a_relay(f"status {status} to GET {path}, expected 200")
        return content.decode(errors="replace")

    def follow(self, path: str, **query: object) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects of a stream of lines. Raises CommandFailed, also if nothing is received for long."""
        try:
            for status, line in follow(self.place, _target(path, query), _HEADERS, self._timeout_s):
                if status != 200:
                    self.expect(CommandReply(status, self._read(line)))
                    raise self.not_a_relay(f"status {status} to GET {path}, expected 200")
                if line:
                    yield self._read(line)
        except InvalidHttp as error:
            raise self.not_a_relay(f"received {error}") from error
        except OSError as error:
            raise no_relay(self.place, error) from error

    def expect(self, reply: CommandReply, shape: object = None) -> Any:
        """Return the data of a successful response that has the shape. Raises CommandFailed otherwise."""
        if reply.status >= 300:
            reason = reply.data.get("error")
            if not isinstance(reason, str):
                raise self.not_a_relay(f"status {reply.status} without a reason in the field 'error'")
            raise exits.CommandFailed(
                f"the relay at {self.place} rejected the request ({reply.status}): {printable(reason)}"
                f"{_WHAT_TO_DO.get(reply.status, '')}"
            )
        if wrong := difference(reply.data, {} if shape is None else shape):
            raise self.not_a_relay(wrong)
        return reply.data

    def not_a_relay(self, received: str) -> exits.CommandFailed:
        """Return the error for a response that no relay sends; `received` names the received and expected values."""
        otherwise = "" if is_config_named() else "name the relay's configuration with --config, or "
        return exits.CommandFailed(
            f"the server at {self.place} is not a relay ({printable(received)}): {otherwise}"
            "give the relay another address (http.listen, ops.listen)"
        )

    def _ask(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            if self._token is None or not is_guarded(path):
                return self._exchange(method, path, body)
            if not self._is_relay:
                self._require_relay()
            return self._exchange(method, path, body, self._token)
        except OSError as error:
            raise no_relay(self.place, error) from error

    def _require_relay(self) -> None:
        """Request /livez. Raises OSError without a response, and CommandFailed if another server responds."""
        status, content = self._exchange("GET", "/livez", None)
        self.expect(CommandReply(status, self._read(content)), {"alive": bool})
        self._is_relay = True

    def _exchange(self, method: str, path: str, body: bytes | None, token: Secret | None = None) -> tuple[int, bytes]:
        """Raises OSError without a response, and CommandFailed if the response is not HTTP."""
        headers = {**_HEADERS}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if token is not None:
            headers["Authorization"] = f"Bearer {token.reveal()}"
        try:
            return exchange(self.place, method, path, headers, body, self._timeout_s)
        except InvalidHttp as error:
            raise self.not_a_relay(f"received {error}") from error

    def _read(self, content: bytes) -> dict[str, Any]:
        """Return the JSON object in `content`. Raises CommandFailed for anything else."""
        try:
            text = content.decode()
            data = json.loads(text, parse_constant=_reject_constant)
            if "\\ud" in text.lower():
                # Half a surrogate pair cannot be printed.
                data = json.loads(json.dumps(data, ensure_ascii=False).encode(errors="replace"))
        except (ValueError, RecursionError) as error:
            raise self.not_a_relay(f"received {content[:_SHOWN_CHARS]!r}, expected a JSON object") from error
        if not isinstance(data, dict) or _is_deeper(data, _MAX_DEPTH):
            raise self.not_a_relay(f"received {content[:_SHOWN_CHARS]!r}, expected a JSON object")
        return data


def is_guarded(path: str) -> bool:
    """Return whether a request to this path needs the operator token."""
    return path.partition("?")[0].split("/")[1] in _GUARDED


def _target(path: str, query: Mapping[str, object]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in items)

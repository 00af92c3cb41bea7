"""The command line, and a relay for it: the real operations interface, and an events API that records events."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from relay.cli import cli
from relay.config import Http
from relay.http.guard import HostGuard
from relay.http.listener import Listener
from relay.http.request import BodyHandler, Reply, Request
from relay.http.response import Response
from relay.runtime.clock import SystemClock
from relay.runtime.metrics import Metrics

from tests.support.ops_harness import Served

GONE = "gone"


class NotedRelay(Served):
    """A relay on loopback in its own thread. A test sets its responses before it runs a command."""

    def __init__(self) -> None:
        super().__init__()
        self.environ: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        self.hosts: list[str] = []
        self.rejection: tuple[int, dict[str, Any]] | None = None
        self.states: list[str | None] = []
        """States that GET /v1/events/ID returns; None: 404, GONE: no response. The last one is repeated."""
        self.why = {"reason": "refused", "message": "422 no such\x1b[2J subject"}
        """Of an event with another state than pending and delivered."""
        self.tailed: Callable[[Request], BodyHandler] | None = None
        """Handles GET /events/stream."""
        self.stop: asyncio.Event

    def handle(self, request: Request) -> BodyHandler | Response:
        self.hosts.append(request.headers["Host"])
        if self.tailed is not None and request.raw_path.startswith("/events/stream"):
            return self.tailed(request)
        if not request.raw_path.startswith("/v1/events"):
            return self.ops.handle(request)
        if request.method == "POST":
            return BodyHandler(self._store, 1 << 20, lambda reason: Response(400))
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if state == GONE:
            return NoResponse()
        if state is None:
            return json_response({"success": False, "error": "unknown"}, 404)
        why = {} if state in ("pending", "delivered") else self.why
        return json_response({"event_id": request.raw_path.rpartition("/")[2], "state": state, **why})

    def _store(self, body: bytes, reply: Reply) -> None:
        if self.rejection is not None:
            status, content = self.rejection
            reply(json_response(content, status))
            return
        self.events.append(json.loads(body))
        reply(json_response({"success": True}, 202))


class NoResponse(Response):
    """Closes the connection without a response."""

    def __init__(self) -> None:
        super().__init__(200, close=True)
        self.head = self.raw = b""


def json_response(content: object, status: int = 200) -> Response:
    return Response(status, json.dumps(content).encode())


@contextmanager
def answering(relay: NotedRelay, unix_socket: Path | None = None) -> Iterator[None]:
    """Run the relay during the block. `relay.environ` contains its address."""
    started, loop = threading.Event(), asyncio.new_event_loop()
    settings = Http(listen="127.0.0.1:0") if unix_socket is None else Http(listen="", unix_socket=str(unix_socket))

    async def serve() -> None:
        listener = Listener(relay.handle, settings, HostGuard(), Metrics(), SystemClock())
        await listener.start()
        if unix_socket is None:
            relay.environ = {"RELAY__HTTP__LISTEN": listener.addresses[0]}
        else:
            relay.environ = {"RELAY__HTTP__LISTEN": "", "RELAY__HTTP__UNIX_SOCKET": str(unix_socket)}
        relay.stop = asyncio.Event()
        started.set()
        await relay.stop.wait()
        await listener.stop(within_ms=2_000)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(30)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(relay.stop.set)
        thread.join()
        loop.close()


def call(*args: str, environ: dict[str, str], typed: str = "") -> Result:
    """Run `relay ARGS`. Raises the exception of a command that ends with a traceback."""
    result = CliRunner().invoke(cli, list(args), env=environ, input=typed)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result

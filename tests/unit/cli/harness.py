"""The command line, and a relay for it: the real operations interface, and an events API that records events."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from click.testing import CliRunner, Result
from relay.cli import cli

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
        self.stop: asyncio.Event

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.hosts.append(request.headers["Host"])
        if not request.path.startswith("/v1/events"):
            return await self.ops.handle(request)
        if request.method == "POST":
            if self.rejection is not None:
                return web.json_response(self.rejection[1], status=self.rejection[0])
            self.events.append(json.loads(await request.read()))
            return web.json_response({"success": True}, status=202, headers={"Relay-Durability": "full"})
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if state == GONE and request.transport is not None:
            request.transport.abort()
        if state is None:
            return web.json_response({"success": False, "error": "unknown"}, status=404)
        return web.json_response({"event_id": request.path.rpartition("/")[2], "state": state})


@contextmanager
def answering(relay: NotedRelay, unix_socket: Path | None = None) -> Iterator[None]:
    """Run the relay during the block. `relay.environ` contains its address."""
    started, loop = threading.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        runner = web.ServerRunner(web.Server(relay.handle, auto_decompress=False))
        await runner.setup()
        if unix_socket is not None:
            await web.UnixSite(runner, str(unix_socket)).start()
            relay.environ = {"RELAY__HTTP__LISTEN": "", "RELAY__HTTP__UNIX_SOCKET": str(unix_socket)}
        else:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            relay.environ = {"RELAY__HTTP__LISTEN": f"127.0.0.1:{runner.addresses[0][1]}"}
        relay.stop = asyncio.Event()
        started.set()
        await relay.stop.wait()
        await runner.cleanup()

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

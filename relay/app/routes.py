"""Which request goes to which part, on which listener: apps' events and files, and operations.

Without `ops.listen` one listener serves all of it; with it, operations have a listener of their own, and the HTTP
listener serves apps alone. Each listener describes what it serves at `/openapi.json`.
"""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web

from relay.config import Settings
from relay.http import static_files
from relay.http.guard import HostGuard
from relay.http.listener import Listener
from relay.http.static_files import CLIENT_PATH, DESCRIPTION_PATH, StaticFile, StaticFiles
from relay.ingest.events_api import HttpIngest
from relay.openapi import DescribedLimits, describe
from relay.ops.server import Ops
from relay.runtime.clock import Clock
from relay.runtime.metrics import Metrics


class Routes:
    """Of one service; `settings` are those it started with, since what listens changes with a restart only."""

    def __init__(self, settings: Settings, http: HttpIngest, ops: Ops) -> None:
        self._settings = settings
        self._http = http
        self._ops = ops
        self._apps = StaticFiles({CLIENT_PATH: static_files.client, DESCRIPTION_PATH: self._describe}, self._dispatch)

    def listeners(self, metrics: Metrics, clock: Clock) -> list[Listener]:
        """Not yet started; that of operations last if it is one of its own."""
        http, ops = self._settings.http, self._settings.ops
        guard = HostGuard(http.allowed_hosts, http.allowed_origins)
        apps = Listener(self._apps.handle, http, guard, metrics, clock, self._http.body_handler)
        if not ops.listen:
            return [apps]
        own = replace(http, listen=ops.listen, unix_socket="")
        operations = StaticFiles({DESCRIPTION_PATH: self._describe_operations}, self._ops.handle)
        return [apps, Listener(operations.handle, own, guard, metrics, clock)]

    def reloaded(self) -> None:
        """The configuration is another: what was described of it is described anew."""
        self._apps.forget()

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._settings.ops.listen or self._http.serves(request.raw_path):
            return await self._http.handle(request)
        return await self._ops.handle(request)

    def _describe(self) -> StaticFile:
        reader = self._http.reader
        durability = self._settings.outbox.durability
        limits = DescribedLimits(
            self._settings.http.max_body_bytes, reader.max_event_bytes, durability, reader.required
        )
        routes = () if self._settings.ops.listen else self._ops.routes.items()
        return static_files.description(describe(limits, routes))

    def _describe_operations(self) -> StaticFile:
        return static_files.description(describe(None, self._ops.routes.items()))

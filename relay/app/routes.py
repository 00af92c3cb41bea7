"""Route requests of each listener to the events API, the files for apps, or operations.

Without `ops.listen`, one listener serves all paths. With it, a separate listener serves operations, and the HTTP
listener serves apps only. Each listener describes its own paths at `/openapi.json`.
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
    """The routes of one service. `settings` are those of the start, because listeners change only at a restart."""

    def __init__(self, settings: Settings, http: HttpIngest, ops: Ops) -> None:
        self._settings = settings
        self._http = http
        self._ops = ops
        self._apps = StaticFiles({CLIENT_PATH: static_files.client, DESCRIPTION_PATH: self._describe}, self._dispatch)

    def listeners(self, metrics: Metrics, clock: Clock) -> list[Listener]:
        """Return the listeners, not started. A separate listener for operations is last."""
        http, ops = self._settings.http, self._settings.ops
        guard = HostGuard(http.allowed_hosts, http.allowed_origins)
        apps = Listener(self._apps.handle, http, guard, metrics, clock, self._http.body_handler)
        if not ops.listen:
            return [apps]
        own = replace(http, listen=ops.listen, unix_socket="")
        operations = StaticFiles({DESCRIPTION_PATH: self._describe_operations}, self._ops.handle)
        return [apps, Listener(operations.handle, own, guard, metrics, clock)]

    def reloaded(self) -> None:
        """Discard the cached descriptions, which contain values of the previous configuration."""
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

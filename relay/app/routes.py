"""Route requests of each listener to the events API, the files for apps, or operations.

Without `ops.listen`, one listener serves all paths. With it, a separate listener serves operations and, for the status
page, the states of events; the HTTP listener serves apps only. Each listener describes its own paths at
`/openapi.json`.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from functools import partial

from relay.app.passed_sockets import PassedSockets
from relay.config import Settings
from relay.http import static_files
from relay.http.guard import HostGuard
from relay.http.listener import Listener
from relay.http.request import BodyHandler, Request
from relay.http.response import Response
from relay.http.static_files import CLIENT_PATH, DESCRIPTION_PATH, StaticFile, StaticFiles
from relay.ingest.events_api import EVENTS_PATH, HttpIngest
from relay.openapi import DescribedValues, describe
from relay.ops.server import Ops
from relay.runtime.clock import Clock
from relay.runtime.metrics import Metrics


class Routes:
    """The routes of one service. `settings` are those of the start, because listeners change only at a restart."""

    def __init__(self, settings: Settings, http: HttpIngest, ops: Ops) -> None:
        self._settings = settings
        self._http = http
        self._ops = ops
        describe_apps = partial(self._describe, {"events"} if settings.ops.listen else {"events", "operations"})
        self._apps = StaticFiles({CLIENT_PATH: static_files.client, DESCRIPTION_PATH: describe_apps}, self._dispatch)

    def listeners(self, metrics: Metrics, clock: Clock, passed: PassedSockets) -> list[Listener]:
        """Return the listeners, not started. A separate listener for operations is last."""
        http, ops = self._settings.http, self._settings.ops
        guard = HostGuard(http.allowed_hosts, http.allowed_origins)
        apps = Listener(self._apps.handle, http, guard, metrics, clock, passed.http, passed.unix)
        if not ops.listen:
            return [apps]
        own = replace(http, listen=ops.listen, unix_socket="")
        describe_operations = partial(self._describe, {"operations"})
        operations = StaticFiles({DESCRIPTION_PATH: describe_operations}, self._dispatch_operations)
        return [apps, Listener(operations.handle, own, guard, metrics, clock, passed.ops)]

    def reloaded(self) -> None:
        """Discard the cached descriptions, which contain values of the previous configuration."""
        self._apps.forget()

    def _dispatch(self, request: Request) -> BodyHandler | Response:
        if self._settings.ops.listen or request.raw_path.startswith(EVENTS_PATH):
            return self._http.handle(request)
        return self._ops.handle(request)

    def _dispatch_operations(self, request: Request) -> BodyHandler | Response:
        path = request.raw_path
        is_event = path.removeprefix(f"{EVENTS_PATH}/") not in ("", path)
        return (self._http if is_event else self._ops).handle(request)

    def _describe(self, interfaces: Set[str]) -> StaticFile:
        http, outbox, reader = self._settings.http, self._settings.outbox, self._http.reader
        durability = outbox.durability if outbox.kind == "sqlite" else None
        values = DescribedValues(
            http.max_body_bytes, reader.max_event_bytes, durability, reader.required, reader.allowed_tenants
        )
        return static_files.description(describe(values, interfaces))

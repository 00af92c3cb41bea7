"""Paths served by each listener, with and without a separate listener for operations."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from relay.app.passed_sockets import PassedSockets
from relay.app.routes import Routes
from relay.config import EndpointSettings, Http, OpsSettings, OutboxSettings, Settings, Upstream
from relay.event.reader import EventDefaults, Reader
from relay.ingest.events_api import HttpIngest
from relay.runtime.metrics import Metrics
from relay.runtime.secret import Secret

from tests.support.ingest_harness import Client, HandClock, Response, ScriptedOutbox, post, request
from tests.support.ops_harness import Served as Operations

UPSTREAM = Upstream(default=EndpointSettings("https://up.example/v1/events", Secret("k")), tenants={})
EVERY_PATH = ("/v1/events", "/relay.js", "/openapi.json", "/livez", "/status.json", "/dead-letters", "/")


class Listeners:
    def __init__(self, ops_listen: str, **defaults: Any) -> None:
        settings = Settings(
            upstream=UPSTREAM,
            http=Http(listen="127.0.0.1:0"),
            ops=OpsSettings(listen=ops_listen),
            outbox=OutboxSettings(durability="normal"),
        )
        clock = HandClock()
        self._reader = lambda allowed=(), **values: Reader(
            EventDefaults(**values), 4096, clock.new_event_id, lambda: "", allowed_tenants=allowed
        )
        outbox: Any = ScriptedOutbox()
        self.http = HttpIngest(self._reader(**defaults), outbox, settings.http, Metrics())
        self.routes = Routes(settings, self.http, Operations().ops)
        self.listeners = self.routes.listeners(Metrics(), clock, PassedSockets())

    def reload(self, allowed: Sequence[int] = (), **defaults: Any) -> None:
        self.http.reader = self._reader(allowed, **defaults)
        self.routes.reloaded()

    async def get(self, path: str, listener: int = 0) -> Response:
        client = await Client.connect(self.listeners[listener].addresses[0])
        client.send(request(f"GET {path} HTTP/1.1"))
        response = await client.response()
        client.writer.close()
        return response

    async def served_paths(self, listener: int) -> list[str]:
        """Return the paths that this listener serves."""
        return [path for path in EVERY_PATH if (await self.get(path, listener)).status != 404]

    async def description(self, listener: int = 0) -> Any:
        return json.loads((await self.get("/openapi.json", listener)).body)


@asynccontextmanager
async def listening(ops_listen: str = "", **defaults: Any) -> AsyncIterator[Listeners]:
    relay = Listeners(ops_listen, **defaults)
    for listener in relay.listeners:
        await listener.start()
    try:
        yield relay
    finally:
        for listener in relay.listeners:
            await listener.stop(1_000)


async def test_one_listener_serves_and_describes_all_paths() -> None:
    async with listening() as relay:
        (_,) = relay.listeners
        assert await relay.served_paths(0) == list(EVERY_PATH)
        described = (await relay.description())["paths"]
    assert {"/v1/events", "/relay.js", "/openapi.json", "/livez", "/dead-letters"} <= set(described)


async def test_separate_listener_serves_operations_only_and_each_describes_its_paths() -> None:
    async with listening("127.0.0.1:0") as relay:
        assert await relay.served_paths(0) == ["/v1/events", "/relay.js", "/openapi.json"]
        assert await relay.served_paths(1) == ["/openapi.json", "/livez", "/status.json", "/dead-letters", "/"]
        apps, operations = (await relay.description(0))["paths"], (await relay.description(1))["paths"]
    assert set(apps) == {"/v1/events", "/v1/events/{event_id}", "/relay.js", "/openapi.json"}
    assert "/livez" in operations and "/v1/events" not in operations
    assert "/v1/events/{event_id}" in operations, "the status page finds events"


async def test_separate_listener_returns_the_state_of_an_event_and_accepts_no_events() -> None:
    async with listening("127.0.0.1:0") as relay:
        assert b"it was never stored" in (await relay.get("/v1/events/some-id", 1)).body
        client = await Client.connect(relay.listeners[1].addresses[0])
        for path in (b"/v1/events", b"/v1/events/"):
            client.send(post().replace(b"/v1/events", path))
            assert (await client.response()).status == 404
        client.writer.close()


@pytest.mark.parametrize("ops_listen", ["", "127.0.0.1:0"])
async def test_listener_for_apps_accepts_events(ops_listen: str) -> None:
    async with listening(ops_listen) as relay:
        client = await Client.connect(relay.listeners[0].addresses[0])
        client.send(post())
        assert (await client.response()).status == 202
        client.writer.close()


async def test_description_contains_the_current_configuration() -> None:
    def required(description: Any) -> list[str]:
        found: list[str] = description["components"]["schemas"]["Event"]["required"]
        return found

    async with listening() as relay:
        before = await relay.description()
        assert required(before) == ["event_type", "source", "tenant_id"]
        assert before["components"]["headers"]["Relay-Durability"]["schema"]["enum"] == ["normal"]
        assert "4096" in before["components"]["responses"]["AppsTooLarge"]["description"]
        relay.reload(tenant_id=2, platform="tv", device_id="box")
        assert required(await relay.description()) == ["event_type"]
        relay.reload(allowed=(2, 1))
        after = await relay.description()
        assert after["components"]["schemas"]["Event"]["properties"]["tenant_id"]["enum"] == [1, 2]

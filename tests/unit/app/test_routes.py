"""Which listener answers what, with and without a listener for operations."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from relay.app.routes import Routes
from relay.config import EndpointSettings as UpstreamRoute
from relay.config import Http, OpsSettings, OutboxSettings, Settings, Upstream
from relay.event.reader import EventDefaults, Reader
from relay.ingest.events_api import HttpIngest
from relay.runtime.metrics import Metrics
from relay.runtime.secret import Secret

from tests.support.ingest_harness import Client, HandClock, Response, ScriptedOutbox, post, request
from tests.support.ops_harness import Served as Operations

UPSTREAM = Upstream(default=UpstreamRoute("https://up.example/v1/events", Secret("k")), tenants={})
EVERY_PATH = ("/v1/events", "/relay.js", "/openapi.json", "/livez", "/status.json", "/dead-letters", "/")


class Listening:
    def __init__(self, ops_listen: str, **defaults: Any) -> None:
        settings = Settings(
            upstream=UPSTREAM,
            http=Http(listen="127.0.0.1:0"),
            ops=OpsSettings(listen=ops_listen),
            outbox=OutboxSettings(durability="normal"),
        )
        clock = HandClock()
        self._reader = lambda **values: Reader(EventDefaults(**values), 4096, clock.new_event_id, lambda: "")
        outbox: Any = ScriptedOutbox()
        self.http = HttpIngest(self._reader(**defaults), outbox, settings.http, "normal", Metrics())
        self.routes = Routes(settings, self.http, Operations().ops)
        self.listeners = self.routes.listeners(Metrics(), clock)

    def reload(self, **defaults: Any) -> None:
        self.http.reader = self._reader(**defaults)
        self.routes.reloaded()

    async def ask(self, path: str, listener: int = 0) -> Response:
        client = await Client.connect(self.listeners[listener].addresses[0])
        client.send(request(f"GET {path} HTTP/1.1"))
        answer = await client.answer()
        client.writer.close()
        return answer

    async def answered(self, listener: int) -> list[str]:
        """The paths that this listener knows."""
        return [path for path in EVERY_PATH if (await self.ask(path, listener)).status != 404]

    async def description(self, listener: int = 0) -> Any:
        return json.loads((await self.ask("/openapi.json", listener)).body)


@asynccontextmanager
async def listening(ops_listen: str = "", **defaults: Any) -> AsyncIterator[Listening]:
    stage = Listening(ops_listen, **defaults)
    for listener in stage.listeners:
        await listener.start()
    try:
        yield stage
    finally:
        for listener in stage.listeners:
            await listener.stop(1_000)


async def test_one_listener_answers_everything_and_describes_it() -> None:
    async with listening() as stage:
        (_,) = stage.listeners
        assert await stage.answered(0) == list(EVERY_PATH)
        described = (await stage.description())["paths"]
    assert {"/v1/events", "/relay.js", "/openapi.json", "/livez", "/dead-letters"} <= set(described)


async def test_a_listener_for_operations_answers_these_alone_and_each_describes_what_it_answers() -> None:
    async with listening("127.0.0.1:0") as stage:
        assert await stage.answered(0) == ["/v1/events", "/relay.js", "/openapi.json"]
        assert await stage.answered(1) == ["/openapi.json", "/livez", "/status.json", "/dead-letters", "/"]
        apps, operations = (await stage.description(0))["paths"], (await stage.description(1))["paths"]
    assert set(apps) == {"/v1/events", "/v1/events/{event_id}", "/relay.js", "/openapi.json"}
    assert "/livez" in operations and "/v1/events" not in operations


@pytest.mark.parametrize("ops_listen", ["", "127.0.0.1:0"])
async def test_events_are_taken_wherever_apps_are_served(ops_listen: str) -> None:
    async with listening(ops_listen) as stage:
        client = await Client.connect(stage.listeners[0].addresses[0])
        client.send(post())
        assert (await client.answer()).status == 202
        client.writer.close()


async def test_the_description_tells_the_configuration_in_force() -> None:
    def required(description: Any) -> list[str]:
        found: list[str] = description["components"]["schemas"]["Event"]["required"]
        return found

    async with listening() as stage:
        before = await stage.description()
        assert required(before) == ["event_type", "source", "tenant_id"]
        assert before["components"]["headers"]["Relay-Durability"]["schema"]["const"] == "normal"
        assert "4096" in before["paths"]["/v1/events"]["post"]["responses"]["413"]["description"]
        stage.reload(tenant_id=2, platform="tv", device_id="box")
        assert required(await stage.description()) == ["event_type"]

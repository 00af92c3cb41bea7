"""relay.js and the code for web pages of docs/use/apps.md and examples/, in Node and in real Chromium.

The page has the origin http://localhost with its own port. The relay's configuration allows this origin or not.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from relay.sandbox.server import Sandbox

from tests.e2e.browser import Browser, chromium
from tests.e2e.harness import PATIENCE_S, RelayProcess, environment, running
from tests.e2e.test_clients import at, delivered, example, found_in, run, snippet
from tests.support.ports import free_port

pytestmark = pytest.mark.timeout(4 * PATIENCE_S)
NODE_TESTS = Path(__file__).parent / "clients" / "relay.test.cjs"
CLIENT = Path(__file__).parents[2] / "relay" / "clients" / "relay.js"
HTML = ("With the relay's own client", "html")
EVENT = '{"tenant_id": 2, "source": {"platform": "web", "device_id": "d"}}'


async def test_relay_js_in_node(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node: apt-get install nodejs")
    output = await run(tmp_path, node, "--test", str(NODE_TESTS))
    assert "fail 0" in output


class Page:
    """A web page with its own origin. A test may set `html` at any time."""

    def __init__(self) -> None:
        self.html = ""
        self.origin = ""

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/favicon.ico":
            return web.Response(status=204)
        return web.Response(text=f"<!doctype html><title>Kiosk</title>{self.html}", content_type="text/html")


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    page = Page()
    runner = web.ServerRunner(web.Server(page.serve))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    page.origin = f"http://localhost:{runner.addresses[0][1]}"
    yield page
    await runner.cleanup()


@pytest.fixture
async def browser(chrome: Browser, page: Page) -> AsyncIterator[Browser]:
    """A blank page with an empty log."""
    await chrome.open("about:blank")
    await chrome.complaints()
    yield chrome
    await chrome.open("about:blank")


def settings(sandbox: Sandbox, directory: Path, page: Page, **more: str) -> dict[str, str]:
    return environment(sandbox.url, directory, http__allowed_origins=json.dumps([page.origin]), **more)


def tag(relay: RelayProcess, attributes: str = "crossorigin") -> str:
    return f"<script src='http://{relay.http}/relay.js' {attributes} data-event='{EVENT}'></script>"


async def test_the_snippet_with_relay_js_sends_from_a_page(
    sandbox: Sandbox, tmp_path: Path, browser: Browser, page: Page
) -> None:
    async with running(settings(sandbox, tmp_path, page)) as relay:
        page.html = at(relay, snippet(*HTML))
        await browser.open(page.origin)
        event = await delivered(sandbox, "page.sent")
        await browser.until("relay.pending === 0")
        assert event["context"] == {"answer": 42}
        assert await browser.run("return [relay.dropped, localStorage.length]") == [0, 0]
        assert await browser.complaints() == []


async def test_the_snippet_without_relay_js_sends_at_once_and_when_the_page_is_closed(
    sandbox: Sandbox, tmp_path: Path, browser: Browser, page: Page
) -> None:
    async with running(settings(sandbox, tmp_path, page)) as relay:
        page.html = f"<script>{at(relay, example('track.js'))}</script>"
        await browser.open(page.origin)
        await delivered(sandbox, "page.tracked")
        await browser.until("waiting.size === 0")
        await browser.run("window.fetch = () => new Promise(() => {}); track('page.left.tracked')")
        assert await browser.run("return waiting.size") == 1
        await browser.open("about:blank")
        await delivered(sandbox, "page.left.tracked")
        assert await browser.complaints() == []


async def test_pending_events_are_sent_by_beacon_and_stored_until_the_next_visit(
    sandbox: Sandbox, tmp_path: Path, browser: Browser, page: Page
) -> None:
    port = free_port()
    env = settings(sandbox, tmp_path, page, http__listen=f"127.0.0.1:{port}")
    async with running(env) as relay:
        page.html = tag(relay)
        await browser.open(page.origin)
        await browser.run("window.fetch = () => new Promise(() => {}); relay.send('by.beacon')")
        await browser.open("about:blank")
        await delivered(sandbox, "by.beacon")
        await browser.open(page.origin)
        await browser.until("relay.pending === 0")
    await browser.run("relay.send('while.away')")
    await browser.until("localStorage.length === 1")
    async with running(env) as relay:
        await browser.open(page.origin)
        await browser.until("relay.pending === 0 && localStorage.length === 0")
        await delivered(sandbox, "while.away")
    assert len(found_in(sandbox, "by.beacon")) == 1


async def test_pages_of_allowed_origins_load_the_client(
    sandbox: Sandbox, tmp_path: Path, browser: Browser, page: Page
) -> None:
    async with running(settings(sandbox, tmp_path, page)) as relay:
        for attributes, loaded in (("", False), ("crossorigin", True), ("type=module crossorigin", True)):
            page.html = tag(relay, attributes)
            await browser.open(page.origin)
            assert await browser.run("return Boolean(window.relay)") == loaded, attributes
    async with running(environment(sandbox.url, tmp_path)) as relay:
        page.html = tag(relay)
        await browser.open(page.origin)
        assert not await browser.run("return Boolean(window.relay)")


async def test_a_page_reads_the_state_of_its_event_and_the_description(
    sandbox: Sandbox, tmp_path: Path, browser: Browser, page: Page
) -> None:
    async with running(settings(sandbox, tmp_path, page)) as relay:
        page.html = tag(relay)
        await browser.open(page.origin)
        event_id = await browser.run("return relay.send('asked.about')")
        await delivered(sandbox, "asked.about")
        state: Any = await browser.run(
            "return fetch(arguments[0]).then((answer) => answer.json())", f"http://{relay.http}/v1/events/{event_id}"
        )
        assert state["event_id"] == event_id
        found = await browser.run(
            "return fetch(arguments[0]).then((answer) => answer.json())", f"http://{relay.http}/openapi.json"
        )
        assert found["openapi"].startswith("3.1")


async def test_a_public_page_needs_permission_for_loopback_and_its_events_stay_pending(
    sandbox: Sandbox, tmp_path: Path, page: Page, chrome: Browser
) -> None:
    """Local network access of Chrome: the page counts as public, and as secure because its host is localhost."""
    public = f"--ip-address-space-overrides={page.origin.replace('http://localhost', '127.0.0.1')}=public"
    async with running(settings(sandbox, tmp_path, page)) as relay:
        where = f"data-url='http://{relay.http}/v1/events' data-event='{EVENT}'"
        page.html = f"<script {where}>{CLIENT.read_text()}</script>"
        with chromium(tmp_path / "profile", public) as browser:
            await browser.open(page.origin)
            await browser.run("relay.send('with.leave')")
            async with asyncio.timeout(PATIENCE_S):
                while "`loopback` address space" not in "".join(await browser.complaints()):
                    await asyncio.sleep(0.05)
            assert await browser.run("return relay.pending") == 1
            await browser.devtools(
                "Browser.setPermission",
                permission={"name": "loopback-network"},
                setting="granted",
                origin=page.origin,
            )
            await browser.run("relay.flush()")
            await browser.until("relay.pending === 0")
        await delivered(sandbox, "with.leave")


BEACON = """
const id = crypto.randomUUID();
const event = {event_id: id, event_type: "by.json.beacon", tenant_id: 2, source: {platform: "web", device_id: "b"}};
const body = new Blob([JSON.stringify(event)], {type: "application/json"});
return [navigator.sendBeacon(arguments[0], body), id];
"""
XHR = """
return new Promise((settle) => {
  const request = new XMLHttpRequest();
  request.open("POST", arguments[0]);
  request.withCredentials = true;
  for (const name of ["traceparent", "sentry-trace", "X-Requested-With", "Authorization"])
    request.setRequestHeader(name, "1");
  request.setRequestHeader("Content-Type", "application/json");
  request.onloadend = () => settle([request.status, request.getResponseHeader("Relay-Durability")]);
  request.send(JSON.stringify(
    {event_type: "by.xhr", tenant_id: 2, source: {platform: "web", device_id: "b"}}));
});
"""


async def test_a_beacon_with_a_json_blob_is_stored(
    sandbox: Sandbox, tmp_path: Path, browser: Browser, page: Page
) -> None:
    async with running(settings(sandbox, tmp_path, page)) as relay:
        page.html = ""
        await browser.open(page.origin)
        sent, event_id = await browser.run(BEACON, f"http://{relay.http}/v1/events")
        assert sent
        event = await delivered(sandbox, "by.json.beacon")
        assert event["event_id"] == event_id


async def test_a_request_with_credentials_and_tracing_headers_is_stored(
    sandbox: Sandbox, tmp_path: Path, browser: Browser, page: Page
) -> None:
    async with running(settings(sandbox, tmp_path, page)) as relay:
        await browser.open(page.origin)
        assert await browser.run(XHR, f"http://{relay.http}/v1/events") == [202, "full"]
        await delivered(sandbox, "by.xhr")
        assert await browser.complaints() == []

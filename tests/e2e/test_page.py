"""The status page of a real relay in a real Chromium.

RELAY_SCREENSHOTS=DIRECTORY stores screenshots.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from relay.ops.live import MAX_STREAMS
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.browser import READY, Browser
from tests.e2e.harness import KEY, PATIENCE_S, RelayProcess, environment, event, running, serving
from tests.support.ports import free_port

pytestmark = pytest.mark.timeout(4 * PATIENCE_S)
TAB, ENTER, SPACE, SHIFT = "\ue004", "\ue007", " ", "\ue008"
LEFT, HOME = "\ue012", "\ue011"
TOKEN = "canary-token-of-operators"
SIZES = {"phone": (390, 844, 2), "narrow": (320, 640, 1), "at 200 %": (640, 450, 2), "desk": (1280, 800, 1)}
if os.environ.get("RELAY_NIGHTLY"):
    SIZES |= {
        "tablet": (768, 1024, 2),
        "landscape phone": (844, 390, 3),
        "large": (1920, 1080, 1),
        "wide": (2560, 1440, 1),
    }
FIRST_SCREENS = {"desk": (1280, 800), "small": (1024, 600), "phone": (390, 844)}
VIEWS = ("overview", "devices", "types", "letters", "events", "configuration", "connect")
SCRIPTS = Path(__file__).parent / "page"
CONTRASTS = (SCRIPTS / "contrast.js").read_text()
TOO_WIDE = (SCRIPTS / "too_wide.js").read_text()
NAMES = (SCRIPTS / "names.js").read_text()
DELAYED_LISTS = (SCRIPTS / "delayed_lists.js").read_text()
DELAYED_STATUS = (SCRIPTS / "delayed_status.js").read_text()
STREAMS = (SCRIPTS / "streams.js").read_text()
LOST = (SCRIPTS / "lost.js").read_text()
POINTS = "Number(document.querySelector('.plot').getAttribute('aria-valuemax'))"
ROWS = "document.querySelectorAll('#letters-list > li').length"


@pytest.fixture
async def browser(chrome: Browser) -> AsyncIterator[Browser]:
    """A blank page on a desktop screen. At the end, the browser must have logged no violation of the page's policy."""
    await chrome.screen(*SIZES["desk"])
    await chrome.scheme("light")
    await chrome.open("about:blank")
    await chrome.complaints()
    yield chrome
    logged = [line for line in await chrome.complaints() if "status of 503" not in line and "status of 401" not in line]
    assert [line for line in logged if "net::ERR_" not in line] == []


@pytest.fixture
async def relay(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    async with running(environment(sandbox.url, tmp_path)) as relay:
        yield relay


async def open_page(browser: Browser, relay: RelayProcess, view: str = "overview") -> None:
    await browser.open(f"http://{relay.http}/#{view}")
    await browser.until_text("#link", "Live")


@asynccontextmanager
async def before_the_page(browser: Browser, script: str) -> AsyncIterator[None]:
    """Run the script at the start of each page that is opened in the block."""
    added = await browser.devtools("Page.addScriptToEvaluateOnNewDocument", source=f"{{{script}}}")
    try:
        yield
    finally:
        await browser.devtools("Page.removeScriptToEvaluateOnNewDocument", **added)


async def until_streams(relay: RelayProcess, pages: int) -> None:
    """Wait until the relay has this number of open streams."""
    async with asyncio.timeout(PATIENCE_S):
        while f"\nrelay_status_streams {pages}.0\n".encode() not in (await relay.request("GET", "/metrics"))[2]:
            await asyncio.sleep(0.05)


async def make_dead_letters(relay: RelayProcess, sandbox: Sandbox, count: int, **extra: Any) -> None:
    """Create `count` dead letters, each of another device."""
    sandbox.faults.add(Misbehaviour(answer=422, when='"wrong"'))
    for n in range(count):
        assert await relay.post(event(n, f"box-{n}") | {"event_type": "wrong"} | extra) == 202
    await relay.until(lambda status: status["dead_letters"]["count"] == count)


async def show_dead_letters(browser: Browser, relay: RelayProcess, sandbox: Sandbox, count: int) -> None:
    await make_dead_letters(relay, sandbox, count)
    await open_page(browser, relay, "letters")
    await browser.until(f"{ROWS} === {count}")


async def add_dead_letter(browser: Browser, relay: RelayProcess, count: int) -> None:
    """Create a dead letter, and wait until the page shows the new number."""
    assert await relay.post(event(100 + count, f"late-{count}") | {"event_type": "wrong"}) == 202
    await browser.until_text("#dead-count", f"{count}")


class TestStatus:
    async def test_received_and_sent_events_appear_without_a_reload(
        self, browser: Browser, relay: RelayProcess
    ) -> None:
        await open_page(browser, relay)
        await browser.run("window.neverReloaded = true")
        assert await browser.text("#upstreams h3") == "Every tenant: untested"

        for n in range(3):
            assert await relay.post(event(n)) == 202

        await browser.until_text("#in-total", "3 in total")
        await browser.until_text("#out-total", "3 in total")
        await browser.until_text(
            "#ledger", "3 accepted + 0 requeued = 3 delivered + 0 dead-lettered + 0 dropped + 0 pending"
        )
        assert await browser.text("#summary-message") == "No events are pending."
        assert re.fullmatch(r"Tenant 1( \(Parlor\))?: ok", await browser.text("#upstreams h3"))
        assert "Show dead letters" not in await browser.text("#now")
        assert await relay.post({"event_type": ""}) == 422
        await browser.until_text("#rejected", "1 invalid field")
        assert await browser.run("return window.neverReloaded")

    async def test_the_header_names_host_version_upstream_and_the_time_of_the_data(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await open_page(browser, relay)
        status = await relay.status()

        header = await browser.text("header")

        assert f"Relay on {status['host']} {status['version']}" in header
        assert f"to {sandbox.url} (this machine)" in header
        assert re.search(r"Live · data of \d+:\d\d:\d\d", header)
        assert await browser.run("return document.title") == f"slow: Relay on {status['host']}"

    async def test_the_first_run_shows_a_command_that_sends_an_event(
        self, browser: Browser, relay: RelayProcess
    ) -> None:
        await open_page(browser, relay)
        await browser.until_text("#first-run", "No events yet.")

        await browser.click("#first-run button")
        await browser.until_text("#first-run button", "Copied")
        copied = await browser.run("return getSelection().toString()")
        await browser.click("#first-run a")
        await browser.until("document.querySelectorAll('#snippets pre').length === 4")
        assert copied in await browser.text("#snippets")
        process = await asyncio.create_subprocess_exec(*shlex.split(copied), stdout=asyncio.subprocess.PIPE)
        assert b"202 Accepted" in (await process.communicate())[0]
        await browser.until("document.querySelector('#first-run').hidden")

    async def test_charts_show_values_on_hover_and_keyboard_with_a_shared_cursor(
        self, browser: Browser, relay: RelayProcess
    ) -> None:
        for n in range(7):
            await relay.post(event(n))
        await open_page(browser, relay)
        readouts = "[...document.querySelectorAll('.readout')].map((each) => each.innerText)"
        await browser.until(f"{readouts}.every((text) => text.startsWith('now: '))")
        await browser.until(f"{POINTS} >= 1")
        ticks = await browser.run("return [...document.querySelectorAll('.plot')].map((e) => e.textContent)")
        assert all(re.match(r"0.*−15 min−10 min−5 minnow$", each) for each in ticks), ticks

        await browser.run("document.querySelector('.plot').focus({focusVisible: true})")
        await browser.press(LEFT)

        await browser.until(f"{readouts}.every((text) => / ago: /.test(text))")
        assert await browser.run("return document.querySelectorAll('.cursor line').length") == 3
        slider = await browser.run(
            "return ['max', 'now', 'text'].map((n) => document.activeElement.getAttribute(`aria-value${n}`))"
        )
        assert int(slider[0]) - int(slider[1]) in (1, 2), "one more if a sample was taken meanwhile"
        assert " ago: " in slider[2]
        await browser.press(HOME)
        await browser.until("document.activeElement.getAttribute('aria-valuenow') === '0'")
        await browser.until(f"/ago: .* received, .* sent/.test({readouts}[0])")
        await browser.run("document.activeElement.blur()")
        await browser.until(f"{readouts}.every((text) => text.startsWith('now: '))")

        await browser.hover(".plot")
        await browser.until(f"{readouts}.every((text) => / ago: /.test(text))")

    async def test_the_table_and_the_periods_show_the_same_points(self, browser: Browser, relay: RelayProcess) -> None:
        for n in range(7):
            await relay.post(event(n))
        await open_page(browser, relay)
        await browser.click("#points summary")
        rows = "[...document.querySelectorAll('#point-rows tr')].map(row => row.innerText.split('\t'))"

        for button, title in ((0, "Last 15 minutes"), (1, "Last hour"), (2, "Last 24 hours")):
            await browser.click(f"#periods button:nth-child({button + 1})")
            await browser.until_text("#charts-title", title)
            for column in (1, 2):
                await browser.until(f"{rows}.reduce((all, row) => all + Number(row[{column}]), 0) === 7")
            await browser.until(
                f"{rows}.at(-1)[3] === '0' && {rows}.some(row => row[4].startsWith('accepted (2xx): '))"
            )

    async def test_a_change_of_the_state_is_marked_in_the_charts(
        self, browser: Browser, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        async with running(environment(sandbox.url, tmp_path, upstream__api_key="canary-wrong-9z")) as relay:
            await relay.post(event(1))
            await relay.until(lambda status: status["upstreams"][0]["state"] == "unauthorized")
            await open_page(browser, relay)

            await browser.until("document.querySelectorAll('.plot .state.unauthorized').length >= 3")
            await browser.until_text(".readout", "unauthorized")

    async def test_devices_show_the_requests_used_of_their_limit(
        self, browser: Browser, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        env = environment(sandbox.url, tmp_path, rate__device_per_window="3", rate__window="1h")
        async with running(env) as relay:
            for n in range(5):
                await relay.post(event(n))
                await relay.until(lambda status: status["ledger"]["pending"] == 0 or status["devices_held"] == 1)
            await open_page(browser, relay, "devices")

            await browser.until_text("#devices thead", "Requests in 1")
            await browser.until_text("#device-rows", "3 of 3")
            await browser.until_text("#device-rows", "has used all requests")
            assert (
                await browser.run("return getComputedStyle(document.querySelector('td.number')).textAlign") == "right"
            )
            await browser.run("location.hash = 'overview'")
            await browser.until_text("#forecast", "The oldest event is dropped in ")
            assert "3 requests in 1" in await browser.text("#upstreams")

    async def test_a_failing_upstream_is_shown_with_its_error_next_attempt_and_advice(
        self, browser: Browser, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        env = environment(sandbox.url, tmp_path, upstream__api_key="canary-wrong-9z")
        async with running(env) as relay:
            await open_page(browser, relay)
            await relay.post(event(1))

            await browser.until_text("#summary-message", "rejects the key: its events are pending")
            assert await browser.run("return document.querySelector('#summary').dataset.level") == "trouble"
            assert "RELAY__UPSTREAM__API_KEY" in await browser.text("#summary-advice")
            await browser.until_text("#upstreams", ": unauthorized")
            assert "RELAY__UPSTREAM__API_KEY" not in await browser.text("#upstreams"), "shown twice"
            await browser.until_text("#upstreams", "next attempt in ")
            assert "401" in await browser.text("#upstreams")
            await browser.until_text("#device-rows", "waits for its upstream")
            assert "canary" not in await browser.run("return document.documentElement.outerHTML")
            await browser.picture("trouble")

    async def test_a_limiting_upstream_is_shown_with_the_requests_used(self, browser: Browser, tmp_path: Path) -> None:
        async with (
            serving(ip_limit="always", ip_per_window=2, window_ms=20_000) as sandbox,
            running(environment(sandbox.url, tmp_path, rate__window="20s")) as relay,
        ):
            for n in range(6):
                await relay.post(event(n, f"box-{n}"))
            await open_page(browser, relay)

            await browser.until_text("#upstreams h3", ": rate limited")
            await browser.until_text("#upstreams", "that the shared limit allows")

    async def test_a_full_outbox_is_shown_as_trouble(self, browser: Browser, sandbox: Sandbox, tmp_path: Path) -> None:
        sandbox.faults.add(Misbehaviour(answer=503))
        async with running(environment(sandbox.url, tmp_path, outbox__max_size="1MiB")) as relay:
            for n in range(800):
                await relay.post(event(n, f"box-{n}") | {"context": {"text": "x" * (4_000 if n < 200 else 10)}})
            await open_page(browser, relay)

            await browser.until_text("#summary-message", "Events cannot be stored: ")
            await browser.until_text("#writable", "no: ")
            await browser.until_text("#forecast", "No event can be stored now.")
            await browser.until_text("#rejected", "outbox full")

    async def test_a_page_reconnects_to_a_restarted_relay(
        self, browser: Browser, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        env = environment(sandbox.url, tmp_path, http__listen=f"127.0.0.1:{free_port()}")
        async with running(env) as relay:
            await open_page(browser, relay)
            relay.signal(signal.SIGTERM)
            assert await relay.ended() == 0
        await browser.until_text("#banner", "does not respond since")
        assert (await browser.run("return document.title")).startswith("no response: Relay on ")
        assert await browser.run("return document.body.className") == "lost"
        async with running(env):
            await browser.until("document.querySelector('#link').innerText === 'Live'")
            assert not await browser.run("return document.querySelector('#banner').checkVisibility()")

    async def test_a_page_beyond_the_limit_polls_until_a_stream_is_free(
        self, browser: Browser, relay: RelayProcess
    ) -> None:
        async with ClientSession() as session:
            others = [await session.get(f"http://{relay.http}/status/stream") for _ in range(MAX_STREAMS)]
            await browser.open(f"http://{relay.http}/")

            await browser.until_text("#link", "Updated every 5 seconds")
            assert await browser.text("#summary-message") == "Nothing delivered yet: the upstream has not responded."
            for other in others:
                other.close()

            await browser.until("document.querySelector('#link').innerText === 'Live'")

    async def test_a_late_status_response_does_not_replace_the_stream(
        self, browser: Browser, relay: RelayProcess
    ) -> None:
        async with ClientSession() as session, before_the_page(browser, DELAYED_STATUS):
            others = [await session.get(f"http://{relay.http}/status/stream") for _ in range(MAX_STREAMS)]
            await browser.open(f"http://{relay.http}/")
            await browser.until("delayed.length === 1")
            for other in others:
                other.close()
            await browser.until_text("#link", "Live")
            await browser.run(
                "window.links = []; const link = document.querySelector('#link');"
                "new MutationObserver(() => links.push(link.innerText)).observe(link, {childList: true})"
            )

            await browser.run("return delayed.shift()()")

            assert await browser.run("return links") == []

    async def test_a_page_opened_while_hidden_sends_no_request_until_it_is_shown(
        self, browser: Browser, relay: RelayProcess
    ) -> None:
        await open_page(browser, relay)
        async with before_the_page(browser, STREAMS):
            try:
                await browser.hide()
                await browser.until("document.hidden")
                await browser.run("window.before = true; location.reload()")
                await browser.until("!window.before && document.readyState === 'complete'")

                assert await browser.run("return [document.hidden, streams]") == [True, 0]
            finally:
                await browser.show()
            await browser.until_text("#link", "Live")
            assert await browser.run("return streams") == 1

    async def test_a_hidden_page_closes_its_stream_and_reopens_it_when_shown(
        self, browser: Browser, relay: RelayProcess
    ) -> None:
        await open_page(browser, relay)
        await until_streams(relay, 1)
        try:
            await browser.hide()
            await browser.until("document.hidden")

            await until_streams(relay, 0)
            await relay.post(event(1))
            await relay.until(lambda status: status["ledger"]["delivered"] == 1)
            assert (await browser.text("#out-total")).endswith("0 in total")
        finally:
            await browser.show()

        await browser.until_text("#out-total", "1 in total")
        await until_streams(relay, 1)

    async def test_markup_in_any_text_is_shown_as_text(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        evil = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"
        await open_page(browser, relay, "types")
        await browser.until_text("#types-note", "Counted since")
        message = json.dumps({"message": evil})
        sandbox.faults.add(Misbehaviour(answer=422, when="evil-1", body=message))
        sandbox.faults.add(Misbehaviour(answer=503, when="evil-2", body=message))
        for n in (1, 2):
            body = event(n, f"evil-{n} {evil}") | {"event_type": evil, "context": {"html": evil}}
            assert await relay.post(body) == 202
        assert await relay.post({"event_type": evil, evil: evil}) == 422
        await relay.until(lambda status: status["dead_letters"]["count"] == 1 and status["upstreams"][0]["last_error"])

        shown = {
            "types": ("#type-rows", evil),
            "events": ("#event-rows", f"evil-1 {evil}"),
            "letters": ("#letters-list", evil),
            "devices": ("#device-rows", f"evil-2 {evil}"),
            "overview": ("#upstreams", "Last error"),
        }
        for view, (place, text) in shown.items():
            await browser.run("location.hash = arguments[0]", view)
            await browser.until_text(place, text)
        await browser.until("document.querySelector('#group-rows').textContent.includes(arguments[0])", evil)

        found = "[window.hacked, document.querySelectorAll('img, main script').length]"
        assert await browser.run(f"return {found}") == [None, 0]

    async def test_events_are_followed_found_and_counted_by_type(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        sandbox.faults.add(Misbehaviour(answer=422, when='"wrong"'))
        assert await relay.post(event(0, "box-0") | {"event_type": "before.the.page"}) == 202
        await open_page(browser, relay, "events")
        await browser.until_text("#event-rows", "before.the.page")
        for n, event_type in ((1, "video.play"), (2, "wrong"), (3, "video.play")):
            assert await relay.post(event(n, f"box-{n}") | {"event_type": event_type}) == 202
        assert await relay.post(event(4) | {"event_type": ""}) == 422
        rows = "document.querySelector('#event-rows').innerText"
        await browser.until(
            f"['stored', 'delivered', 'rejected', 'dead lettered'].every((word) => {rows}.includes(word))"
        )

        await browser.type("#event-device", "BOX-1")
        await browser.until_text("#events-count", "2 of 2 matching")
        await browser.run("document.querySelector('#event-device').value = ''")
        await browser.type("#event-type", "wrong")
        await browser.until_text("#events-count", "2 of 2 matching")
        await browser.type("#event-id", event(2, "box-2")["event_id"] + ENTER)
        await browser.until_text("#event-result", "dead lettered. refused. ")

        await browser.run("location.hash = 'types'")
        counts = "[...document.querySelectorAll('#type-rows tr')].map((row) => row.innerText.split('\t').slice(0, 5))"
        await browser.until(
            f"JSON.stringify({counts}.slice(0, 3)) === arguments[0]",
            '[["video.play","2","2","0","0"],["before.the.page","1","1","0","0"],["wrong","1","0","0","1"]]',
        )
        await until_streams(relay, 1)
        await browser.run("location.hash = 'events'")
        await until_streams(relay, 2)

    async def test_an_event_is_found_on_a_separate_listener_for_operations(
        self, browser: Browser, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        async with running(environment(sandbox.url, tmp_path, ops__listen="127.0.0.1:0")) as relay:
            assert await relay.post(event(1)) == 202
            page = (await relay.logged("relay started"))["http"][-1]
            await browser.open(f"http://{page}/#events")
            await browser.type("#event-id", event(1)["event_id"] + ENTER)
            await browser.until_text("#event-result", f"Event {event(1)['event_id']}: ")

    async def test_the_configuration_is_shown_with_sources_and_without_secrets(
        self, browser: Browser, relay: RelayProcess
    ) -> None:
        await open_page(browser, relay, "configuration")

        await browser.until_text("#configuration-rows", "environment RELAY__UPSTREAM__API_KEY")
        rows = await browser.text("#configuration-rows")
        assert re.search(r'upstream.api_key\s+"\*+"\s+environment', rows)
        assert re.search(r'batch.linger\s+"100ms"', rows)
        assert re.search(r"http.max_connections\s+512\s+default", rows)
        assert KEY not in await browser.run("return document.documentElement.outerHTML")

    async def test_the_page_sends_requests_to_the_relay_only(self, browser: Browser, relay: RelayProcess) -> None:
        await open_page(browser, relay)

        requested = await browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")

        assert len(requested) >= 6
        assert [url for url in requested if not url.startswith((f"http://{relay.http}/", "data:"))] == []


class TestDeadLetters:
    async def test_a_relay_without_dead_letters_says_so(self, browser: Browser, relay: RelayProcess) -> None:
        await open_page(browser, relay, "letters")
        await browser.until_text("#letters-result", "No dead letters.")

    async def test_letters_are_shown_with_reason_message_and_body_and_can_be_searched(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await make_dead_letters(relay, sandbox, 3, context={"title": "Käse"})
        await open_page(browser, relay, "letters")
        await browser.until(f"{ROWS} === 3")
        assert "rejected by the upstream" in await browser.text("#letters-list > li")

        await browser.click("#letters-list summary")
        assert '  "context": {\n    "title": "K\\u00e4se"\n  }' in await browser.text("#letters-list pre")
        await browser.click("#letters-list details button")
        await browser.until_text("#letters-list details button", "Copied")
        await browser.picture("dead-letters")

        await browser.type("#letters-search", "BOX-2" + ENTER)
        await browser.until_text("#letters-result", "1 found")
        assert "box-2" in await browser.text("#letters-list")
        await browser.run("document.querySelector('#letters-search').value = ''")
        await browser.run("document.querySelector('#letters-reason').value = 'poison'")
        await browser.click("#letters-filter button")
        await browser.until_text("#letters-result", "No dead letters found")

    async def test_causes_are_counted_and_select_their_letters(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        sandbox.faults.add(Misbehaviour(answer=422, when='"other"', body='{"message": "no such video 7"}'))
        for n in range(2):
            await relay.post(event(n, f"other-{n}") | {"event_type": "other"})
        await relay.until(lambda status: status["dead_letters"]["count"] == 2)
        sandbox.faults.add(Misbehaviour(answer=422, when='"wrong"'))
        for n in range(3):
            await relay.post(event(n, f"box-{n}") | {"event_type": "wrong"})
        await relay.until(lambda status: status["dead_letters"]["count"] == 5)
        await open_page(browser, relay, "letters")
        groups = "[...document.querySelectorAll('#group-rows tr')].map((row) => row.innerText.split('\t'))"
        await browser.until(f"{groups}.length === 2")

        found = await browser.run(f"return {groups}")
        assert [row[1:3] for row in found] == [["wrong", "3"], ["other", "2"]]
        assert "no such video #" in found[1][0]
        first = await browser.text("#letters-list > li")
        assert "wrong" in first, "the newest is first"
        await browser.click("#group-rows tr:nth-child(2) button")

        await browser.until_text("#letters-result", "2 found")
        assert await browser.text("#discard-all") == "Discard all found"

    async def test_a_letter_is_requeued_and_sent(self, browser: Browser, relay: RelayProcess, sandbox: Sandbox) -> None:
        await make_dead_letters(relay, sandbox, 2)
        sandbox.faults.heal()
        await open_page(browser, relay, "letters")
        await browser.until(f"{ROWS} === 2")

        await browser.click("#letters-list .acts button")

        await browser.until_text("#letters-result", "1 of 1 requeued")
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)
        await browser.until_text("#dead-count", "1")

    async def test_selected_letters_are_discarded_by_keyboard_after_a_confirmation(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await show_dead_letters(browser, relay, sandbox, 3)

        await self.tab_to(browser, "Select letter [123] of box-1")
        await browser.press(SPACE)
        await self.tab_to(browser, "Discard selected", back=True)
        await browser.press(ENTER)
        await browser.until("document.querySelector('#confirm').open")
        assert await browser.run("return document.activeElement.id") == "confirm-no"
        await browser.press(ENTER)
        await browser.until("!document.querySelector('#confirm').open")
        assert (await relay.status())["dead_letters"]["count"] == 3
        assert await browser.run("return document.activeElement.id") == "discard-selected"

        # The page makes one move at a time: the button takes the next press when this move is done.
        await browser.until(READY, "#discard-selected")
        await browser.press(ENTER)
        await browser.until("document.querySelector('#confirm').open")
        await browser.press(TAB)
        await browser.press(ENTER)

        await browser.until_text("#letters-result", "1 of 1 discarded")
        assert (await relay.status())["dead_letters"]["count"] == 2
        assert "box-1" not in await browser.text("#letters-list")

    async def test_requeue_all_moves_every_matching_letter_once(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        """The upstream rejects the events again. They become new letters, which the same requeue must not move."""
        events = [event(n, f"box-{n % 7}") | {"event_type": "wrong"} for n in range(130)]
        sandbox.faults.add(Misbehaviour(answer=422, when='"wrong"'))
        status, _, _ = await relay.request("POST", "/v1/events", json.dumps(events).encode())
        assert status == 202
        await relay.until(lambda status: status["dead_letters"]["count"] == 130)
        await open_page(browser, relay, "letters")
        await browser.until_text("#letters-result", "The newest 20 shown")
        await browser.run("document.querySelector('#letters-reason').value = 'refused'")
        await browser.click("#letters-filter button")
        await browser.until_text("#requeue-all", "Requeue all found")

        await browser.click("#requeue-all")
        await browser.until_text("#confirm-text", "Requeue these 130 events?")
        await browser.click("#confirm-yes")

        await browser.until_text("#letters-result", "130 of 130 requeued")
        status = await relay.until(lambda status: status["dead_letters"]["count"] == 130)
        assert status["ledger"]["requeued"] == 130

    async def test_the_result_stays_until_a_late_list_arrives(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await show_dead_letters(browser, relay, sandbox, 3)
        await browser.run(DELAYED_LISTS)

        await browser.click("#letters-list .acts button.danger")
        await browser.click("#confirm-yes")
        await browser.until("delayed.length === 1")
        await browser.until_text("#dead-count", "2")
        await browser.run("return delayed.shift()()")

        assert await browser.text("#letters-result") == "1 of 1 discarded."
        assert await browser.run("return delayed.length") == 0, "requested the list once more"
        assert await browser.run(f"return {ROWS}") == 2

    async def test_a_second_search_aborts_the_first(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await show_dead_letters(browser, relay, sandbox, 3)
        await browser.run(DELAYED_LISTS)

        await browser.click("#letters-filter button")
        await browser.type("#letters-search", "BOX-2" + ENTER)
        await browser.until("delayed.length === 2")
        assert await browser.run("return delayed.map((each) => each.signal.aborted)") == [True, False]
        await browser.run("return delayed.pop()()")
        await browser.run("return delayed.pop()()")

        assert await browser.text("#letters-result") == "1 found."
        assert await browser.run(f"return {ROWS}") == 1

    async def test_buttons_apply_to_the_shown_list_and_not_to_the_search_field(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await show_dead_letters(browser, relay, sandbox, 3)
        await browser.type("#letters-search", "BOX-2" + ENTER)
        await browser.until_text("#letters-result", "1 found")

        await browser.run("document.querySelector('#letters-search').value = ''")
        await browser.click("#discard-all")
        await browser.until("document.querySelector('#confirm').open")
        assert await browser.text("#confirm-text") == "Discard this event? This cannot be undone."
        await browser.click("#confirm-yes")

        await browser.until_text("#letters-result", "1 of 1 discarded")
        assert (await relay.status())["dead_letters"]["count"] == 2
        assert await browser.run(f"return {ROWS}") == 0, "of the search that was submitted"

    async def test_show_more_applies_to_the_shown_search(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await make_dead_letters(relay, sandbox, 22)
        await open_page(browser, relay, "letters")
        await browser.until_text("#letters-result", "The newest 20 shown")

        await browser.type("#letters-search", "BOX-2")
        await browser.click("#letters-more")

        await browser.until_text("#letters-result", "22 shown")
        assert await browser.text("#discard-all") == "Discard all"

    async def test_the_all_buttons_are_disabled_while_a_search_loads(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await show_dead_letters(browser, relay, sandbox, 3)
        await browser.run(DELAYED_LISTS)

        await browser.type("#letters-search", "BOX-2" + ENTER)
        await browser.until("delayed.length === 1")
        disabled = "['requeue-all', 'discard-all'].map((id) => document.getElementById(id).disabled)"
        assert await browser.run(f"return [{ROWS}, ...{disabled}]") == [3, True, True]
        await browser.run("return delayed.shift()()")

        assert await browser.run(f"return [{ROWS}, ...{disabled}]") == [1, False, False]

    async def test_the_page_makes_one_move_at_a_time(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await show_dead_letters(browser, relay, sandbox, 3)
        await browser.run(DELAYED_LISTS)

        for button in ("#discard-all", "#discard-all", "#requeue-all", "#letters-list .acts button"):
            await browser.click(button, when_ready=False)
        assert await browser.run("return delayed.length") == 1
        assert await browser.text("#letters-result") == "Searching all dead letters …"
        await browser.run("return delayed.shift()()")
        await browser.until("document.querySelector('#confirm').open")
        await browser.click("#confirm-yes")
        await browser.until("delayed.length === 1")
        await browser.run("return delayed.shift()()")

        assert await browser.text("#letters-result") == "3 of 3 discarded."
        ledger = (await relay.status())["ledger"]
        assert ledger["requeued"] == 0
        assert await browser.run("return delayed.length") == 0

    async def test_a_cancelled_discard_changes_nothing(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await show_dead_letters(browser, relay, sandbox, 2)

        for _ in range(2):
            await browser.click("#discard-all")
            await browser.until("document.querySelector('#confirm').open")
            await browser.press(ENTER)
            await browser.until_text("#letters-result", "Nothing was discarded.")
            assert await browser.run("return document.activeElement.id") == "discard-all"
        assert (await relay.status())["dead_letters"]["count"] == 2

    async def test_changes_during_a_request_cause_one_further_request(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await show_dead_letters(browser, relay, sandbox, 3)
        await browser.run(DELAYED_LISTS)

        await add_dead_letter(browser, relay, 4)
        await browser.until("delayed.length === 1")
        await add_dead_letter(browser, relay, 5)
        assert await browser.run(f"return [delayed.length, {ROWS}]") == [1, 3], "the shown list stays"
        await browser.run("return delayed.shift()()")

        assert await browser.run(f"return [delayed.length, {ROWS}]") == [1, 5], "one further request"
        await browser.run("return delayed.shift()()")
        assert await browser.run(f"return [delayed.length, {ROWS}]") == [0, 5]

    async def test_a_list_is_not_replaced_after_the_user_began_to_select(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await show_dead_letters(browser, relay, sandbox, 2)
        await browser.run(DELAYED_LISTS)

        await add_dead_letter(browser, relay, 3)
        await browser.until("delayed.length === 1")
        await browser.click("#letters-list input")
        await browser.run("return delayed.shift()()")

        assert await browser.text("#letters-news") == "Now 3 dead letters."
        assert await browser.run(f"return [{ROWS}, document.querySelector('#letters-list input').checked]") == [2, True]

    async def test_a_failed_list_is_requested_again(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await show_dead_letters(browser, relay, sandbox, 3)
        await browser.run(LOST, "dead-letters?")

        await add_dead_letter(browser, relay, 4)
        await browser.until_text("#letters-result", "does not respond")
        assert await browser.run(f"return {ROWS}") == 3
        await browser.run("lost = ''")
        await browser.until_text("#letters-result", "4 shown")

        await browser.run("lost = 'dead-letters?'")
        await browser.type("#letters-search", "BOX-2" + ENTER)
        await browser.until_text("#letters-result", "does not respond")
        await browser.run("lost = ''")
        await browser.until_text("#letters-result", "1 found")

    async def test_a_change_during_the_confirmation_is_shown_afterwards(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await show_dead_letters(browser, relay, sandbox, 2)

        await browser.click("#letters-list .acts button.danger")
        await browser.until("document.querySelector('#confirm').open")
        await add_dead_letter(browser, relay, 3)
        await browser.click("#confirm-no")

        await browser.until_text("#letters-news", "Now 3 dead letters.")

    async def test_the_result_and_a_failed_list_are_both_shown(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await show_dead_letters(browser, relay, sandbox, 3)
        await browser.run(LOST, "dead-letters?")

        await browser.click("#letters-list .acts button.danger")
        await browser.click("#confirm-yes")

        await browser.until_text("#letters-result", "1 of 1 discarded. The relay does not respond.")
        await browser.run("lost = ''")
        await browser.until(f"{ROWS} === 2")
        assert await browser.text("#letters-result") == "1 of 1 discarded."

    async def test_a_move_without_a_response_has_an_unknown_result(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await show_dead_letters(browser, relay, sandbox, 3)
        await browser.run(LOST, "dead-letters/discard")

        await browser.click("#letters-list .acts button.danger")
        await browser.click("#confirm-yes")
        await browser.until(f"{ROWS} === 2")
        assert await browser.text("#letters-result") == (
            "It is unknown whether it was discarded. The relay does not respond."
        )
        await browser.click("#discard-all")
        await browser.click("#confirm-yes")
        await browser.until(f"{ROWS} === 0")
        assert await browser.text("#letters-result") == (
            "It is unknown how many of 2 were discarded. The relay does not respond."
        )

    async def tab_to(self, browser: Browser, pattern: str, *, back: bool = False) -> None:
        """Press Tab until an element with this name has the focus. Every focused element must have an outline."""
        for _ in range(80):
            await browser.press(*((SHIFT, TAB) if back else (TAB,)))
            focus, outline = await browser.run(
                "const at = document.activeElement; const style = getComputedStyle(at);"
                "return [at.getAttribute('aria-label') || at.innerText, style.outlineStyle + style.outlineWidth]"
            )
            assert outline == "solid3px", focus
            if re.fullmatch(pattern, focus):
                return
        raise AssertionError(f"Tab never reaches {pattern!r}")


class TestAccess:
    @pytest.fixture
    async def relay(self, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[RelayProcess]:
        file = tmp_path / "token"
        file.write_text(TOKEN)
        file.chmod(0o600)
        async with running(environment(sandbox.url, tmp_path, ops__token_file=str(file))) as relay:
            yield relay

    async def test_bodies_and_changes_need_the_token_and_the_status_does_not(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await make_dead_letters(relay, sandbox, 1)
        await open_page(browser, relay, "letters")
        await browser.until_text("#dead-count", "1")
        await browser.until("!document.querySelector('#token-form').hidden")
        assert await browser.run(f"return {ROWS}") == 0

        await browser.type("#token", "wrong" + ENTER)
        await browser.until_text("#letters-result", "ops.token_file")
        await browser.type("#token", TOKEN + ENTER)

        await browser.until(f"{ROWS} === 1")
        assert not await browser.run("return document.querySelector('#token-form').checkVisibility()")
        await browser.run("location.hash = 'overview'")
        await browser.click("#flush")
        await browser.until_text("#flush-result", "Sending")
        stored = await browser.run(
            "return JSON.stringify([localStorage, sessionStorage, document.cookie, document.documentElement.outerHTML])"
        )
        assert TOKEN not in stored


async def test_a_page_of_another_site_has_no_access(browser: Browser, relay: RelayProcess, sandbox: Sandbox) -> None:
    """An operator's browser on the relay's machine is a loopback peer, so that only the guard rejects the requests."""
    await make_dead_letters(relay, sandbox, 1)
    runner = web.ServerRunner(web.Server(lambda request: _blank()))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await browser.open(f"http://127.0.0.1:{runner.addresses[0][1]}/")
    attempts = await browser.run(
        """
        const base = arguments[0], body = JSON.stringify({all: true});
        const type = {"Content-Type": "application/json"};
        const attempt = (path, options) =>
          fetch(base + path, options).then((a) => `${a.type} ${a.status}`, () => "refused");
        const blind = { method: "POST", body, mode: "no-cors" };
        const framed = document.createElement("iframe");
        framed.src = base + "/";
        document.body.append(framed);
        return Promise.all([
          attempt("/dead-letters"),
          attempt("/status.json"),
          attempt("/dead-letters/discard", {method: "POST", body, headers: type}),
          attempt("/dead-letters/discard", blind),
          attempt("/dead-letters/discard", {...blind, headers: {"Content-Type": "text/plain"}}),
          navigator.sendBeacon(base + "/dead-letters/discard", body),
          new Promise((resolve) => framed.addEventListener("load", () => {
            try { resolve("framed " + framed.contentDocument.body.innerText); } catch { resolve("refused"); }
          })),
        ]);
        """,
        f"http://{relay.http}",
    )
    await runner.cleanup()
    await browser.complaints()

    assert attempts[:3] == ["refused"] * 3
    assert attempts[6] in ("refused", "framed ")
    assert (await relay.status())["dead_letters"]["count"] == 1


async def _blank() -> web.Response:
    return web.Response(text="<!doctype html><title>Another site</title>", content_type="text/html")


class TestReading:
    """The layout on every screen, the contrast, and the names for screen readers."""

    @pytest.fixture
    async def busy(self, browser: Browser, relay: RelayProcess, sandbox: Sandbox) -> Browser:
        """A page with content in every section."""
        await make_dead_letters(relay, sandbox, 2)
        sandbox.faults.add(Misbehaviour(answer=503, when="box-9"))
        await relay.post(event(1, "box-9-with-a-name-that-is-very-long-and-has-no-place-to-break-" + "x" * 60))
        await relay.until(lambda status: status["upstreams"][0]["last_error"] != "")
        await open_page(browser, relay, "letters")
        await browser.until(f"{ROWS} === 2")
        await browser.until("document.querySelector('#device-rows').children.length")
        await browser.run("location.hash = 'overview'")
        await browser.until("document.querySelectorAll('.plot .curve').length === 3")
        await browser.run("for (const each of document.querySelectorAll('details')) each.open = true")
        return browser

    async def view(self, busy: Browser, view: str) -> None:
        await busy.run("location.hash = arguments[0]", view)
        await busy.until("!document.getElementById(arguments[0]).hidden", view)

    async def test_every_view_fits_every_screen_without_horizontal_scrolling(self, busy: Browser) -> None:
        for view in VIEWS:
            await self.view(busy, view)
            for name, (width, height, scale) in SIZES.items():
                await busy.screen(width, height, scale)
                assert await busy.run(TOO_WIDE, width) == [], (view, name)
                await busy.picture(f"{view}-{name.replace(' ', '-').replace('%', 'percent')}")
            await busy.run("document.documentElement.style.fontSize = '200%'")
            assert await busy.run(TOO_WIDE, width) == [], f"{view}, text size 200 %"
            await busy.run("document.documentElement.style.fontSize = ''")

    async def test_the_first_screen_shows_level_rates_and_a_chart(self, busy: Browser) -> None:
        await self.require_first_screen(busy)

    async def test_the_first_screen_of_the_first_run_shows_a_chart_too(
        self, browser: Browser, relay: RelayProcess
    ) -> None:
        await open_page(browser, relay)
        await browser.until_text("#first-run", "No events yet.")
        await self.require_first_screen(browser)

    async def require_first_screen(self, browser: Browser) -> None:
        for name, (width, height) in FIRST_SCREENS.items():
            await browser.screen(width, height)
            bottom = "return document.querySelector(arguments[0]).getBoundingClientRect().bottom"
            for part in ("#summary", "#now", ".plot"):
                assert await browser.run(bottom, part) <= height, (name, part)

    async def test_every_text_has_sufficient_contrast(self, busy: Browser) -> None:
        """WCAG 2.2, 1.4.3 (text: 4.5) and 1.4.11 (controls and curves: 3)."""
        backs = set()
        for scheme in ("light", "dark"):
            await busy.scheme(scheme)
            for view in (*VIEWS, "lost"):
                if view == "lost":
                    await busy.run("document.body.classList.add('lost')")
                await self.view(busy, "overview" if view == "lost" else view)
                measured = await busy.run(CONTRASTS)
                assert len(measured) > 12
                assert [each for each in measured if each["contrast"] < each["least"]] == [], view
            await busy.run("document.body.classList.remove('lost')")
            backs.add(await busy.run("return getComputedStyle(document.body).backgroundColor"))
        assert len(backs) == 2

    async def test_forced_colors_keep_text_and_curves(self, busy: Browser) -> None:
        features = [{"name": "forced-colors", "value": "active"}]
        await busy.devtools("Emulation.setEmulatedMedia", features=features)
        await busy.picture("forced-colors")

        assert await busy.run("return matchMedia('(forced-colors: active)').matches")
        assert [each for each in await busy.run(CONTRASTS) if each["contrast"] < min(each["least"], 4.5)] == []

    async def test_every_control_has_an_accessible_name(self, busy: Browser) -> None:
        roles: dict[str, list[str]] = {}
        for view in VIEWS:
            await self.view(busy, view)
            tree = await busy.devtools("Accessibility.getFullAXTree")
            for node in tree["nodes"]:
                if not node.get("ignored"):
                    roles.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
            found = await busy.run(NAMES)
            assert found["levels"][0] == 1
            assert all(after - before <= 1 for before, after in zip(found["levels"], found["levels"][1:], strict=False))
            assert found["doubles"] == []
            assert found["dangling"] == []
            assert found["language"] == "en"

        for role in (
            *("button", "link", "checkbox", "searchbox", "combobox"),
            *("slider", "region", "meter", "table", "navigation", "group"),
        ):
            assert roles.get(role), role
            assert "" not in roles[role] or role == "group", f"a {role} without a name: {roles[role]}"
        assert len(roles["main"]) == len(roles["banner"]) == len(roles["contentinfo"]) == len(VIEWS)
        assert len(roles["slider"]) == 3
        assert "status" in roles

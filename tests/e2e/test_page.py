"""The status page in a real Chromium, of a real relay: what a person sees, does, and is kept from.

RELAY_SCREENSHOTS=DIRECTORY keeps pictures of what the tests look at.
"""

from __future__ import annotations

import asyncio
import json
import re
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
from tests.e2e.harness import PATIENCE_S, RelayProcess, environment, event, running
from tests.e2e.test_commands import free_port

pytestmark = pytest.mark.timeout(4 * PATIENCE_S)
TAB, ENTER, SPACE, SHIFT = "\ue004", "\ue007", " ", "\ue008"
TOKEN = "canary-token-of-operators"
SIZES = {"phone": (360, 740, 2), "narrow": (320, 640, 1), "at 200 %": (640, 450, 2), "desk": (1280, 900, 1)}
SCRIPTS = Path(__file__).parent / "page"
CONTRASTS = (SCRIPTS / "contrast.js").read_text()
TOO_WIDE = (SCRIPTS / "too_wide.js").read_text()
NAMES = (SCRIPTS / "names.js").read_text()
HELD_LISTS = (SCRIPTS / "held_lists.js").read_text()
HELD_STATUS = (SCRIPTS / "held_status.js").read_text()
STREAMS = (SCRIPTS / "streams.js").read_text()
LOST = (SCRIPTS / "lost.js").read_text()
ROWS = "document.querySelectorAll('#letters-list > li').length"


@pytest.fixture
async def browser(chrome: Browser) -> AsyncIterator[Browser]:
    """A blank page on a desk; at the end nothing may have gone against the page's own policy."""
    await chrome.screen(*SIZES["desk"])
    await chrome.scheme("light")
    await chrome.open("about:blank")
    await chrome.complaints()
    yield chrome
    said = [line for line in await chrome.complaints() if "status of 503" not in line and "status of 401" not in line]
    assert [line for line in said if "net::ERR_" not in line] == []


@pytest.fixture
async def relay(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    async with running(environment(sandbox.url, tmp_path)) as relay:
        yield relay


async def look(browser: Browser, relay: RelayProcess) -> None:
    await browser.open(f"http://{relay.http}/")
    await browser.until_text("#link", "live")


@asynccontextmanager
async def before_the_page(browser: Browser, script: str) -> AsyncIterator[None]:
    """Each page that is opened meanwhile runs the script before its own."""
    added = await browser.devtools("Page.addScriptToEvaluateOnNewDocument", source=f"{{{script}}}")
    try:
        yield
    finally:
        await browser.devtools("Page.removeScriptToEvaluateOnNewDocument", **added)


async def until_live(relay: RelayProcess, pages: int) -> None:
    """Until so many pages hold a stream."""
    async with asyncio.timeout(PATIENCE_S):
        while f"\nrelay_status_streams {pages}.0\n".encode() not in (await relay.request("GET", "/metrics"))[2]:
            await asyncio.sleep(0.05)


async def give_up(relay: RelayProcess, sandbox: Sandbox, count: int, **extra: Any) -> None:
    """So many dead letters of a device each."""
    sandbox.faults.add(Misbehaviour(answer=422, when='"wrong"'))
    for n in range(count):
        assert await relay.post(event(n, f"box-{n}") | {"event_type": "wrong"} | extra) == 202
    await relay.until(lambda status: status["dead_letters"]["count"] == count)


async def look_at_dead(browser: Browser, relay: RelayProcess, sandbox: Sandbox, count: int) -> None:
    await give_up(relay, sandbox, count)
    await look(browser, relay)
    await browser.until(f"{ROWS} === {count}")


async def one_more(browser: Browser, relay: RelayProcess, count: int) -> None:
    """Until the page knows of one more dead letter, which makes so many."""
    assert await relay.post(event(100 + count, f"late-{count}") | {"event_type": "wrong"}) == 202
    await browser.until_text("#dead-count", f"{count}")


class TestOneLook:
    async def test_what_comes_in_and_goes_out_shows_without_reloading(
        self, browser: Browser, relay: RelayProcess
    ) -> None:
        await look(browser, relay)
        await browser.run("window.neverReloaded = true")
        assert await browser.text("#upstreams h3") == "Every tenant: ok"

        for n in range(3):
            assert await relay.post(event(n)) == 202

        await browser.until_text("#in-total", "3 in all")
        await browser.until_text("#out-total", "3 in all")
        await browser.until_text(
            "#ledger", "3 accepted + 0 requeued = 3 delivered + 0 dead-lettered + 0 dropped + 0 waiting"
        )
        assert await browser.text("#summary-words") == "All received events are delivered."
        assert await browser.text("#upstreams h3") == "Tenant 1: ok"
        assert "look at them" not in await browser.text("#now")
        assert await relay.post({"event_type": ""}) == 422
        await browser.until_text("#refused", "1 a field wrong")
        assert await browser.run("return window.neverReloaded")

    async def test_charts_show_what_was_sampled_in_pictures_words_and_figures(
        self, browser: Browser, relay: RelayProcess
    ) -> None:
        for n in range(7):
            await relay.post(event(n))
        await look(browser, relay)
        label = "document.querySelectorAll('.plot')[arguments[0]]?.getAttribute('aria-label')"

        await browser.until(
            f"/between 0.*and [1-9].* in the last 15/.test({label}) || /now, between [0-9.]+/.test({label})", 0
        )
        await browser.until(f"/taken \\(2xx\\) [1-9].*too many \\(429\\) 0/.test({label})", 3)

        assert await browser.run("return document.querySelectorAll('.plot .curve').length") == 3
        assert await browser.run("return document.querySelectorAll('.plot rect.taken').length") >= 1
        await browser.click("#minutes summary")
        # a table's rows come a moment after it is opened; in and out may be of two minutes
        rows = "[...document.querySelectorAll('#minute-rows tr')].map(row => row.innerText.split('\t'))"
        for column in (1, 2):
            await browser.until(f"{rows}.reduce((all, row) => all + Number(row[{column}]), 0) === 7")
        await browser.until(f"{rows}.at(-1)[3] === '0' && {rows}.some(row => row[4].startsWith('202: '))")

    async def test_an_upstream_in_trouble_is_told_in_words_with_the_next_attempt_and_what_to_do(
        self, browser: Browser, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        env = environment(sandbox.url, tmp_path, upstream__api_key="canary-wrong-9z")
        async with running(env) as relay:
            await look(browser, relay)
            await relay.post(event(1))

            await browser.until_text("#summary-words", "refuses the key: nothing can be sent")
            assert await browser.run("return document.querySelector('#summary').dataset.level") == "trouble"
            assert "upstream.api_key_file" in await browser.text("#summary-to-do")
            await browser.until_text("#upstreams", "Tenant 1: unauthorized")
            assert "upstream.api_key_file" not in await browser.text("#upstreams"), "said twice"
            await browser.until_text("#upstreams", "next attempt in ")
            assert "401" in await browser.text("#upstreams")
            await browser.until_text("#device-rows", "waits with its upstream")
            assert "canary" not in await browser.run("return document.documentElement.outerHTML")
            await browser.picture("trouble")

    async def test_a_relay_that_stops_ends_the_stream_and_one_that_starts_is_found_again(
        self, browser: Browser, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        env = environment(sandbox.url, tmp_path, http__listen=f"127.0.0.1:{free_port()}")
        async with running(env) as relay:
            await look(browser, relay)
            relay.signal(signal.SIGTERM)
            assert await relay.ended() == 0
        await browser.until_text("#link", "does not answer")
        async with running(env):
            await browser.until("document.querySelector('#link').innerText === 'live'")

    async def test_one_page_too_many_is_not_live_and_becomes_so_when_a_place_is_free(
        self, browser: Browser, relay: RelayProcess
    ) -> None:
        async with ClientSession() as session:
            others = [await session.get(f"http://{relay.http}/status/stream") for _ in range(MAX_STREAMS)]
            await browser.open(f"http://{relay.http}/")

            await browser.until_text("#link", "not live: asked every 5 seconds")
            assert await browser.text("#summary-words") == "All received events are delivered."
            for other in others:
                other.close()

            await browser.until("document.querySelector('#link').innerText === 'live'")

    async def test_an_answer_that_comes_when_the_page_is_live_again_is_too_old(
        self, browser: Browser, relay: RelayProcess
    ) -> None:
        async with ClientSession() as session, before_the_page(browser, HELD_STATUS):
            others = [await session.get(f"http://{relay.http}/status/stream") for _ in range(MAX_STREAMS)]
            await browser.open(f"http://{relay.http}/")
            await browser.until("held.length === 1")
            for other in others:
                other.close()
            await browser.until_text("#link", "live")
            await browser.run(
                "window.links = []; const link = document.querySelector('#link');"
                "new MutationObserver(() => links.push(link.innerText)).observe(link, {childList: true})"
            )

            await browser.run("return held.shift()()")

            assert await browser.run("return links") == []

    async def test_a_page_opened_where_nobody_looks_asks_nothing_until_somebody_does(
        self, browser: Browser, relay: RelayProcess
    ) -> None:
        await look(browser, relay)
        async with before_the_page(browser, STREAMS):
            try:
                await browser.hide()
                await browser.until("document.hidden")
                await browser.run("window.before = true; location.reload()")
                await browser.until("!window.before && document.readyState === 'complete'")

                assert await browser.run("return [document.hidden, streams]") == [True, 0]
            finally:
                await browser.show()
            await browser.until_text("#link", "live")
            assert await browser.run("return streams") == 1

    async def test_a_hidden_page_asks_nothing_and_one_that_is_looked_at_again_is_live(
        self, browser: Browser, relay: RelayProcess
    ) -> None:
        await look(browser, relay)
        await until_live(relay, 1)
        try:
            await browser.hide()
            await browser.until("document.hidden")

            await until_live(relay, 0)
            await relay.post(event(1))
            await relay.until(lambda status: status["ledger"]["delivered"] == 1)
            assert await browser.text("#out-total") == "0 in all"
        finally:
            await browser.show()

        await browser.until_text("#out-total", "1 in all")
        await until_live(relay, 1)

    async def test_what_others_wrote_is_text_and_nothing_else(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        evil = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"
        sandbox.faults.add(Misbehaviour(answer=422, when="wrong"))
        body = event(1, evil) | {"event_type": "wrong", "context": {"html": evil}}
        assert await relay.post(body) == 202
        await relay.until(lambda status: status["dead_letters"]["count"] == 1)

        await look(browser, relay)
        await browser.until_text("#letters-list", evil)

        assert await browser.run("return [window.hacked, document.querySelectorAll('main img').length]") == [None, 0]

    async def test_nothing_is_asked_of_anybody_but_the_relay(self, browser: Browser, relay: RelayProcess) -> None:
        await look(browser, relay)

        asked = await browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")

        assert len(asked) >= 6
        assert [url for url in asked if not url.startswith((f"http://{relay.http}/", "data:"))] == []


class TestDeadLetters:
    async def test_are_shown_with_reason_words_and_body_and_can_be_searched(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await give_up(relay, sandbox, 3, context={"title": "Käse"})
        await look(browser, relay)
        await browser.until(f"{ROWS} === 3")
        assert "refused by the upstream" in await browser.text("#letters-list > li")

        await browser.click("#letters-list summary")
        assert '"title": "K\\u00e4se"' in await browser.text("#letters-list pre")
        await browser.picture("dead-letters")

        await browser.type("#letters-search", "BOX-2" + ENTER)
        await browser.until_text("#letters-said", "1 found")
        assert "box-2" in await browser.text("#letters-list")
        await browser.run("document.querySelector('#letters-search').value = ''")
        await browser.run("document.querySelector('#letters-reason').value = 'poison'")
        await browser.click("#letters-filter button")
        await browser.until_text("#letters-said", "None found")

    async def test_one_is_requeued_and_sent(self, browser: Browser, relay: RelayProcess, sandbox: Sandbox) -> None:
        await give_up(relay, sandbox, 2)
        sandbox.faults.heal()
        await look(browser, relay)
        await browser.until(f"{ROWS} === 2")

        await browser.click("#letters-list .acts button")

        await browser.until_text("#letters-said", "1 of 1 requeued")
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)
        await browser.until_text("#dead-count", "1")

    async def test_chosen_ones_are_discarded_by_keyboard_alone_after_a_question(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await look_at_dead(browser, relay, sandbox, 3)

        await self.tab_to(browser, "Choose letter [123] of box-1")
        await browser.press(SPACE)
        await self.tab_to(browser, "Discard chosen", back=True)
        await browser.press(ENTER)
        await browser.until("document.querySelector('#confirm').open")
        assert await browser.run("return document.activeElement.id") == "confirm-no"
        await browser.press(ENTER)
        await browser.until("!document.querySelector('#confirm').open")
        assert (await relay.status())["dead_letters"]["count"] == 3
        assert await browser.run("return document.activeElement.id") == "discard-chosen"

        # The page makes one move at a time: the button takes the next press when this move is done.
        await browser.until(READY, "#discard-chosen")
        await browser.press(ENTER)
        await browser.until("document.querySelector('#confirm').open")
        await browser.press(TAB)
        await browser.press(ENTER)

        await browser.until_text("#letters-said", "1 of 1 discarded")
        assert (await relay.status())["dead_letters"]["count"] == 2
        assert "box-1" not in await browser.text("#letters-list")

    async def test_all_of_a_reason_are_moved_beyond_those_shown_and_each_once(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        """The upstream refuses them again: they come back as new letters, and must not go round."""
        events = [event(n, f"box-{n % 7}") | {"event_type": "wrong"} for n in range(130)]
        sandbox.faults.add(Misbehaviour(answer=422, when='"wrong"'))
        status, _, _ = await relay.request("POST", "/v1/events", json.dumps(events).encode())
        assert status == 202
        await relay.until(lambda status: status["dead_letters"]["count"] == 130)
        await look(browser, relay)
        await browser.until_text("#letters-said", "The oldest 20 shown")
        await browser.run("document.querySelector('#letters-reason').value = 'refused'")
        await browser.click("#letters-filter button")
        await browser.until_text("#requeue-all", "Requeue all that are found")

        await browser.click("#requeue-all")

        await browser.until_text("#letters-said", "130 of 130 requeued")
        status = await relay.until(lambda status: status["dead_letters"]["count"] == 130)
        assert status["ledger"]["requeued"] == 130

    async def test_what_was_done_stays_said_however_late_the_list_comes(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await look_at_dead(browser, relay, sandbox, 3)
        await browser.run(HELD_LISTS)

        await browser.click("#letters-list .acts button.grave")
        await browser.click("#confirm-yes")
        await browser.until("held.length === 1")
        await browser.until_text("#dead-count", "2")
        await browser.run("return held.shift()()")

        assert await browser.text("#letters-said") == "1 of 1 discarded."
        assert await browser.run("return held.length") == 0, "asked for it once more"
        assert await browser.run(f"return {ROWS}") == 2

    async def test_a_list_asked_for_twice_is_shown_once(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await look_at_dead(browser, relay, sandbox, 3)
        await browser.run(HELD_LISTS)

        await browser.click("#letters-filter button")
        await browser.type("#letters-search", "BOX-2" + ENTER)
        await browser.until("held.length === 2")
        assert await browser.run("return held.map((each) => each.signal.aborted)") == [True, False]
        await browser.run("return held.pop()()")
        await browser.run("return held.pop()()")

        assert await browser.text("#letters-said") == "1 found."
        assert await browser.run(f"return {ROWS}") == 1

    async def test_buttons_mean_what_is_shown_and_not_what_is_being_typed(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await look_at_dead(browser, relay, sandbox, 3)
        await browser.type("#letters-search", "BOX-2" + ENTER)
        await browser.until_text("#letters-said", "1 found")

        await browser.run("document.querySelector('#letters-search').value = ''")
        await browser.click("#discard-all")
        await browser.until("document.querySelector('#confirm').open")
        assert await browser.text("#confirm-words") == "Discard this event? Nobody can bring it back."
        await browser.click("#confirm-yes")

        await browser.until_text("#letters-said", "1 of 1 discarded")
        assert (await relay.status())["dead_letters"]["count"] == 2
        assert await browser.run(f"return {ROWS}") == 0, "of the search that was submitted"

    async def test_more_are_of_the_search_that_is_shown(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await give_up(relay, sandbox, 22)
        await look(browser, relay)
        await browser.until_text("#letters-said", "The oldest 20 shown")

        await browser.type("#letters-search", "BOX-2")
        await browser.click("#letters-more")

        await browser.until_text("#letters-said", "22 shown")
        assert await browser.text("#discard-all") == "Discard all"

    async def test_all_wait_for_the_list_of_a_search_just_submitted(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await look_at_dead(browser, relay, sandbox, 3)
        await browser.run(HELD_LISTS)

        await browser.type("#letters-search", "BOX-2" + ENTER)
        await browser.until("held.length === 1")
        disabled = "['requeue-all', 'discard-all'].map((id) => document.getElementById(id).disabled)"
        assert await browser.run(f"return [{ROWS}, ...{disabled}]") == [3, True, True]
        await browser.run("return held.shift()()")

        assert await browser.run(f"return [{ROWS}, ...{disabled}]") == [1, False, False]

    async def test_one_move_at_a_time_from_the_button_on(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await look_at_dead(browser, relay, sandbox, 3)
        await browser.run(HELD_LISTS)

        for button in ("#discard-all", "#discard-all", "#requeue-all", "#letters-list .acts button"):
            await browser.click(button, when_ready=False)
        assert await browser.run("return held.length") == 1
        assert await browser.text("#letters-said") == "Looking for all of them …"
        await browser.run("return held.shift()()")
        await browser.until("document.querySelector('#confirm').open")
        await browser.click("#confirm-yes")
        await browser.until("held.length === 1")
        await browser.run("return held.shift()()")

        assert await browser.text("#letters-said") == "3 of 3 discarded."
        ledger = (await relay.status())["ledger"]
        assert ledger["requeued"] == 0
        assert await browser.run("return held.length") == 0

    async def test_after_a_no_everything_is_as_before(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await look_at_dead(browser, relay, sandbox, 2)

        for _ in range(2):
            await browser.click("#discard-all")
            await browser.until("document.querySelector('#confirm').open")
            await browser.press(ENTER)
            await browser.until_text("#letters-said", "Nothing was discarded.")
            assert await browser.run("return document.activeElement.id") == "discard-all"
        assert (await relay.status())["dead_letters"]["count"] == 2

    async def test_a_list_on_its_way_is_not_asked_for_again_by_each_change(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await look_at_dead(browser, relay, sandbox, 3)
        await browser.run(HELD_LISTS)

        await one_more(browser, relay, 4)
        await browser.until("held.length === 1")
        await one_more(browser, relay, 5)
        assert await browser.run(f"return [held.length, {ROWS}]") == [1, 3], "what is shown stays"
        await browser.run("return held.shift()()")

        assert await browser.run(f"return [held.length, {ROWS}]") == [1, 5], "once more for the change meanwhile"
        await browser.run("return held.shift()()")
        assert await browser.run(f"return [held.length, {ROWS}]") == [0, 5]

    async def test_who_began_to_choose_while_the_list_was_on_its_way_is_told_instead(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await look_at_dead(browser, relay, sandbox, 2)
        await browser.run(HELD_LISTS)

        await one_more(browser, relay, 3)
        await browser.until("held.length === 1")
        await browser.click("#letters-list input")
        await browser.run("return held.shift()()")

        assert await browser.text("#letters-news") == "There are 3 now."
        assert await browser.run(f"return [{ROWS}, document.querySelector('#letters-list input').checked]") == [2, True]

    async def test_a_list_that_failed_comes_by_itself(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await look_at_dead(browser, relay, sandbox, 3)
        await browser.run(LOST, "dead-letters?")

        await one_more(browser, relay, 4)
        await browser.until_text("#letters-said", "does not answer")
        assert await browser.run(f"return {ROWS}") == 3
        await browser.run("lost = ''")
        await browser.until_text("#letters-said", "4 shown")

        await browser.run("lost = 'dead-letters?'")
        await browser.type("#letters-search", "BOX-2" + ENTER)
        await browser.until_text("#letters-said", "does not answer")
        await browser.run("lost = ''")
        await browser.until_text("#letters-said", "1 found")

    async def test_a_change_while_the_page_asks_back_is_told_afterwards(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await look_at_dead(browser, relay, sandbox, 2)

        await browser.click("#letters-list .acts button.grave")
        await browser.until("document.querySelector('#confirm').open")
        await one_more(browser, relay, 3)
        await browser.click("#confirm-no")

        await browser.until_text("#letters-news", "There are 3 now.")

    async def test_what_was_moved_and_that_the_list_failed_are_both_said(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await look_at_dead(browser, relay, sandbox, 3)
        await browser.run(LOST, "dead-letters?")

        await browser.click("#letters-list .acts button.grave")
        await browser.click("#confirm-yes")

        await browser.until_text("#letters-said", "1 of 1 discarded. The relay does not answer.")
        await browser.run("lost = ''")
        await browser.until(f"{ROWS} === 2")
        assert await browser.text("#letters-said") == "1 of 1 discarded."

    async def test_a_move_without_an_answer_is_not_told_as_one_that_moved_none(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await look_at_dead(browser, relay, sandbox, 3)
        await browser.run(LOST, "dead-letters/discard")

        await browser.click("#letters-list .acts button.grave")
        await browser.click("#confirm-yes")
        await browser.until(f"{ROWS} === 2")
        assert await browser.text("#letters-said") == (
            "It is not known whether it was discarded. The relay does not answer."
        )
        await browser.click("#discard-all")
        await browser.click("#confirm-yes")
        await browser.until(f"{ROWS} === 0")
        assert await browser.text("#letters-said") == (
            "It is not known how many of 2 were discarded. The relay does not answer."
        )

    async def tab_to(self, browser: Browser, pattern: str, *, back: bool = False) -> None:
        """Press Tab until what has such a name has the focus; whatever has it on the way must show it."""
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

    async def test_bodies_and_changes_need_the_token_and_figures_do_not(
        self, browser: Browser, relay: RelayProcess, sandbox: Sandbox
    ) -> None:
        await give_up(relay, sandbox, 1)
        await look(browser, relay)
        await browser.until_text("#dead-count", "1")
        await browser.until("!document.querySelector('#token-form').hidden")
        assert await browser.run(f"return {ROWS}") == 0

        await browser.type("#token", "wrong" + ENTER)
        await browser.until_text("#letters-said", "ops.token_file")
        await browser.type("#token", TOKEN + ENTER)

        await browser.until(f"{ROWS} === 1")
        assert not await browser.run("return document.querySelector('#token-form').checkVisibility()")
        await browser.click("#flush")
        await browser.until_text("#flush-said", "Asked to send")
        kept = await browser.run(
            "return JSON.stringify([localStorage, sessionStorage, document.cookie, document.documentElement.outerHTML])"
        )
        assert TOKEN not in kept


async def test_a_page_of_another_site_can_neither_read_nor_change(
    browser: Browser, relay: RelayProcess, sandbox: Sandbox
) -> None:
    """An operator's browser on the relay's machine is a loopback peer: only the guard stands between."""
    await give_up(relay, sandbox, 1)
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
    """On any screen, in both schemes, with eyes or ears."""

    @pytest.fixture
    async def busy(self, browser: Browser, relay: RelayProcess, sandbox: Sandbox) -> Browser:
        """A page with something in every part of it."""
        await give_up(relay, sandbox, 2)
        sandbox.faults.add(Misbehaviour(answer=503, when="box-9"))
        await relay.post(event(1, "box-9-with-a-name-that-is-very-long-and-has-no-place-to-break-" + "x" * 60))
        await relay.until(lambda status: status["upstreams"][0]["last_error"] != "")
        await look(browser, relay)
        await browser.until(f"{ROWS} === 2")
        await browser.until("document.querySelectorAll('.plot .curve').length === 3")
        await browser.until("document.querySelector('#device-rows').children.length")
        await browser.run("for (const each of document.querySelectorAll('details')) each.open = true")
        return browser

    async def test_fits_every_screen_without_scrolling_sideways(self, busy: Browser) -> None:
        for name, (width, height, scale) in SIZES.items():
            await busy.screen(width, height, scale)
            assert await busy.run(TOO_WIDE, width) == [], name
            await busy.picture(f"page-{name.replace(' ', '-').replace('%', 'percent')}")
        await busy.run("document.documentElement.style.fontSize = '200%'")
        assert await busy.run(TOO_WIDE, width) == [], "text alone at 200 %"

    async def test_every_text_stands_out_from_what_is_behind_it(self, busy: Browser) -> None:
        """WCAG 2.2, 1.4.3 (text: 4.5) and 1.4.11 (controls and curves: 3)."""
        backs = set()
        for scheme in ("light", "dark"):
            await busy.scheme(scheme)
            await busy.picture(f"page-{scheme}")

            measured = await busy.run(CONTRASTS)

            assert len(measured) > 60
            assert [each for each in measured if each["contrast"] < each["least"]] == []
            backs.add(await busy.run("return getComputedStyle(document.body).backgroundColor"))
        assert len(backs) == 2

    async def test_a_screen_reader_hears_a_name_for_everything_in_order(self, busy: Browser) -> None:
        tree = await busy.devtools("Accessibility.getFullAXTree")
        nodes = [node for node in tree["nodes"] if not node.get("ignored")]
        roles: dict[str, list[str]] = {}
        for node in nodes:
            roles.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))

        for role in (
            "button",
            "link",
            "checkbox",
            "textbox",
            "searchbox",
            "combobox",
            "image",
            "region",
            "meter",
            "table",
        ):
            assert "" not in roles.get(role, []), f"a {role} without a name: {roles[role]}"
        assert len(roles["main"]) == len(roles["banner"]) == len(roles["contentinfo"]) == 1
        assert len(roles["image"]) == 4
        assert len(roles["columnheader"]) == 8
        assert "status" in roles
        found = await busy.run(NAMES)

        assert found["levels"][0] == 1
        assert all(after - before <= 1 for before, after in zip(found["levels"], found["levels"][1:], strict=False))
        assert found["doubles"] == []
        assert found["dangling"] == []
        assert found["language"] == "en"

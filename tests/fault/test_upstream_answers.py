"""Answers of an upstream from hell: each kept to by the state, the pace and the ledger, and healed from."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.fault.apps import (
    WINDOW_MS,
    all_settled,
    balanced,
    dead_ids,
    flush,
    has_inserted_time,
    held_to_promises,
    state,
)
from tests.fault.sizes import some
from tests.fault.trouble import DEVICES, EACH, arrives_all_the_same, relay_and_apps, suffers_and_heals

POISONED = has_inserted_time(2, "device-01")["event_id"]


@pytest.mark.parametrize("answer", some([204, 200], [201, 202, "202_empty"]))
async def test_a_yes_of_any_shape(sandbox: Sandbox, tmp_path: Path, answer: int | str) -> None:
    """A framework's update: the API says yes with another status, or without a body."""
    await arrives_all_the_same(sandbox, tmp_path, Misbehaviour(answer=answer))


async def test_an_upstream_that_fails(sandbox: Sandbox, tmp_path: Path) -> None:
    """A deployment, a full queue, a dead origin behind a CDN: JSON or HTML, it backs off and comes back by itself."""
    statuses = some(
        [408, 500, 503, 524, "202_success_false"],
        [425, 499, 502, 504, 507, 520, 521, 522, 523, 525, 526, 527, 530],
    )
    await suffers_and_heals(sandbox, tmp_path, "backing_off", *(Misbehaviour(answer=status) for status in statuses))


async def test_a_key_that_is_not_taken(sandbox: Sandbox, tmp_path: Path) -> None:
    """A key rotated too early, a firewall or a captive portal in between: held, not given up."""
    answers = some([401, "403_html"], [403, 407, "401_html"])
    await suffers_and_heals(sandbox, tmp_path, "unauthorized", *(Misbehaviour(answer=answer) for answer in answers))


async def test_a_url_that_is_wrong(sandbox: Sandbox, tmp_path: Path) -> None:
    """The route is gone, a hotel's portal redirects or responds 200 in the API's place: all events stay."""
    statuses = some(
        [302, 304, 404, 419, "202_html"],
        [301, 303, 307, 308, 402, 405, 406, 409, 410, 415, 421, 426, 431, 451, 501, 511],
    )
    await suffers_and_heals(sandbox, tmp_path, "misconfigured", *(Misbehaviour(answer=status) for status in statuses))


@pytest.mark.parametrize("answer", some([414], [416]))
async def test_a_refusal_of_everybody_that_is_not_about_events(sandbox: Sandbox, tmp_path: Path, answer: int) -> None:
    """A proxy that rejects every request: after three lone events the endpoint is what is wrong."""
    sandbox.faults.add(Misbehaviour(answer=answer))
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await relay.until(lambda status: state(status) == "misconfigured")
        before = sandbox.report().requests
        await asyncio.sleep(0.5)
        assert sandbox.report().requests - before <= DEVICES
        # what was under way when the route was found wrong may have been given up since
        dead = (await relay.status())["ledger"]["dead_lettered"]
        assert dead <= 3
        sandbox.faults.heal()
        await flush(relay)
        await all_settled(relay, sandbox, fleet, dead=dead)


@pytest.mark.parametrize(
    "answer",
    some(
        [422, "422_events", "422_list", 400],
        ["422_unnamed", "422_wildcard", "422_out_of_range", "422_translated", "422_thousand"],
    ),
)
async def test_one_event_refused(sandbox: Sandbox, tmp_path: Path, answer: int | str) -> None:
    """An app's new version sends what the API does not take: that event alone is given up, in whatever words."""
    sandbox.faults.add(Misbehaviour(answer=answer, when=POISONED))
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await all_settled(relay, sandbox, fleet, dead=1)
        assert await dead_ids(relay) == {POISONED}


async def test_a_wrong_event_named_costs_what_was_named_and_no_more(sandbox: Sandbox, tmp_path: Path) -> None:
    """A validator that counts from one: what it names is believed, and everything is accounted for."""
    sandbox.faults.add(Misbehaviour(answer="422_wrong_index", when=POISONED))
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        status = await relay.until(lambda status: status["ledger"]["pending"] == 0)
        assert balanced(status)
        dead = await dead_ids(relay)
        assert POISONED in dead
        held_to_promises(sandbox, fleet, dead=dead)
        assert len(sandbox.record.delivered()) == DEVICES * EACH - len(dead)


async def test_an_event_that_brings_the_upstream_down_delays_nobody_else(sandbox: Sandbox, tmp_path: Path) -> None:
    """One event the database behind the API chokes on: 500 for every batch it is in. The others go on (G6)."""
    sandbox.faults.add(Misbehaviour(answer=500, when=POISONED))
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        # what is before it in its own lane, and all of the others' lanes
        await relay.until(lambda status: status["ledger"]["delivered"] == DEVICES * EACH - 3)
        await fleet.send(2)
        await relay.until(lambda status: status["ledger"]["delivered"] == DEVICES * EACH - 3 + 2 * (DEVICES - 1))
        sandbox.faults.heal()
        await all_settled(relay, sandbox, fleet)


@pytest.mark.parametrize("too_large", ["nginx", "laravel", "reset"])
async def test_a_limit_on_bodies_nobody_was_told_of(sandbox: Sandbox, tmp_path: Path, too_large: str) -> None:
    """client_max_body_size behind a new proxy: 413 before or after the body, or a reset. Halved until it fits."""
    sandbox.change(max_body_bytes=1_200, too_large=too_large)
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await all_settled(relay, sandbox, fleet)


@pytest.mark.parametrize(
    "fault",
    some(
        [
            Misbehaviour(answer=429),
            Misbehaviour(answer=429, headers={"Retry-After": "0"}),
            Misbehaviour(answer="429_cloudflare", headers={"Retry-After": "soon"}),
        ],
        [
            Misbehaviour(answer="429_html"),
            Misbehaviour(answer=429, headers={"Retry-After": "1"}),
            Misbehaviour(answer=429, headers={"Retry-After": "-1"}),
            Misbehaviour(answer=429, headers={"X-RateLimit-Limit": "0"}),
        ],
    ),
    ids=lambda fault: f"{fault.answer} {fault.headers}",
)
async def test_too_many_requests_though_there_were_few(sandbox: Sandbox, tmp_path: Path, fault: Misbehaviour) -> None:
    """A neighbour behind the same address used it up, a CDN's rule met us: whatever Retry-After says, or does not."""
    sandbox.change(announce_limits=False)
    await suffers_and_heals(sandbox, tmp_path, "rate_limited", fault)


@pytest.mark.parametrize(
    "fault",
    [
        Misbehaviour(answer=429, headers={"Retry-After": "1000000000"}),
        Misbehaviour(answer=429, retry_after_date_s=86_400),
        Misbehaviour(answer=503, headers={"Retry-After": "1000000000"}),
    ],
    ids=["429-seconds", "429-date", "503-seconds"],
)
async def test_a_wish_for_years_is_obeyed_for_an_hour_at_most(
    sandbox: Sandbox, tmp_path: Path, fault: Misbehaviour
) -> None:
    """A limiter with a broken clock: no request meanwhile, nothing lost, and the status says until when."""
    sandbox.change(announce_limits=False)
    sandbox.faults.add(fault)
    async with relay_and_apps(sandbox, tmp_path) as (relay, _):
        status = await relay.until(lambda status: state(status) in ("rate_limited", "backing_off"))
        before = sandbox.report().requests
        await asyncio.sleep(0.5)
        assert sandbox.report().requests - before <= DEVICES
        assert status["ledger"]["pending"] == DEVICES * EACH
        assert within_the_hour(status["upstreams"][0]["next_attempt_at"], status["started_at"])


def within_the_hour(next_attempt_at: str, started_at: str) -> bool:
    wait = datetime.fromisoformat(next_attempt_at) - datetime.fromisoformat(started_at)
    return timedelta(minutes=50) < wait < timedelta(minutes=62)


async def test_maintenance_is_waited_for_as_long_as_it_says(sandbox: Sandbox, tmp_path: Path) -> None:
    """503 with Retry-After: 1, as `artisan down --retry` gives it: the next request comes a second later."""
    sandbox.faults.add(Misbehaviour(answer=503, headers={"Retry-After": "1"}))
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await sandbox.until(lambda record: sum(1 for _ in record.requests()) >= DEVICES + 2)
        arrivals = [request.at_ms for request in sandbox.record.requests()]
        probes = arrivals[DEVICES:]
        assert all(later - earlier >= 1_000 for earlier, later in pairwise(probes))
        sandbox.faults.heal()
        await all_settled(relay, sandbox, fleet)


async def test_a_slow_recovery_is_no_setback(sandbox: Sandbox, tmp_path: Path) -> None:
    """After an outage half the answers are still 503, for a while: everything drains, in order, within the limits."""
    sandbox.faults.add(Misbehaviour(answer=503, count=5), Misbehaviour(answer=503, share=0.5, for_ms=2 * WINDOW_MS))
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        async with fleet.sending():
            await fleet.until(kept=100)
        await all_settled(relay, sandbox, fleet)


async def test_an_upstream_that_stores_twice_is_given_no_more_than_was_in_flight(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """No dedupe over there, and every third answer lost after the commit: only what was in doubt is sent again (G3)."""
    sandbox.change(dedupe=False)
    sandbox.faults.add(*(Misbehaviour(action="reset_after_commit", skip=3 * n, count=1) for n in range(5)))
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await all_settled(relay, sandbox, fleet, repeats=5)


async def test_every_request_asks_for_json(sandbox: Sandbox, tmp_path: Path) -> None:
    """Without `Accept: application/json` the upstream's framework answers faults with redirects to a login page."""
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await all_settled(relay, sandbox, fleet)
    asked: set[Any] = {kept.headers.get("accept") for kept in sandbox.record.kept}
    assert asked == {"application/json"}
    assert all(json.loads(kept.body)["events"] for kept in sandbox.record.kept)

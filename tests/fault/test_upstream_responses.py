"""Unusual and failing responses of an upstream: state, request rate, ledger and recovery."""

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

from tests.e2e.harness import PATIENCE_S
from tests.fault.apps import (
    WINDOW_MS,
    all_settled,
    dead_ids,
    flush,
    state,
    timed_event,
)
from tests.fault.faster import faster
from tests.fault.sizes import some
from tests.fault.trouble import DEVICES, EACH, check_delivery, check_recovery, relay_and_apps

POISONED = timed_event(2, "device-01")["event_id"]


@pytest.mark.parametrize("response", some([204, 200], [201, 202, "202_empty"]))
async def test_every_form_of_success(sandbox: Sandbox, tmp_path: Path, response: int | str) -> None:
    """An update of the framework may change the status of a success, or omit its body."""
    await check_delivery(sandbox, tmp_path, Misbehaviour(answer=response))


async def test_an_upstream_that_fails(sandbox: Sandbox, tmp_path: Path) -> None:
    """A deployment, a full queue, or a dead server behind a CDN, in JSON or HTML: the relay backs off and recovers."""
    statuses = some(
        [408, 500, 503, 524, "202_success_false"],
        [425, 499, 502, 504, 507, 520, 521, 522, 523, 525, 526, 527, 530],
    )
    await check_recovery(sandbox, tmp_path, "backing_off", *(Misbehaviour(answer=status) for status in statuses))


async def test_a_rejected_key(sandbox: Sandbox, tmp_path: Path) -> None:
    """A key rotated too early, a firewall or a captive portal: the endpoint pauses, and all events stay."""
    responses = some([401, "403_html"], [403, 407, "401_html"])
    await check_recovery(sandbox, tmp_path, "unauthorized", *(Misbehaviour(answer=response) for response in responses))


async def test_a_wrong_url(sandbox: Sandbox, tmp_path: Path) -> None:
    """A missing path, or a hotel's portal that redirects or responds 200 in the API's place: all events stay."""
    statuses = some(
        [302, 304, 404, 419, "202_html"],
        [301, 303, 307, 308, 402, 405, 406, 409, 410, 415, 421, 426, 431, 451, 501, 511],
    )
    await check_recovery(sandbox, tmp_path, "misconfigured", *(Misbehaviour(answer=status) for status in statuses))


@pytest.mark.parametrize("response", some([414], [416]))
async def test_a_rejection_of_every_request_is_misconfigured(sandbox: Sandbox, tmp_path: Path, response: int) -> None:
    """After three rejected requests of one event each, the relay suspects the endpoint, not the events."""
    sandbox.faults.add(Misbehaviour(answer=response))
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await relay.until(lambda status: state(status) == "misconfigured")
        before = sandbox.report().requests
        await asyncio.sleep(0.5)
        assert sandbox.report().requests - before <= DEVICES
        # Requests in flight at the change of the state may have dead-lettered further events.
        dead = (await relay.status())["ledger"]["dead_lettered"]
        assert dead <= 3
        sandbox.faults.heal()
        await flush(relay)
        await all_settled(relay, sandbox, fleet, dead=dead)


@pytest.mark.parametrize(
    "response",
    some(
        [422, "422_events", "422_list", 400],
        ["422_unnamed", "422_wildcard", "422_out_of_range", "422_translated", "422_thousand"],
    ),
)
async def test_one_rejected_event(sandbox: Sandbox, tmp_path: Path, response: int | str) -> None:
    """The relay dead-letters only the rejected event, whatever the form of the response."""
    sandbox.faults.add(Misbehaviour(answer=response, when=POISONED))
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await all_settled(relay, sandbox, fleet, dead=1)
        assert await dead_ids(relay) == {POISONED}


async def test_a_wrong_index_dead_letters_only_the_bad_event(sandbox: Sandbox, tmp_path: Path) -> None:
    """A validator that counts from 1 names a valid event."""
    sandbox.faults.add(Misbehaviour(answer="422_wrong_index", when=POISONED))
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await all_settled(relay, sandbox, fleet, dead=1)
        assert await dead_ids(relay) == {POISONED}


async def test_a_poison_event_delays_no_other_device(sandbox: Sandbox, tmp_path: Path) -> None:
    """The upstream responds 500 to every batch with this event. The events of other devices are delivered (G6)."""
    sandbox.faults.add(Misbehaviour(answer=500, when=POISONED))
    async with relay_and_apps(sandbox, tmp_path, *faster(ISOLATION_MS=1_000)) as (relay, fleet):
        # Delivered: the events before it in its device queue, and all events of the other devices.
        await relay.until(lambda status: status["ledger"]["delivered"] == DEVICES * EACH - 3)
        await fleet.send(2)
        await relay.until(lambda status: status["ledger"]["delivered"] == DEVICES * EACH - 3 + 2 * (DEVICES - 1))
        sandbox.faults.heal()
        await all_settled(relay, sandbox, fleet)


@pytest.mark.parametrize("too_large", ["nginx", "laravel", "reset"])
async def test_an_undocumented_body_limit(sandbox: Sandbox, tmp_path: Path, too_large: str) -> None:
    """A proxy limits bodies with a 413 before or after the body, or a reset: batches are halved until they fit."""
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
async def test_a_429_below_the_known_limit(sandbox: Sandbox, tmp_path: Path, fault: Misbehaviour) -> None:
    """Another client behind the same address used up the limit, or a CDN limits requests, with any Retry-After."""
    sandbox.change(announce_limits=False)
    await check_recovery(sandbox, tmp_path, "rate_limited", fault)


@pytest.mark.parametrize(
    "fault",
    [
        Misbehaviour(answer=429, headers={"Retry-After": "1000000000"}),
        Misbehaviour(answer=429, retry_after_date_s=86_400),
        Misbehaviour(answer=503, headers={"Retry-After": "1000000000"}),
    ],
    ids=["429-seconds", "429-date", "503-seconds"],
)
async def test_retry_after_is_followed_for_at_most_an_hour(
    sandbox: Sandbox, tmp_path: Path, fault: Misbehaviour
) -> None:
    """The relay sends no request during the pause, loses nothing, and reports the end of the pause in its status."""
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
    return timedelta(minutes=50) < wait < timedelta(minutes=67)


async def test_retry_after_of_a_503_is_followed(sandbox: Sandbox, tmp_path: Path) -> None:
    """A 503 with Retry-After: 1, as from `artisan down --retry`: the next request is sent after a second or later."""
    sandbox.faults.add(Misbehaviour(answer=503, headers={"Retry-After": "1"}))
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await sandbox.until(lambda record: sum(1 for _ in record.requests()) >= DEVICES + 2)
        arrivals = [request.at_ms for request in sandbox.record.requests()]
        probes = arrivals[DEVICES:]
        assert all(later - earlier >= 1_000 for earlier, later in pairwise(probes))
        sandbox.faults.heal()
        await all_settled(relay, sandbox, fleet)


@pytest.mark.timeout(300)
async def test_everything_drains_during_a_slow_recovery(sandbox: Sandbox, tmp_path: Path) -> None:
    """Half of the responses after an outage are still 503: all events are delivered in order and within the limits."""
    sandbox.faults.add(Misbehaviour(answer=503, count=5), Misbehaviour(answer=503, share=0.5, for_ms=2 * WINDOW_MS))
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        async with fleet.sending():
            await fleet.until(stored=100)
        # An event that failed three times is tried once a minute.
        await all_settled(relay, sandbox, fleet, patience_s=3 * PATIENCE_S)


async def test_only_events_in_flight_are_repeated_to_an_upstream_without_dedupe(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """The upstream has no dedupe, and every third response is lost: only events in doubt are repeated (G3)."""
    sandbox.change(dedupe=False)
    sandbox.faults.add(*(Misbehaviour(action="reset_after_commit", skip=3 * n, count=1) for n in range(5)))
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await all_settled(relay, sandbox, fleet, repeats=5)


async def test_every_request_accepts_json(sandbox: Sandbox, tmp_path: Path) -> None:
    """Without `Accept: application/json`, the upstream's framework redirects errors to a login page."""
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await all_settled(relay, sandbox, fleet)
    accepted_types: set[Any] = {request.headers.get("accept") for request in sandbox.record.contents}
    assert accepted_types == {"application/json"}
    assert all(json.loads(request.body)["events"] for request in sandbox.record.contents)

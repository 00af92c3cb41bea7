"""Check the relay during a fault of the upstream and after its recovery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import PATIENCE_S, RelayProcess, running
from tests.fault.apps import MAX_IN_FLIGHT, Fleet, all_settled, balanced, flush, ready, settings, state

DEVICES = 3
EACH = 5
WATCHED_S = 0.6
"""How long the tests count requests, in seconds. A busy loop makes hundreds of requests in this time."""
PACE = {"backing_off": 25, "unauthorized": DEVICES, "misconfigured": DEVICES, "rate_limited": 25}
"""Maximum number of requests in WATCHED_S, by state: one probe per 150 ms (retry.max is 300 ms here) and the
requests in flight. An endpoint that waits for an operator has only the requests in flight."""
SEARCH_PACE = 4 * DEVICES
"""The same while the API still responds to a batch without events, so that the cause may be in the events: each
device's batch again, and its parts down to one event."""
NEEDS_OPERATOR = ("unauthorized", "misconfigured")
RECOVERY_S = PATIENCE_S + 66
"""Longest time until all events are settled, in seconds. While the API responds to a batch without events, the cause
may be in the events, so that one that failed alone is tried again after up to 66 s."""


@asynccontextmanager
async def relay_and_apps(sandbox: Sandbox, tmp_path: Path, *command: str) -> AsyncIterator[tuple[RelayProcess, Fleet]]:
    """Run a relay and apps that have sent EACH events. All got a 202, whatever the state of the upstream."""
    async with relay_alone(sandbox, tmp_path, *command) as (relay, fleet):
        await fleet.send(EACH)
        yield relay, fleet


@asynccontextmanager
async def relay_alone(sandbox: Sandbox, tmp_path: Path, *command: str) -> AsyncIterator[tuple[RelayProcess, Fleet]]:
    """Run a relay that has sent no request and has no connection to the upstream."""
    fleet = Fleet(DEVICES)
    env = settings(sandbox.url, tmp_path, upstream__timeout="1s", retry__max="300ms")
    async with running(env, *command) as relay:
        fleet.address = relay.http
        yield relay, fleet


async def check_recovery(sandbox: Sandbox, tmp_path: Path, expected: str, *troubles: Misbehaviour) -> None:
    """Check each fault: the state is `expected`, nothing is lost, requests are few, and all events arrive later."""
    async with relay_alone(sandbox, tmp_path) as (relay, fleet):
        for trouble in troubles:
            try:
                await _check_recovery(sandbox, relay, fleet, expected, trouble)
            except (AssertionError, TimeoutError) as error:
                raise AssertionError(f"with {trouble}") from error


async def _check_recovery(
    sandbox: Sandbox, relay: RelayProcess, fleet: Fleet, expected: str, trouble: Misbehaviour
) -> None:
    healthy = sandbox.report().requests
    sandbox.faults.add(trouble)
    await fleet.send(EACH)
    status = await relay.until(lambda status: state(status) == expected)
    assert status["upstreams"][0]["last_error"]
    before = sandbox.report().requests
    await asyncio.sleep(WATCHED_S)
    is_searching = expected == "misconfigured" and trouble.stage == "application"
    assert sandbox.report().requests - before <= (SEARCH_PACE if is_searching else PACE[expected])
    status = await relay.status()
    assert balanced(status)
    assert await ready(relay), "the relay must accept events while the upstream fails"
    assert status["ledger"]["pending"] == DEVICES * EACH
    await fleet.send(1)
    faulted = sandbox.report().requests
    sandbox.faults.heal()
    if expected in NEEDS_OPERATOR:
        await flush(relay)
    allowed = faulted - healthy + MAX_IN_FLIGHT
    fleet.explained_repeats += allowed
    await all_settled(
        relay,
        sandbox,
        fleet,
        repeats=fleet.explained_repeats,
        limited=fleet.explained_repeats,
        states=("ok", "rate_limited"),
        patience_s=RECOVERY_S,
    )


async def check_delivery(sandbox: Sandbox, tmp_path: Path, *faults: Misbehaviour, repeats: int = 0) -> None:
    """Check that the relay delivers all events through these faults, which do not end."""
    sandbox.faults.add(*faults)
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await all_settled(relay, sandbox, fleet, repeats=repeats)

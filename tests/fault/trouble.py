"""One trouble of the upstream, from its beginning until it heals: what the relay must do in any of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import RelayProcess, running
from tests.fault.apps import MAX_IN_FLIGHT, Fleet, all_settled, balanced, flush, ready, settings, state

DEVICES = 3
EACH = 5
WATCHED_S = 0.6
"""How long the pace is watched, in which a hot loop makes hundreds of requests."""
PACE = {"backing_off": 25, "unauthorized": DEVICES, "misconfigured": DEVICES, "rate_limited": 25}
"""Most requests in that time: a probe per 150 ms (retry.max is 300 ms here) and what was under way; to a route that
a person has to mend, only the latter."""
HELD = ("unauthorized", "misconfigured")


@asynccontextmanager
async def relay_and_apps(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[tuple[RelayProcess, Fleet]]:
    """The apps have sent EACH events, and all were answered 202: the upstream has no say in that."""
    async with relay_alone(sandbox, tmp_path) as (relay, fleet):
        await fleet.send(EACH)
        yield relay, fleet


@asynccontextmanager
async def relay_alone(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[tuple[RelayProcess, Fleet]]:
    """It has sent nothing yet, and has no connection."""
    fleet = Fleet(DEVICES)
    async with running(settings(sandbox.url, tmp_path, upstream__timeout="1s", retry__max="300ms")) as relay:
        fleet.address = relay.http
        yield relay, fleet


async def suffers_and_heals(sandbox: Sandbox, tmp_path: Path, expected: str, *troubles: Misbehaviour) -> None:
    """One trouble after the other: the state tells it, everything is kept, the pace is bounded; healed, all arrives."""
    async with relay_alone(sandbox, tmp_path) as (relay, fleet):
        for trouble in troubles:
            try:
                await _suffers_and_heals(sandbox, relay, fleet, expected, trouble)
            except (AssertionError, TimeoutError) as error:
                raise AssertionError(f"with {trouble}") from error


async def _suffers_and_heals(
    sandbox: Sandbox, relay: RelayProcess, fleet: Fleet, expected: str, trouble: Misbehaviour
) -> None:
    healthy = sandbox.report().requests
    sandbox.faults.add(trouble)
    await fleet.send(EACH)
    status = await relay.until(lambda status: state(status) == expected)
    assert status["upstreams"][0]["last_error"]
    before = sandbox.report().requests
    await asyncio.sleep(WATCHED_S)
    assert sandbox.report().requests - before <= PACE[expected]
    status = await relay.status()
    assert balanced(status)
    assert await ready(relay), "an upstream in trouble is no reason to refuse events"
    assert status["ledger"]["pending"] == DEVICES * EACH
    await fleet.send(1)
    faulted = sandbox.report().requests
    sandbox.faults.heal()
    if expected in HELD:
        await flush(relay)
    allowed = faulted - healthy + MAX_IN_FLIGHT
    fleet.forgiven += allowed
    await all_settled(
        relay, sandbox, fleet, repeats=fleet.forgiven, limited=fleet.forgiven, states=("ok", "rate_limited")
    )


async def arrives_all_the_same(sandbox: Sandbox, tmp_path: Path, *faults: Misbehaviour, repeats: int = 0) -> None:
    """Odd, but a yes: nothing is given up, nothing is stuck though it never heals."""
    sandbox.faults.add(*faults)
    async with relay_and_apps(sandbox, tmp_path) as (relay, fleet):
        await all_settled(relay, sandbox, fleet, repeats=repeats)

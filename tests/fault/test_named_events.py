"""Rejections that name events, on the real process: wrong names, kills, and the cost for other devices."""

from __future__ import annotations

import asyncio
import json
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import msgspec
import pytest
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import RelayProcess, http, running
from tests.fault.apps import Fleet, all_settled, dead_ids, flush, settings, timed_event
from tests.fault.sizes import LONG_S, size

BAD = "video.bad"
DEVICES = 20
IP_PER_WINDOW = 20


async def test_an_upstream_that_counts_from_1(sandbox: Sandbox, tmp_path: Path) -> None:
    """One of 200 events is bad. The response names the next one."""
    bad = timed_event(77, "device-00")["event_id"]
    sandbox.faults.add(Misbehaviour(answer="422_wrong_index", when=bad))
    fleet = Fleet(1)
    async with running(settings(sandbox.url, tmp_path, batch__linger="60s")) as relay:
        fleet.address = relay.http
        await fleet.send(200)
        await flush(relay)
        await all_settled(relay, sandbox, fleet, dead=1)
        assert await dead_ids(relay) == {bad}


@pytest.mark.parametrize("commit", ["never", "before"])
async def test_a_kill_before_the_outcome_of_the_remainder(sandbox: Sandbox, tmp_path: Path, commit: str) -> None:
    """The next start sends exactly the remainder first. It is repeated only if the upstream accepted it before."""
    bad = timed_event(3, "device-00")["event_id"]
    sandbox.faults.add(Misbehaviour(answer=422, when=bad))
    is_proxys = commit == "never"  # The proxy sees the first request, too.
    sandbox.faults.add(Misbehaviour(action="silence", commit=commit, count=1, skip=int(is_proxys)))
    env, fleet = settings(sandbox.url, tmp_path, batch__linger="60s", upstream__timeout="60s"), Fleet(1)
    async with running(env) as relay:
        fleet.address = relay.http
        await fleet.send(10)
        await flush(relay)
        await relay.until(lambda _: sandbox.report().requests == 2)
        await fleet.send(1)
        ledger = (await relay.status())["ledger"]
        assert (ledger["pending"], ledger["dead_lettered"]) == (11, 0)
        await relay.kill()
    async with running(env) as relay:
        fleet.address = relay.http
        await flush(relay)
        await all_settled(relay, sandbox, fleet, dead=1, repeats=commit == "before")
        assert await dead_ids(relay) == {bad}
    named, remainder, again, *_ = (numbers(content.body) for content in sandbox.record.contents)
    assert (named, remainder, again) == ([*range(10)], *([[0, 1, 2, *range(4, 10)]] * 2))


@pytest.mark.timeout(LONG_S)
async def test_bad_events_of_many_devices_under_a_shared_limit(sandbox: Sandbox, tmp_path: Path) -> None:
    """20 devices have a bad event in each batch, beside 20 others: at most every second request is rejected."""
    sandbox.change(ip_limit="always", ip_per_window=IP_PER_WINDOW)
    sandbox.faults.add(Misbehaviour(answer=422, when=BAD))
    shaped = {"batch__mix_devices": "always", "batch__linger": "200ms", "rate__ip_per_window": str(IP_PER_WINDOW)}
    async with running(settings(sandbox.url, tmp_path, **shaped)) as relay:
        posted = await post_for(relay, seconds=size(5, 60))
        report = sandbox.report()
        await relay.until(lambda status: status["ledger"]["pending"] == 0)
        bad = {event_id for event_id, event in posted.items() if event["event_type"] == BAD}
        assert await dead_ids(relay) == bad
    rejected = report.by_status["422"]
    assert rejected <= (report.requests - report.rate_limited) / 2 + 2
    delays = delays_s(sandbox, {event_id: event["at"] for event_id, event in posted.items() if event["other"]})
    print(f"{rejected} of {report.requests} requests rejected, delay of others: {median(delays):.2f} s")


async def post_for(relay: RelayProcess, seconds: float) -> dict[str, dict[str, object]]:
    """Post batches of all devices every third of a second. Return the events by id, with the time of their post."""
    posted: dict[str, dict[str, object]] = {}
    rounds = round(3 * seconds)
    for n in range(rounds):
        for device in range(2 * DEVICES):
            is_other = device >= DEVICES
            good = timed_event(2 * n, f"device-{device}")
            bad = timed_event(2 * n + 1, f"device-{device}") | {"event_type": BAD}
            events = [good] if is_other else [good, bad]
            status, _, _ = await http(relay.http, "POST", "/v1/events", json.dumps({"events": events}).encode())
            assert status == 202
            posted |= {each["event_id"]: each | {"at": time.monotonic(), "other": is_other} for each in events}
        await asyncio.sleep(1 / 3)
    return posted


def delays_s(sandbox: Sandbox, posted_at: dict[str, object]) -> list[float]:
    """Return the delays from post to delivery, sorted."""
    arrived: dict[str, float] = {}
    for request, content in zip(sandbox.record.requests(), sandbox.record.contents, strict=True):
        if request.committed:
            for event in msgspec.json.decode(content.body)["events"]:
                arrived.setdefault(event["event_id"], request.at_ms / 1000)
    return sorted(arrived[event_id] - at for event_id, at in posted_at.items())  # type: ignore[operator]


def numbers(body: bytes) -> list[int]:
    found = [event["context"]["n"] for event in msgspec.json.decode(body)["events"]]
    assert all(a < b for a, b in pairwise(found))
    return found

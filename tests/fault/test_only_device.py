"""Bad events on a box with one device, where only a later event can show the cause, on the real process 300 times as
fast."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import RelayProcess, environment, event, running, serving
from tests.fault.apps import dead_ids
from tests.fault.faster import faster
from tests.fault.sizes import size, some

INTERVALS = {"ISOLATION_MS": 200, "_ASK_AFTER_MS": 100, "CONTENT_MS": 1_800}
EVENTS = 8
TEXT = "text that a firewall rejects"


async def offer(relay: RelayProcess, *bad: int) -> None:
    for n in range(EVENTS):
        title = TEXT if n in bad else ""
        assert await relay.post(event(n, "only") | {"context": {"n": n, "title": title}}) == 202


async def reordered(relay: RelayProcess) -> int:
    _, _, body = await relay.request("GET", "/metrics")
    found = re.search(rb"^relay_events_reordered_total (\d+)", body, re.MULTILINE)
    assert found
    return int(found[1])


def requests(sandbox: Sandbox) -> list[list[int]]:
    """Return the numbers of the events of each request, without requests without events."""
    bodies = [msgspec.json.decode(content.body) for content in sandbox.record.contents]
    return [[one["context"]["n"] for one in body["events"]] for body in bodies if body["events"]]


def settings(sandbox: Sandbox, directory: Path) -> dict[str, str]:
    return environment(sandbox.url, directory, retry__initial="10ms", rate__device_per_window="1000")


def is_settled(status: dict[str, Any]) -> bool:
    ledger = status["ledger"]
    assert ledger["accepted"] == ledger["delivered"] + ledger["dead_lettered"] + ledger["pending"]
    return ledger["accepted"] == EVENTS and ledger["pending"] == 0


@pytest.mark.parametrize(
    "fault",
    some(
        [Misbehaviour(answer="403_html", when=TEXT)],
        [
            *(Misbehaviour(answer=answer, when=TEXT) for answer in (404, 501, 302, 500)),
            Misbehaviour(answer="202_html", commit="never", when=TEXT),
            Misbehaviour(action="reset_before_commit", when=TEXT),
        ],
    ),
    ids=lambda fault: str(fault.answer or fault.action),
)
@pytest.mark.parametrize("bad", some([[2, 3]], [[0], [4], [1, 4], [1, 2, 3]]), ids=str)
async def test_everything_but_the_bad_events_is_delivered(tmp_path: Path, fault: Misbehaviour, bad: list[int]) -> None:
    async with serving(device_per_window=1000) as sandbox:
        sandbox.faults.add(fault)
        async with running(settings(sandbox, tmp_path), *faster(**INTERVALS, POISON_MS=2_000)) as relay:
            await offer(relay, *bad)
            status = await relay.until(is_settled)
            assert status["ledger"]["dead_lettered"] == len(bad)
            assert await dead_ids(relay) == {event(n, "only")["event_id"] for n in bad}
            assert await reordered(relay) == 0
        report = sandbox.report()
    assert (report.distinct, report.duplicates) == (EVENTS - len(bad), 0)


@pytest.mark.parametrize("round_", range(size(1, 10)))
@pytest.mark.parametrize("step", some(["later event in flight", "later event delivered"], ["first event in flight"]))
async def test_a_kill_during_the_search_loses_and_reorders_no_event_without_counting_it(
    tmp_path: Path, step: str, round_: int
) -> None:
    """The firewall is switched off meanwhile, so that the overtaken event is delivered."""
    async with serving(device_per_window=1000) as sandbox:
        env = settings(sandbox, tmp_path)
        command = faster(
            **INTERVALS, POISON_MS=20_000
        )  # The first event waits for the rest of it before its last attempt.
        sandbox.faults.add(Misbehaviour(answer="403_html", when=TEXT))
        if step == "later event in flight":
            sandbox.faults.add(
                Misbehaviour(action="silence", commit="before", when=event(1, "only")["event_id"], count=1)
            )
        async with running(env, *command) as relay:
            await offer(relay, 0)
            await relay.until(lambda _: [1] in requests(sandbox))
            if step != "later event in flight":
                await relay.until(lambda status: status["ledger"]["delivered"] == 1)
            if step == "first event in flight":
                sandbox.faults.heal()
                sandbox.faults.add(Misbehaviour(action="silence", commit="before", when=TEXT, count=1))
                count = requests(sandbox).count([0])
                await relay.until(lambda _: requests(sandbox).count([0]) > count)
            await relay.kill()
        sandbox.faults.heal()
        async with running(env, *command) as relay:
            status = await relay.until(is_settled)
            assert status["ledger"]["delivered"] == EVENTS
            assert await reordered(relay) == 1
        report = sandbox.report()
    assert (report.distinct, report.duplicates) == (EVENTS, int("in flight" in step))
    assert report.order_breaks == 1

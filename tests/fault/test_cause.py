"""Bad events that look like a wrong key, a wrong URL or an outage: other devices are served, and nothing is lost."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import environment, event, running
from tests.fault.sizes import LONG_S, size, some

TEXT = "text that a firewall rejects"
OLDEST_S = 15.0
HONEST = [f"honest-{i}" for i in range(3)]
ROUNDS = size(3, 60)
ROUND_S = 0.5


def bad_event(n: int, device: str) -> dict[str, Any]:
    return event(n, device) | {"context": {"n": n, "title": TEXT}}


@pytest.mark.timeout(LONG_S)
@pytest.mark.parametrize("known", some([5], [1, 20]))
@pytest.mark.parametrize(
    "fault",
    some(
        [Misbehaviour(answer="403_html", when=TEXT), Misbehaviour(answer=500, when=TEXT)],
        [
            *(Misbehaviour(answer=answer, when=TEXT) for answer in (404, 501, 302, "422_unnamed")),
            Misbehaviour(answer="202_html", commit="never", when=TEXT),
            Misbehaviour(action="reset_before_commit", when=TEXT),
        ],
    ),
    ids=lambda fault: str(fault.answer or fault.action),
)
async def test_bad_events_delay_no_other_device(
    sandbox: Sandbox, tmp_path: Path, fault: Misbehaviour, known: int
) -> None:
    """Known devices send one bad event each, and made-up devices two in a second."""
    devices = [f"known-{i}" for i in range(known)]
    async with running(environment(sandbox.url, tmp_path)) as relay:
        for device in (*HONEST, *devices):
            assert await relay.post(event(0, device)) == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == len(HONEST) + known)
        sandbox.faults.add(fault)
        for device in devices:
            assert await relay.post(bad_event(1, device)) == 202
        waited = []
        for n in range(1, ROUNDS + 1):
            await asyncio.sleep(ROUND_S)
            assert await relay.post(bad_event(0, f"made-up-{n}")) == 202
            began, delivered = time.monotonic(), len(HONEST) * (n + 1) + known
            for device in HONEST:
                assert await relay.post(event(n, device)) == 202
            status = await relay.until(lambda status: status["ledger"]["delivered"] == delivered)  # noqa: B023
            waited.append(time.monotonic() - began)
            assert status["upstreams"][0]["state"] == "ok"
        assert max(waited) <= OLDEST_S
        ledger = (await relay.status())["ledger"]
        assert ledger["accepted"] == ledger["delivered"] + ledger["dead_lettered"] + ledger["pending"]
    assert sandbox.report().distinct == ledger["delivered"]
    assert sandbox.report().duplicates == 0

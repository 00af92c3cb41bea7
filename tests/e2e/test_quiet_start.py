"""A relay to which no app sends anything tries its upstreams, and shows whether name, TLS, URL and key are right.

The relay is the real process. Only the time until the first try is shorter.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import KEY, environment, event, running

SOON = "from relay.policy import empty_batches as e; e.QUIET_MS = e.SPREAD_MS = 50; from relay.cli import main; main()"
RUN = (sys.executable, "-c", SOON, "run")


async def test_a_wrong_key_is_shown_before_the_first_event_and_a_right_one_at_once(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("wrong\n")
    env = environment(sandbox.url, tmp_path, upstream__api_key_file=str(key_file), upstream__tenants__2__api_key=KEY)
    del env["RELAY__UPSTREAM__API_KEY"]
    async with running(env, *RUN) as relay:
        status = await relay.until(lambda status: status["upstreams"][0]["state"] != "untested")
        default, _ = status["upstreams"]
        assert (default["tenant"], default["state"]) == (None, "unauthorized")
        assert "401" in default["last_error"]
        assert default["last_error_at"]
        assert default["last_delivered_at"] is None
        assert default["advice"].startswith(f"Write the right value to {key_file}.")
        summary = status["summary"]
        assert (summary["level"], summary["advice"]) == ("slow", default["advice"])
        assert "rejects the key. No events are pending there." in summary["message"]
        await relay.until(lambda status: status["upstreams"][1]["state"] == "ok")
        key_file.write_text(KEY + "\n")
        await relay.logged("a key or certificate file has changed")
        status = await relay.until(lambda status: status["summary"]["level"] == "ok")
        assert [upstream["state"] for upstream in status["upstreams"]] == ["ok", "ok"]
        assert [upstream["last_error"] for upstream in status["upstreams"]] == ["", ""]
        assert status["ledger"]["accepted"] == 0
    assert sandbox.report().requests == 3
    assert sandbox.report().distinct == 0


@pytest.mark.parametrize("answer", [502, "429_cloudflare"])
async def test_an_event_after_a_failed_try_is_sent(sandbox: Sandbox, tmp_path: Path, answer: int | str) -> None:
    sandbox.faults.add(Misbehaviour(answer=answer))

    def is_failing(status: dict[str, Any]) -> bool:
        (upstream,) = status["upstreams"]
        return bool(upstream["state"] == "backing_off" and upstream["last_error"])

    async with running(environment(sandbox.url, tmp_path), *RUN) as relay:
        status = await relay.until(is_failing)
        assert status["summary"]["level"] == "slow"
        sandbox.faults.heal()
        assert await relay.post(event(1)) == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)
        assert [upstream["state"] for upstream in (await relay.status())["upstreams"]] == ["ok"]


async def test_a_stop_does_not_wait_for_a_try(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Misbehaviour(action="silence"))
    env = environment(sandbox.url, tmp_path, shutdown__drain="60s")
    async with running(env, *RUN) as relay:
        await relay.until(lambda status: bool(sandbox.report().requests))
        relay.process.terminate()
        assert await relay.ended() == 0
        assert not [line for line in relay.log if line.get("level") == "error"]

"""`relay tail` beside a real relay: each change of an event, filters, Ctrl-C and the stop of the relay."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import KEY, PATIENCE_S, RelayProcess, environment, event, running


class TailProcess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            raw = await self.process.stdout.readline()
        assert KEY.encode() not in raw, "the key is in the output"
        found: dict[str, Any] = json.loads(raw)
        return found

    async def changes(self, count: int) -> list[tuple[str, str, str]]:
        lines = [await self.line() for _ in range(count)]
        return [(line["change"], line["event_id"], line["reason"]) for line in lines]

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()


@asynccontextmanager
async def tailing(relay: RelayProcess, env: Mapping[str, str], *options: str) -> AsyncIterator[TailProcess]:
    """Follow a relay, from a line for a rejected event on, which shows that the command is connected."""
    # Without a handler here, the command would inherit that SIGINT is ignored if a shell runs the tests in background.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", "tail", "--json", *options),
        env={**env, "RELAY__HTTP__LISTEN": relay.http},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    signal.signal(signal.SIGINT, handler)
    tail = TailProcess(process)
    try:
        if not options:
            first = asyncio.create_task(tail.line())
            while not first.done():
                await relay.request("POST", "/v1/events", b"not JSON")
                await asyncio.wait([first], timeout=0.1)
            assert first.result()["change"] == "rejected"
        yield tail
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def after_rejections(tail: TailProcess) -> dict[str, Any]:
    while (line := await tail.line())["reason"] == "malformed":
        pass
    return line


async def test_the_way_of_events_is_shown_until_the_relay_stops(sandbox: Sandbox, tmp_path: Path) -> None:
    bad = event(2, "other device")
    sandbox.faults.add(Misbehaviour(answer=422, when=bad["event_id"]))
    env = environment(sandbox.url, tmp_path)
    async with running(env) as relay, tailing(relay, env) as tail:
        assert await relay.post(event(1)) == 202
        stored = await after_rejections(tail)
        assert (stored["change"], stored["event_id"], stored["event_type"]) == (
            "stored",
            event(1)["event_id"],
            "video.play",
        )
        assert (stored["tenant"], stored["platform"]) == (1, event(1)["source"]["platform"])
        assert await tail.changes(1) == [("delivered", event(1)["event_id"], "")]
        assert await relay.post(event(1)) == 202  # A duplicate is not stored.
        assert await relay.post(bad) == 202
        assert await tail.changes(2) == [("stored", bad["event_id"], ""), ("dead_lettered", bad["event_id"], "refused")]
        invalid = {**event(3), "event_type": ""}
        assert await relay.post(invalid) == 422
        rejected = await tail.line()
        assert (rejected["change"], rejected["event_id"], rejected["reason"]) == (
            "rejected",
            invalid["event_id"],
            "invalid",
        )
        assert rejected["message"]
        relay.signal(signal.SIGTERM)
        assert await tail.ended() == 0
        assert await relay.ended() == 0


async def test_ctrl_c_ends_a_filtered_command(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(sandbox.url, tmp_path)
    async with running(env) as relay, tailing(relay, env, "--device", "wanted") as tail:
        first = asyncio.create_task(tail.line())
        n = 0
        while not first.done():
            n += 1
            assert await relay.post(event(n, "unwanted")) == 202
            assert await relay.post(event(n, "wanted")) == 202
            await asyncio.wait([first], timeout=0.1)
        assert first.result()["device_id"] == "wanted"
        tail.process.send_signal(signal.SIGINT)
        assert await tail.ended() == 0
        await relay.until(lambda status: status["ledger"]["pending"] == 0)

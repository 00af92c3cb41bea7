"""The commands that docs/run/operations.md names for twelve questions answer them, for a relay in trouble."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import command, environment, event, running
from tests.support.ports import free_port

LINES = re.findall(
    r"^- ([^?\n]+\?) ([^?\n]+)\.$", (Path(__file__).parents[2] / "docs/run/operations.md").read_text(), re.MULTILINE
)
COMMANDS = {question: re.findall(r"`relay ([^`]+)`", answer) for question, answer in LINES}
BAD, WAITING = event(1, "bad-box"), event(2, "waiting-box")
ANSWERS = {
    "Is it working, since when not, what do I do, is the clock right?": (
        r"(?s)^TROUBLE  .*  what to do: .*operators.*\nclock +[+-]\d.*backing_off since 20\d\d-\d\d-\d\dT"
    ),
    "Which upstream, which host or replica?": (
        rf"(?s)\nrelay +\S+ on {re.escape(socket.gethostname())},.*\n  http://127\.0\.0\.1:\d+/v1/events\n"
    ),
    "Where is my event?": rf"{WAITING['event_id']}: pending",
    "Why was it rejected?": r"video\.play +refused +\w+ +bad-box .*422 ",
    "How long until the outbox is full?": r"\noutbox .*; (full in|no growth measured)",
    "Which configuration is in effect?": r'batch\.linger = "100ms"  # environment RELAY__BATCH__LINGER',
}
"""What the command prints, by question. `test_tail` shows `relay tail`; the page alone shows the last hour."""


async def test_each_command_answers_its_question(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Misbehaviour(answer=422, when=BAD["event_id"]))
    env = environment(sandbox.url, tmp_path, http__listen=f"127.0.0.1:{free_port()}")
    async with running(env) as relay:
        assert await relay.post(BAD) == 202
        await relay.until(lambda status: status["ledger"]["dead_lettered"] == 1)
        sandbox.faults.add(Misbehaviour(answer=503))
        assert await relay.post(WAITING) == 202
        await relay.until(lambda status: "backing_off" in [each["state"] for each in status["upstreams"]])
        printed: dict[str, str] = {}
        for question, answer in ANSWERS.items():
            line = COMMANDS[question][0].replace("EVENT_ID", WAITING["event_id"])
            if line not in printed:
                code, printed[line], stderr = await command(env, *line.split())
                assert code == 0, stderr
            assert re.search(answer, printed[line]), (question, printed[line])
    assert COMMANDS.keys() - ANSWERS.keys() == {"Which app sends bad events?", "What was sent in the last hour?"}

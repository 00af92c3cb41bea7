"""`relay tail` prints a line for each change until the relay stops."""

from __future__ import annotations

import json

import pytest
from relay.cli import tail
from relay.http.request import BodyHandler, Request
from relay.http.response import Response, Stream, Write

from tests.unit.cli.harness import NotedRelay, call

CHANGE = {
    "at": "2026-11-28T08:00:00.000Z",
    "change": "rejected",
    "event_id": "550e8400-e29b-41d4-a716-446655440000",
    "event_type": "post.view",
    "tenant": 1,
    "platform": "tv",
    "device_id": "box\x1b[2J",
    "reason": "invalid",
    "message": "is wrong",
}
UNKNOWN = {**CHANGE, "event_id": "", "event_type": "", "tenant": None, "platform": "", "device_id": ""}
END = {"end": "the relay is stopping"}


class Tailed:
    """The lines that a relay sends to its follower, and the target of the request."""

    def __init__(self, relay: NotedRelay) -> None:
        self.lines: list[object] = []
        self.target = ""
        relay.tailed = self.handle

    def handle(self, request: Request) -> BodyHandler:
        self.target = str(request.url)

        async def send(write: Write) -> None:
            write(b"\n" + b"".join(json.dumps(line).encode() + b"\n" for line in self.lines))

        headers = (("Content-Type", "application/x-ndjson"),)
        return BodyHandler(lambda body, reply: reply(Stream(headers, send)), 1 << 20, lambda error: Response(400))


@pytest.fixture
def tailed(relay: NotedRelay) -> Tailed:
    return Tailed(relay)


def test_each_change_is_a_line_until_the_relay_stops(relay: NotedRelay, tailed: Tailed) -> None:
    tailed.lines = [CHANGE, {"skipped": 1_200}, UNKNOWN, END]
    result = call("tail", environ=relay.environ)
    assert result.stdout.splitlines() == [
        "2026-11-28T08:00:00.000Z  rejected       550e8400-e29b-41d4-a716-446655440000  post.view  "
        "1/tv/box\\x1b[2J  invalid: is wrong",
        "1,200 lines skipped, because this command was too slow",
        "2026-11-28T08:00:00.000Z  rejected       invalid: is wrong",
    ]
    assert (result.exit_code, result.stderr) == (0, "the relay is stopping\n")


def test_json_is_printed_as_received(relay: NotedRelay, tailed: Tailed) -> None:
    tailed.lines = [CHANGE, {"skipped": 1}, END]
    result = call("tail", "--json", environ=relay.environ)
    assert [json.loads(line) for line in result.stdout.splitlines()] == [CHANGE, {"skipped": 1}]


def test_device_and_type_are_sent_to_the_relay(relay: NotedRelay, tailed: Tailed) -> None:
    tailed.lines = [END]
    call("tail", "--device", "box 1", "--type", "post.view", environ=relay.environ)
    assert tailed.target == "/events/stream?device=box+1&type=post.view"


def test_a_broken_connection_is_a_failure(relay: NotedRelay, tailed: Tailed) -> None:
    tailed.lines = [CHANGE]
    result = call("tail", environ=relay.environ)
    assert result.exit_code == 1
    assert "was closed" in result.stderr


@pytest.mark.parametrize("line", [[], {"change": "stored"}, {**CHANGE, "at": 1}, {"skipped": "x"}])
def test_another_server_is_recognized(relay: NotedRelay, tailed: Tailed, line: object) -> None:
    tailed.lines = [line]
    result = call("tail", environ=relay.environ)
    assert result.exit_code == 1
    assert "is not a relay" in result.stderr


def test_too_many_followers_are_a_failure_with_the_reason(relay: NotedRelay) -> None:
    relay.live.stop()
    result = call("tail", environ=relay.environ)
    assert result.exit_code == 1
    assert "rejected the request (503): the relay is stopping" in result.stderr


def test_ctrl_c_is_a_success(relay: NotedRelay, tailed: Tailed, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    tailed.lines = [CHANGE]
    monkeypatch.setattr(tail, "_print", interrupted)
    assert call("tail", environ=relay.environ).exit_code == 0

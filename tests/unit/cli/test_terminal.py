"""Text of the relay, the upstream and other servers cannot control the terminal of any command."""

from __future__ import annotations

import json
from typing import Any

import pytest
from relay.cli import exits
from relay.cli.terminal import MAX_CHARS, printable, printable_values
from relay.policy.endpoint import SeenError
from relay.policy.overview import EndpointView

from tests.unit.cli.harness import NotedRelay, call
from tests.unit.cli.test_exchange_foreign_server import COMMANDS, foreign, framed, responding
from tests.unit.cli.test_send import Datagrams

HOSTILE = "a\x1b[2J\x07\x9b1m\u202eb\u2066c\x7f\r\nrelay: all is well"


def assert_harmless(text: str) -> None:
    assert [character for character in text if not character.isprintable() and character != "\n"] == []
    assert "\nrelay: all is well" not in text


def test_control_characters_and_bidi_marks_are_escaped() -> None:
    assert printable("a\x1b[2J\u202eb\n\x7f") == r"a\x1b[2J\u202eb\n\x7f"
    assert printable("ä 日本 '\"") == "ä 日本 '\""


def test_a_long_text_is_cut() -> None:
    assert len(printable("x" * 100_000)) == MAX_CHARS
    assert len(printable("\x1b" * 100_000, 60)) == 60
    assert printable("x" * 100_000, None) == "x" * 100_000


def test_every_text_of_a_value_is_escaped() -> None:
    assert printable_values({"a\n": ["\x1b", 1, None, {"b": "\u202e"}]}) == {
        "a\\n": ["\\x1b", 1, None, {"b": "\\u202e"}]
    }


def test_an_error_message_keeps_its_line_breaks_only() -> None:
    assert exits.CommandFailed("a\x1b[2J\nb\u202e").message == "a\\x1b[2J\nb\\u202e"


@pytest.mark.parametrize("status", ["401 Unauthorized", "422 Unprocessable", "500 Error", "503 Full"])
@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
def test_the_error_of_another_server_is_escaped_and_cut(args: list[str], status: str) -> None:
    errors = {HOSTILE: [HOSTILE + "x" * 100_000]}
    body = json.dumps({"success": False, "error": HOSTILE + "x" * 100_000, "errors": errors}, ensure_ascii=False)
    with foreign(responding(framed(body.encode(), status))) as port:
        result = call(*args, environ={"RELAY__HTTP__LISTEN": f"127.0.0.1:{port}"})

    assert result.exit_code == 1
    assert_harmless(result.output)
    assert len(result.stderr) < 4_000


def test_every_text_of_the_status_is_escaped(relay: NotedRelay) -> None:
    relay.schedule.shown_endpoints = [EndpointView(2, "unauthorized", 0, 35_000, SeenError("401", 0), 0)]
    data: dict[str, Any] = json.loads(json.dumps(relay.status.data()))
    data["version"] = data["started_at"] = data["outbox"]["problem"] = HOSTILE
    data["outbox"]["writable"] = False
    data["rejected"] = {HOSTILE: 1}
    data["ledger"][HOSTILE] = 1
    data["summary"] |= {"level": HOSTILE, "message": HOSTILE, "advice": HOSTILE}
    for upstream in data["upstreams"]:
        upstream.update(dict.fromkeys((name for name, value in upstream.items() if isinstance(value, str)), HOSTILE))
    with foreign(responding(framed(json.dumps(data, ensure_ascii=False).encode()))) as port:
        result = call("status", environ={"RELAY__HTTP__LISTEN": f"127.0.0.1:{port}"})

    assert result.exit_code == 0
    assert_harmless(result.output)
    assert r"\x1b[2J" in result.output


def test_the_error_of_a_datagram_is_escaped_and_cut() -> None:
    error = json.dumps({"error": HOSTILE + "x" * 10_000}, ensure_ascii=False).encode()
    with Datagrams(error) as datagrams:
        result = call("send", "x", "--udp", environ=datagrams.environ | {"RELAY__UDP__ACK": "true"})

    assert result.exit_code == 1
    assert_harmless(result.output)
    assert len(result.output) < 2_000

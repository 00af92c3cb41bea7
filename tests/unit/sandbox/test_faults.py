"""The script of faults selects the fault of each request."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import pytest
from relay.sandbox import connection_faults, responses
from relay.sandbox.faults import AtAccept, AtAnswer, AtHead, FaultScript, Misbehaviour
from relay.sandbox.responses import RequestEvents

from tests.unit.sandbox.harness import HandClock


@pytest.fixture
def script(clock: HandClock) -> FaultScript:
    return FaultScript(clock)


def picked(script: FaultScript, times: int, body: bytes = b"") -> list[int | str | None]:
    found = [script.pick("proxy", body) for _ in range(times)]
    return [fault.answer if fault else None for fault in found]


def test_a_fault_lasts_for_its_count_and_the_next_follows(script: FaultScript) -> None:
    script.add(Misbehaviour(answer=503, count=2), Misbehaviour(answer=502, count=1))
    assert picked(script, 4) == [503, 503, 502, None]
    assert script.live() == []


def test_a_fault_without_count_lasts_until_healed(script: FaultScript) -> None:
    script.add(Misbehaviour(answer=503))
    assert picked(script, 3) == [503, 503, 503]
    script.heal()
    assert picked(script, 1) == [None]


def test_skip_lets_requests_pass_first(script: FaultScript) -> None:
    script.add(Misbehaviour(answer=503, skip=2, count=1))
    assert picked(script, 4) == [None, None, 503, None]


def test_when_selects_requests_by_text_in_the_body(script: FaultScript) -> None:
    script.add(Misbehaviour(answer=503, when="poison", count=1))
    assert picked(script, 1, b"wine") == [None]
    assert picked(script, 1, b"the poison") == [503]


def test_for_ms_ends_a_fault(script: FaultScript, clock: HandClock) -> None:
    script.add(Misbehaviour(answer=503, for_ms=30_000))
    clock.now_ms += 29_999
    assert picked(script, 1) == [503]
    clock.now_ms += 1
    assert picked(script, 1) == [None]


def test_share_is_a_probability(script: FaultScript, clock: HandClock) -> None:
    clock.chances = [0.49, 0.5, 0.0, 0.99]
    script.add(Misbehaviour(answer=503, share=0.5))
    assert picked(script, 4) == [503, None, 503, None]


@pytest.mark.parametrize(
    ("given", "stage"),
    [
        ({"action": "reset_at_accept"}, "accept"),
        ({"action": "reset_mid_request"}, "head"),
        ({"answer": 503}, "proxy"),
        ({"answer": 524}, "proxy"),
        ({"answer": "403_html"}, "proxy"),
        ({"answer": 504, "commit": "before"}, "application"),
        ({"action": "reset_before_commit"}, "proxy"),
        ({"action": "silence"}, "proxy"),
        ({"action": "silence", "commit": "late"}, "application"),
        ({"action": "reset_after_commit"}, "application"),
        ({"answer": 422}, "application"),
        ({"answer": 401}, "proxy"),
        ({"answer": 403}, "proxy"),
        ({"answer": 403, "when": "x"}, "application"),
        ({"when": "poison"}, "application"),
    ],
)
def test_the_stage_follows_from_action_and_response(given: dict[str, Any], stage: str) -> None:
    assert Misbehaviour(**given).stage == stage


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"count": 1},
        {"answer": 99},
        {"answer": "503_mainenance"},
        {"action": "explode"},
        {"action": "reset_at_accept", "when": "x"},
        {"action": "reset_mid_request", "answer": 503},
        {"answer": 503, "commit": "late"},
        {"answer": 503, "count": 0},
        {"answer": 503, "share": 0},
        {"answer": 503, "cuont": 1},
    ],
)
def test_a_contradictory_fault_is_rejected(given: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(given), type=Misbehaviour)


def test_every_action_has_a_misbehaviour() -> None:
    assert set(connection_faults.ACTIONS) == {*get_args(AtAccept), *get_args(AtHead), *get_args(AtAnswer)}


def test_every_response_can_be_built() -> None:
    for name in (*responses.VARIANTS, *range(200, 600)):
        response = responses.make(name, RequestEvents(3, (1,)))
        assert response.status == int(str(name)[:3]), name
        if dict(response.headers).get("Content-Type") == "application/json" and name != "202_empty":
            assert json.loads(response.body), name


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        (422, ["events.1.context"]),
        ("422_wildcard", ["events.*.context"]),
        ("422_out_of_range", ["events.13.context"]),
        ("422_wrong_index", ["events.2.context"]),
        ("422_translated", ["events.1.context"]),
        ("422_events", ["events"]),
    ],
)
def test_the_paths_that_a_422_names(name: int | str, paths: list[str]) -> None:
    assert list(json.loads(responses.make(name, RequestEvents(3, (1,))).body)["errors"]) == paths


def test_unusual_422_responses() -> None:
    about = RequestEvents(3, (1,))
    assert "errors" not in json.loads(responses.make("422_unnamed", about).body)
    assert json.loads(responses.make("422_list", about).body)["errors"][0]["index"] == 1
    assert len(json.loads(responses.make("422_thousand", about).body)["errors"]) == 1000
    assert [at["index"] for at in json.loads(responses.make("202_partial", about).body)["rejected"]] == [1]

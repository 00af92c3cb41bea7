"""docs/use/errors.md lists every error response to apps, and the meaning of every status of the upstream."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from relay.policy.verdict import (
    BatchTooLarge,
    EventsRejected,
    Failing,
    Misconfigured,
    RateLimited,
    Unauthorized,
    UpstreamResponse,
    verdict,
)

ROOT = Path(__file__).parents[2]
TO_APPS, OF_UPSTREAM = (ROOT / "docs/use/errors.md").read_text().split("\n## Responses of the upstream\n")
STATES = {
    Unauthorized: "`unauthorized`",
    Misconfigured: "`misconfigured`",
    Failing: "`backing_off`",
    EventsRejected: "`ok`",
    BatchTooLarge: "`ok`",
    RateLimited: "`rate_limited`",
}


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def texts_of_the_code() -> str:
    """Return all string constants of the relay, one per line."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "relay").rglob("*.py")]
    constants = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return "\n".join(each for each in constants if isinstance(each, str))


def test_the_page_lists_exactly_the_statuses_of_the_code() -> None:
    sources = [path.read_text() for part in ("http", "ingest") for path in (ROOT / "relay" / part).rglob("*.py")]
    calls = [re.findall(r"error_response\(\s*(\d{3})", source) for source in sources]
    rejections = [re.findall(r'"\w+": (4\d\d)\b', source) for source in sources]

    listed = re.findall(r"^- \*\*(\d{3})\*\* ", TO_APPS, re.MULTILINE)

    assert set(listed) == {status for found in (*calls, *rejections) for status in found}


def test_every_quoted_error_is_a_text_of_the_code() -> None:
    known = texts_of_the_code()
    quoted = re.findall(r'"([^"]+)"', re.sub(r"`[^`]+`", "", re.sub(r"\n +", " ", TO_APPS)))

    assert len(quoted) > 20
    assert [text for text in quoted if text not in known] == []


def state_of(status: int) -> str:
    """Return the endpoint's state in the row of a status."""
    others = ""
    for responses, _, state in rows(OF_UPSTREAM):
        statuses = responses.split("; ")[0].split(":")[0]
        if str(status) in re.findall(r"\b\d{3}\b", statuses):
            return state
        if f"{status // 100}xx" in responses:
            others = state
    return others


@pytest.mark.parametrize("status", range(300, 600))
def test_the_page_gives_the_state_that_each_status_causes(status: int) -> None:
    judged = verdict(UpstreamResponse(status, {}, b'{"message": "no"}', 0), 2)

    assert STATES[type(judged)] in state_of(status)

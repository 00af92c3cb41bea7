"""docs/inside/guarantees.md names existing tests."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_named_test_exists() -> None:
    named = re.findall(r"`(tests/[^`\s:]+)(?:::(\w+))?`", (ROOT / "docs/inside/guarantees.md").read_text())
    assert len(named) > 20
    missing = [path for path, _ in named if not (ROOT / path).exists()]
    missing += [test for path, test in named if test and f"def {test}(" not in (ROOT / path).read_text()]
    assert missing == []


def test_every_promise_has_a_row() -> None:
    text = (ROOT / "docs/inside/guarantees.md").read_text()
    assert [f"G{n}" for n in range(1, 10)] == re.findall(r"^\| \*\*(G\d)\*\* \|", text, re.MULTILINE)


def test_every_fault_test_is_named() -> None:
    text = (ROOT / "docs/inside/guarantees.md").read_text()
    assert [
        path.name
        for path in sorted((ROOT / "tests/fault").glob("test_*.py"))
        if f"`tests/fault/{path.name}`" not in text
    ] == []

"""docs/run/security.md names existing tests."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_named_by_the_page_exists() -> None:
    named = set(re.findall(r"`(tests/[\w/.]+)`", (ROOT / "docs" / "run" / "security.md").read_text()))
    assert len(named) > 15
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_page_names_every_abuse_module() -> None:
    page = (ROOT / "docs" / "run" / "security.md").read_text()
    modules = [path.name for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]
    assert [name for name in modules if f"tests/abuse/{name}" not in page] == []

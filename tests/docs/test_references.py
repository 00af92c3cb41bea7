"""Pages and code name only documents of the repository, and each decision has its own number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.source import ROOT

_MARKDOWN = re.compile(r"[\w./-]*\w\.md\b")


def files() -> Iterator[Path]:
    """Yield the pages and the modules, except tests of links, which name files that do not exist."""
    yield from ROOT.glob("*.md")
    for folder in ("docs", "deploy", "relay", "bench", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".md", ".py", ".toml", ".yaml", ".yml"} and path.name not in {
                "test_docs.py",
                Path(__file__).name,
            }:
                yield path


def missing(text: str, documents: set[str]) -> list[str]:
    """Return the documents that a text names and the repository does not contain."""
    return [name for name in _MARKDOWN.findall(text) if Path(name).name not in documents]


def test_named_documents_are_in_the_repository() -> None:
    documents = {path.name for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]} | {"page.md"}
    found = {str(path.relative_to(ROOT)): names for path in files() if (names := missing(path.read_text(), documents))}
    assert found == {}


def test_a_missing_document_is_found() -> None:
    assert missing("See `../notes/plan.md` and README.md.", {"README.md"}) == ["../notes/plan.md"]


def test_each_decision_has_its_own_number() -> None:
    numbers = Counter(path.name[:4] for path in (ROOT / "docs/decisions").glob("*.md"))
    assert [number for number, count in numbers.items() if count > 1] == []

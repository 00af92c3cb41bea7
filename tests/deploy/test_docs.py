"""Links between pages: the files and headings exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from relay.cli import COMMANDS

from tests.deploy.links import anchors, links

ROOT = Path(__file__).parents[2]


def pages() -> list[Path]:
    """Return every page of the repository, except pages of dependencies."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])


def broken(page: Path) -> list[str]:
    found = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        if "://" in path or path.startswith("mailto:"):
            continue
        target = page if not path else page.parent / path
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_have_targets(page: Path) -> None:
    assert broken(page) == []


def test_every_page_is_reachable_from_the_readme() -> None:
    reached, new = set(), {ROOT / "README.md"}
    while new:
        page = new.pop()
        reached.add(page)
        for link in links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            new |= {target} if target.suffix == ".md" and target.exists() and target not in reached else set()
            if target.is_dir() and ROOT in target.parents:
                new |= set(target.glob("*.md")) - reached

    assert [str(page.relative_to(ROOT)) for page in pages() if page not in reached] == []


def test_broken_links_are_detected(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading, `code` & more\n[here](#a-heading-code--more) [no](#nowhere) [gone](gone.md) [web](https://a.example/x)\n"
        "```\n[in code](gone.md)\n# no heading\n```\n"
    )

    assert broken(page) == ["#nowhere", "gone.md"]


def test_commands_in_the_docs_exist() -> None:
    """Check every `relay COMMAND` in the pages."""
    documented = {
        (page.name, name)
        for page in pages()
        for name in re.findall(r"(?:^|[`/ ])relay ([a-z][a-z-]+)(?= |`|$)", code_of(page), re.MULTILINE)
    }

    assert {(page, name) for page, name in documented if name not in COMMANDS} == set()


def code_of(page: Path) -> str:
    """Return the code of a page: fenced shell blocks and inline code."""
    text = page.read_text()
    fenced = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    without_comments = [re.sub(r"#.*", "", block) for block in fenced]
    inline = re.findall(r"`(relay [^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return "\n".join([*without_comments, *inline])

"""docs/inside/architecture.md names existing files, functions and classes, and its levels are those of the linter."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
from relay.config.keys import KEYS

from tests.architecture.source import ROOT

PAGE = ROOT / "docs/inside/architecture.md"
_NAMES_MIN = 30
_STATES = re.compile(r"^\| [^|]+ \| ([^|]+) \| `([\w/]+\.py)` \|$", re.MULTILINE)
"""A row of the table of states: the states and their file."""


def named(text: str) -> list[str]:
    """Return the inline code of a page."""
    without_blocks = re.sub(r"^```.*?^```|^    .*?$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`]+)`", without_blocks)


def names_of(file: Path) -> set[str]:
    """Return the functions, classes and constants of a module, and the members of its classes as `Class.member`."""
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        found |= _bound(node)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for member in node.body for name in _bound(member)}
    return found


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def file_of(path: str) -> Path | None:
    """Return an existing file or folder, relative to `relay/` or to the repository."""
    return next((base / path for base in (ROOT / "relay", ROOT) if (base / path).exists()), None)


def problem(name: str, everywhere: set[str]) -> str | None:
    """Return what a name in the page does not match: a file, `file::name`, key, make target, or name of the package."""
    path, separator, inside = name.partition("::")
    if separator or "/" in name or re.search(r"\.(py|md|toml)$", name):
        found = file_of(path)
        if found is None:
            return f"{path} does not exist"
        return f"{path} does not define {inside}" if separator and inside not in names_of(found) else None
    if name.startswith("make "):
        return None if f"\n{name[5:]}:" in (ROOT / "Makefile").read_text() else f"the Makefile has no {name[5:]}"
    if any(key.name == name for key in KEYS) or name in everywhere or (ROOT / "relay" / name).is_dir():
        return None
    return f"{name} is no file, key or name of the package"


def test_every_name_in_the_page_exists() -> None:
    everywhere = {name for file in (ROOT / "relay").rglob("*.py") for name in names_of(file)} | {"__main__"}
    names = named(_STATES.sub("", PAGE.read_text()))
    assert sum("::" in name for name in names) > _NAMES_MIN
    assert [found for name in names if (found := problem(name, everywhere))] == []


@pytest.mark.parametrize(
    "name", ["policy/nowhere.py", "policy/verdict.py::nothing", "make nothing", "outbox.nothing", "NoSuchClass"]
)
def test_a_name_that_does_not_exist_is_reported(name: str) -> None:
    assert problem(name, set())


def test_the_states_are_in_their_files() -> None:
    rows = _STATES.findall(PAGE.read_text())
    assert len(rows) > 5
    for states, path in rows:
        file = file_of(path)
        assert file is not None, path
        strings = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        assert set(re.findall(r"`(\w+)`", states)) - names_of(file) - strings == set(), path


def test_the_levels_are_those_of_the_linter() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == ["relay"])
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)

    assert [sorted(layer.split(" | ")) for layer in layers] == [sorted(re.findall(r"`(\w+)`", row)) for _, row in rows]
    assert [int(level) for level, _ in rows] == list(range(len(layers), 0, -1))

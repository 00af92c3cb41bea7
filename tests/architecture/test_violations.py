"""Each deliberate violation of the architecture, applied to a copy of the tree, is reported."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.source import ROOT
from tests.architecture.violations import VIOLATIONS

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
COMMANDS = {
    "imports": [str(BIN / "lint-imports"), "--no-cache"],
    # A violation stands at the end of its module, imports included.
    "ruff": [str(BIN / "ruff"), "check", "--no-cache", "--quiet", "--ignore", "E402,I001", "relay"],
    "rules": [sys.executable, "-m", "tests.architecture.rules", "."],
}
REPORTED = {"imports": "BROKEN", "ruff": "-->", "rules": ": "}
"""A text of every report, in contrast to a linter that fails."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of the package with the configuration of the linters."""
    shutil.copytree(ROOT / "relay", tmp_path / "relay", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests/architecture", tmp_path / "tests/architecture")
    (tmp_path / "tests/__init__.py").write_text("")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def reports(tree: Path, tool: str) -> bool:
    done = subprocess.run(COMMANDS[tool], cwd=tree, check=False, capture_output=True, text=True)
    assert done.returncode == 0 or REPORTED[tool] in done.stdout, f"{tool} failed: {done.stdout}{done.stderr}"
    return done.returncode != 0


@pytest.mark.parametrize("tool", COMMANDS)
def test_nothing_is_reported_without_a_violation(tree: Path, tool: str) -> None:
    assert not reports(tree, tool)


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violation_is_reported(tree: Path, name: str) -> None:
    violation = VIOLATIONS[name]
    module = tree / "relay" / violation.module
    module.parent.mkdir(parents=True, exist_ok=True)
    module.write_text((module.read_text() if module.exists() else "") + f"\n\n{violation.code}\n")

    assert reports(tree, violation.tool)

"""The files of the release pipeline: valid, pinned, with minimal permissions, and notes from the changelog."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = [path for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]
TOOLS = ROOT / ".venv-tools" / "bin"
PINNED = re.compile(r"uses: [\w-]+/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
YAMLLINT = (
    "{extends: default, rules: {document-start: disable, truthy: {check-keys: false}, line-length: {max: 120}, "
    "comments: {min-spaces-from-content: 1}}}"
)
needs_tools = pytest.mark.skipif(not (TOOLS / "zizmor").exists(), reason="zizmor is not installed: make tools")


def run(*command: str | Path) -> str:
    """Return "" if a linter finds nothing, else its output."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def jobs(workflow: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(workflow.read_text())["jobs"]
    return found


@needs_tools
def test_zizmor_finds_no_weakness_in_the_workflows() -> None:
    pedantic = ("--offline", "--persona=pedantic", "--min-severity=low", "--quiet")
    assert run(TOOLS / "zizmor", *pedantic, GITHUB) == ""


@needs_tools
@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("custom.github-workflows-require-timeout", WORKFLOWS),
        ("vendor.github-issue-forms", FORMS),
        ("vendor.github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
        ("vendor.renovate", [GITHUB / "renovate.json"]),
    ],
)
def test_files_follow_the_schema_of_their_kind(schema: str, files: list[Path]) -> None:
    assert run(TOOLS / "check-jsonschema", "--builtin-schema", schema, *files) == ""


@needs_tools
def test_yaml_files_are_tidy() -> None:
    assert run(TOOLS / "yamllint", "--strict", "-d", YAMLLINT, GITHUB) == ""


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit(workflow: Path) -> None:
    uses = [line.strip().removeprefix("- ") for line in workflow.read_text().splitlines() if "uses:" in line]

    assert uses
    assert [line for line in uses if not PINNED.fullmatch(line)] == []


def test_only_jobs_that_publish_may_write() -> None:
    may_write = {
        name: sorted(scope for scope, access in job["permissions"].items() if access == "write")
        for workflow in WORKFLOWS
        for name, job in jobs(workflow).items()
    }

    assert [yaml.safe_load(workflow.read_text())["permissions"] for workflow in WORKFLOWS] == [{}] * len(WORKFLOWS)
    assert may_write == {
        "test": [],
        "build": [],
        "image": ["attestations", "id-token", "packages"],
        "pypi": ["id-token"],
        "github": ["attestations", "contents", "id-token"],
    }


def test_workflows_call_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {
        word
        for workflow in WORKFLOWS
        for command in re.findall(r"\bmake ([a-z ]+)$", workflow.read_text(), re.MULTILINE)
        for word in command.split()
    }

    assert called
    assert called - targets == set()


def notes(changelog: str, version: str) -> str:
    """Call `notes` of the release's script."""
    spec = importlib.util.spec_from_file_location("release_notes", ROOT / "deploy" / "release" / "notes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text: str = module.notes(changelog, version)
    return text


def test_notes_are_the_section_of_the_version() -> None:
    changelog = (
        "# Changelog\n\n## 1.1.0 (2026-12-02)\n\n- New.\n\n### Fixed\n\n- Old.\n\n## 1.0.0 (2026-12-01)\n\n- First.\n"
    )

    assert notes(changelog, "1.1.0") == "- New.\n\n### Fixed\n\n- Old.\n"
    assert notes(changelog, "1.0.0") == "- First.\n"


@pytest.mark.parametrize(
    ("heading", "message"),
    [("1.1.0 (unreleased)", 'must be "1.1.0 \\(YYYY-MM-DD\\)"'), ("1.1.01 (2026-12-02)", "no section about version")],
)
def test_a_release_needs_a_dated_section(heading: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        notes(f"## {heading}\n\n- New.\n", "1.1.0")


def test_a_tag_of_another_version_ends_the_release() -> None:
    script = [sys.executable, ROOT / "deploy" / "release" / "notes.py", "99.0.0"]
    assert "__version__ must be 99.0.0" in run(*script)

"""What is released: a wheel that works with the locked runtime dependencies and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from relay import __version__

ROOT = Path(__file__).parents[2]
SOURCES = ("relay", "pyproject.toml", "README.md", "LICENSE")
pytestmark = pytest.mark.timeout(600)
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-tools.lock")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: building leaves files beside its sources."""
    directory = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, directory / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(directory / "dist"), str(directory)], check=True, capture_output=True)
    [built] = (directory / "dist").glob("*.whl")
    return built


def test_it_holds_every_file_of_the_package(wheel: Path) -> None:
    """Modules, py.typed and the page; nothing of tests or benchmarks."""
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "relay").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert "relay/py.typed" in held
    assert held == ours


def test_it_runs_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """The locked runtime dependencies are enough, and agree with what the wheel asks for."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, capture_output=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*install, "--require-hashes", "-r", str(ROOT / "requirements.lock")], check=True)
    subprocess.run([*install, "--no-deps", str(wheel)], check=True)

    def said(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    relay = str(tmp_path / "venv" / "bin" / "relay")
    assert __version__ in said(relay, "--version")
    assert said(python, "-m", "pip", "check").strip() == "No broken requirements found."
    assert "relay/ops/page" in said(python, "-c", "import relay.service, relay.ops.server as s; print(s.PAGE)")


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_have_hashes_and_name_no_registry(lock: str) -> None:
    lines = (ROOT / lock).read_text().splitlines()
    pins = [line for line in lines if re.match(r"[a-z0-9]", line)]

    assert pins
    assert all(re.match(r"[a-z0-9_.-]+==\S+ .*\\$", pin) for pin in pins)
    assert [line for line in lines if "://" in line or line.startswith("-")] == []


def test_what_all_locks_hold_they_hold_in_one_version() -> None:
    versions = [dict(re.findall(r"^([a-z0-9_.-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE)) for lock in LOCKS]
    for other in versions[1:]:
        assert {name: other[name] for name in versions[0]} == versions[0]


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert headings[0] == __version__

"""The release: a wheel that works with only the locked runtime dependencies."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from relay import __version__
from relay.cli.config import FILES

ROOT = Path(__file__).parents[2]
SOURCES = ("relay", "pyproject.toml", "README.md", "LICENSE")
pytestmark = pytest.mark.timeout(600)
CYCLONEDX = ROOT / ".venv-tools" / "bin" / "cyclonedx-py"
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-tools.lock")
BUILD_LOCK = "requirements-build.lock"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, because the build writes files beside them."""
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


def test_the_wheel_contains_every_file_of_the_package(wheel: Path) -> None:
    """The wheel contains modules, py.typed and the page, and no tests or benchmarks."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "relay").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert "relay/py.typed" in packed
    assert {f"relay/config/{name}" for name, _ in FILES.values()} <= packed
    assert packed == ours


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel and the locked runtime dependencies in a new environment. Return its `bin` directory."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, capture_output=True)
    install = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    lock = ("--require-hashes", "-r", str(ROOT / "requirements.lock"))
    subprocess.run([*install, "--no-compile", *lock], check=True, capture_output=True)
    subprocess.run([*install, "--no-compile", "--no-deps", str(wheel)], check=True, capture_output=True)
    return environment / "bin"


def output_of(directory: Path, *command: str | Path) -> str:
    """Run a command that must succeed, and return its output."""
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_runs_with_the_locked_dependencies_alone(installed: Path, tmp_path: Path) -> None:
    """The locked runtime dependencies satisfy the requirements of the wheel."""
    python = installed / "python"
    page = "import relay.app.run_service, relay.ops.server as server; print(server.PAGE)"
    describe = (
        "from relay.openapi import DescribedValues, describe; "
        "print(*describe(DescribedValues(1, 1, 'full', set()), {'events'})['paths'])"
    )

    for command in ("relay", "event-relay"):
        assert __version__ in output_of(tmp_path, installed / command, "--version")
    assert output_of(tmp_path, python, "-m", "pip", "check").strip() == "No broken requirements found."
    assert "relay/ops/page" in output_of(tmp_path, python, "-c", page)
    assert "/v1/events" in output_of(tmp_path, python, "-c", describe)


@pytest.mark.skipif(not CYCLONEDX.exists(), reason="cyclonedx-bom is not installed: make tools")
def test_the_bill_of_materials_names_the_locked_dependencies(installed: Path, tmp_path: Path) -> None:
    """The test uses the command of `make sbom`."""
    bill = json.loads(output_of(tmp_path, CYCLONEDX, "environment", "--of", "JSON", installed / "python"))
    named = {f"{part['name'].replace('_', '-')}=={part['version']}" for part in bill["components"]}
    locked = re.findall(r"^([a-z0-9_.-]+==[^ ]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)

    assert {*locked, f"event-relay=={__version__}"} <= named


@pytest.mark.parametrize("lock", [*LOCKS, BUILD_LOCK])
def test_locks_have_hashes_and_name_no_registry(lock: str) -> None:
    lines = (ROOT / lock).read_text().splitlines()
    pins = [line for line in lines if re.match(r"[a-z0-9]", line)]

    assert pins
    assert all(re.match(r"[a-z0-9_.-]+==\S+ .*\\$", pin) for pin in pins)
    assert [line for line in lines if "://" in line or line.startswith("-")] == []


def test_all_locks_pin_the_same_versions() -> None:
    versions = [dict(re.findall(r"^([a-z0-9_.-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE)) for lock in LOCKS]
    for other in versions[1:]:
        assert {name: other[name] for name in versions[0]} == versions[0]


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert headings[0] == __version__

"""The first command on a fresh machine, `make run`, works or says what to install."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.debian import bootstrap, inside, needs_mmdebstrap

ROOT = Path(__file__).parents[2]
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
NO_PIP = "raise ImportError('as on Debian without python3-venv')\n"
OLD = "import sys\nsys.version_info = (3, 10, 4, 'final', 0)\n"


def make(directory: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run make, with a Python that first imports from `directory`."""
    shutil.copy(ROOT / "Makefile", directory)
    given = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "VIRTUAL_ENV"))}
    return subprocess.run(
        ["make", *arguments], cwd=directory, env=given | {"PYTHONPATH": str(directory)} | environ,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("module", "python", "message"),
    [
        (None, "python3.99", "python3.99 is not installed: install Python 3.11 or newer (Debian, Ubuntu: as root, "
         "apt-get install python3-venv), or name one with make PYTHON=/path/to/python"),
        (("sitecustomize.py", OLD), sys.executable, f"{sys.executable} is Python 3.10, and the relay needs 3.11 or "
         "newer: name one with make PYTHON=/path/to/python"),
        (("ensurepip.py", NO_PIP), sys.executable, f"{sys.executable} has no venv: install it (Debian, Ubuntu: as root,"
         f" apt-get install python{VERSION}-venv), then repeat this command"),
    ],
    ids=["no Python", "an old Python", "no venv"],
)  # fmt: skip
def test_a_missing_part_is_named(module: tuple[str, str] | None, python: str, message: str, tmp_path: Path) -> None:
    if module is not None:
        (tmp_path / module[0]).write_text(module[1])

    done = make(tmp_path, "run", f"PYTHON={python}")

    assert done.returncode == 2
    assert message in (done.stdout + done.stderr).splitlines()
    assert not (tmp_path / ".venv").exists()


def test_an_environment_without_pip_is_created_again(tmp_path: Path) -> None:
    """`python3 -m venv` leaves it when ensurepip is missing."""
    half = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / ".venv")]
    subprocess.run(half, check=True, timeout=100)

    done = make(tmp_path, ".venv/bin/pip", f"PYTHON={sys.executable}")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".venv/bin/pip").exists()


@needs_mmdebstrap
@pytest.mark.skipif("RELAY_NIGHTLY" not in os.environ, reason="a bare Debian takes minutes: set RELAY_NIGHTLY=1")
@pytest.mark.timeout(1200)
def test_a_bare_debian_runs_the_demo_after_one_hint(tmp_path: Path) -> None:
    """The second try finds the environment without pip that Debian's `python3 -m venv` made."""
    debian = tmp_path / "debian"
    bootstrap(debian, "make", "python3")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for file in files:
        (debian / "relay" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, debian / "relay" / file)

    def run(command: str) -> subprocess.CompletedProcess[str]:
        arguments = inside(debian, command)
        return subprocess.run(arguments, capture_output=True, text=True, timeout=600, check=False)

    first = run("cd /relay && make run")
    [hint] = re.findall(r"as root, (apt-get install python[0-9.]+-venv)\)", first.stderr)
    half_made = run("cd /relay && python3 -m venv .venv")
    installed = run(f"DEBIAN_FRONTEND=noninteractive {hint} --yes")
    if certificates := os.environ.get("PIP_CERT"):
        shutil.copy(certificates, f"{debian}{certificates}")
    with subprocess.Popen(inside(debian, "cd /relay && make run 2>&1"), stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        printed = list(itertools.takewhile(lambda line: not line.startswith("A relay is running."), demo.stdout))
        is_running = demo.poll() is None
        demo.kill()

    assert (first.returncode, half_made.returncode, installed.returncode) == (2, 1, 0), installed.stderr
    assert is_running, "".join(printed)

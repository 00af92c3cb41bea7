"""Locked dependencies are available with their hashes for other machines than Linux on amd64."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
GLIBC = ("manylinux2014", "manylinux_2_28", "manylinux_2_31")
MACOS = ("macosx_10_9", "macosx_10_13", "macosx_11_0", "macosx_12_0")
TAGS = {
    "aarch64": [f"{glibc}_aarch64" for glibc in GLIBC],
    "armv7l": [f"{glibc}_armv7l" for glibc in GLIBC],
    "macOS arm64": [f"{macos}_{cpu}" for macos in MACOS for cpu in ("arm64", "universal2")],
    "macOS x86_64": [f"{macos}_{cpu}" for macos in MACOS for cpu in ("x86_64", "universal2")],
}
"""Tags of the wheels that fit a machine."""
COMPILED = {"armv7l": {"msgspec"}}
"""Dependencies without a wheel, by machine. The first stage of the image has a compiler on armv7l."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("machine", TAGS)
def test_every_dependency_has_a_wheel_or_is_compiled(machine: str, tmp_path: Path) -> None:
    [python] = re.findall(r"^ARG PYTHON=python:([0-9.]+)-slim(?:@sha256:[0-9a-f]+)?$", DOCKERFILE, re.MULTILINE)
    wanted = {name: block for name, block in locked(machine).items() if name not in COMPILED.get(machine, ())}
    (tmp_path / "wheels.lock").write_text("\n".join(wanted.values()))
    platforms = [f"--platform={tag}" for tag in TAGS[machine]]

    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *(*platforms, f"--python-version={python}", "--only-binary=:all:", "--require-hashes"),
            *("--dest", str(tmp_path / "wheels"), "-r", str(tmp_path / "wheels.lock")),
        ],
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "wheels").glob("*.whl"))) == len(wanted)


def test_the_image_build_has_a_compiler_where_needed() -> None:
    [machine] = [machine for machine, names in COMPILED.items() if names]

    assert f'if [ "$(uname -m)" = {machine} ]; then' in DOCKERFILE
    assert COMPILED[machine] <= locked(machine).keys()


def locked(machine: str) -> dict[str, str]:
    """Return the blocks of the lock by name, without those that a marker excludes on this machine."""
    blocks = re.split(r"\n(?=\S)", LOCK.strip())
    return {block.split("==")[0]: block for block in blocks if f'platform_machine != "{machine}"' not in block}

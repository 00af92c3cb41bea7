"""Run tests with each Python at hand, and with the lowest and the newest versions of the direct dependencies.

`make matrix` prints a table. Interpreters are `python3.N` in PATH, those of pyenv, and `python3.N` of each root file
system in MATRIX_ROOTS (separated by colons, made by mmdebstrap with python3-venv; as root). MATRIX_TESTS are other
tests. A missing version is a row of the table.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "matrix"
VERSIONS = tuple(f"3.{minor}" for minor in range(11, 15))
TESTS = os.environ.get("MATRIX_TESTS", "tests/unit tests/contract tests/property tests/e2e/test_life.py").split()
ENTER = """
    root=$1 work=$2; shift 2
    for at in "$work" /dev /proc /etc/ssl; do mkdir -p "$root$at" && mount --rbind "$at" "$root$at"; done
    cp --remove-destination /etc/resolv.conf "$root/etc/resolv.conf"
    exec chroot "$root" env HOME=/root PATH=/usr/bin:/usr/sbin sh -c 'cd "$0" && exec "$@"' "$work" "$@"
"""
"""Start a command in a root file system, in mounts of its own that contain the clone."""


class Interpreter(NamedTuple):
    path: str
    enter: tuple[str, ...] = ()
    """The command that starts a command in the interpreter's root file system."""

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*self.enter, *command], cwd=ROOT, capture_output=True, text=True, check=False)
        (WORK / "log").open("a").write(f"\n$ {command}\n{done.stdout}{done.stderr}")
        return done

    def details(self) -> tuple[str, ...]:
        """Return the versions of Python and SQLite; nothing if venv is missing."""
        print_them = "import ensurepip, sqlite3, platform as p; print(p.python_version(), sqlite3.sqlite_version)"
        return tuple(self.run(self.path, "-c", print_them).stdout.split())


def interpreters(version: str) -> Iterator[Interpreter]:
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))
    for path in (shutil.which(f"python{version}"), *map(str, pyenv)):
        if path:
            yield Interpreter(path)
    for root in filter(None, os.environ.get("MATRIX_ROOTS", "").split(":")):
        if Path(root, f"usr/bin/python{version}").exists():
            enter = ("unshare", "--mount", "--propagation", "private", "sh", "-ec", ENTER, "sh", root, str(ROOT))
            yield Interpreter(f"/usr/bin/python{version}", enter)


def requirements(kind: str) -> list[str]:
    """Return the arguments of pip after the locked dependencies: the lowest direct versions, the newest, or none."""
    direct = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lowest = [re.sub(r">=([\d.]+)[^;]*", r"==\1", requirement) for requirement in direct]
    return {"locked": [], "lowest": lowest, "newest": ["--upgrade", "--upgrade-strategy", "eager", *direct]}[kind]


def result(interpreter: Interpreter, kind: str, name: str) -> str:
    """Return the last line of the tests, or of the step that failed before them."""
    python = str(WORK / name / "bin" / "python")
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    steps = [
        (interpreter.path, "-m", "venv", "--clear", str(WORK / name)),
        (*install, "--require-hashes", "-r", "requirements-dev.lock"),
        *([(*install, *chosen)] if (chosen := requirements(kind)) else []),
        (*install, "--no-deps", "-e", "."),
        (python, "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", *TESTS),
    ]
    for step in steps:
        done = interpreter.run(*step)
        if done.returncode:
            break
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return f"{'passed' if done.returncode == 0 else 'FAILED'}: {lines[-1] if lines else 'no output'}"


def main() -> int:
    WORK.mkdir(parents=True, exist_ok=True)
    failed = False
    print("| Python | SQLite | dependencies | result |\n|---|---|---|---|", flush=True)
    for version in VERSIONS:
        found = {details: each for each in interpreters(version) if (details := each.details())}
        if not found:
            print(f"| {version} | | | not found |", flush=True)
        for (python, sqlite), interpreter in found.items():
            for kind in ("locked", "lowest", "newest"):
                text = result(interpreter, kind, f"{python}-{sqlite}-{kind}")
                failed |= text.startswith("FAILED")
                print(f"| {python} | {sqlite} | {kind} | {text} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

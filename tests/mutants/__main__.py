"""`make mutants`: build each mutant in a copy of the project, where its test must fail.

The tests first run on an unchanged copy, because a test that fails there proves nothing. Prints a table. The exit code
is 1 if a mutant survives. Arguments select the mutants whose name contains one of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree, ignore_patterns

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant

ROOT = Path(__file__).parents[2]
JOBS = os.cpu_count() or 2
PATIENCE_S = 300
# All hidden files except .dockerignore.
_LEFT_OUT = ignore_patterns(".[!d]*", "*.egg-info", "__pycache__", "build", "dist")


def build(mutant: Mutant | None, directory: Path) -> Path:
    """Copy the project, and apply the edits of the mutant."""
    copy = directory / "copy"
    copytree(ROOT, copy, ignore=_LEFT_OUT)
    for edit in mutant.edits if mutant else ():
        path = copy / edit.file
        path.write_text(path.read_text().replace(edit.before, edit.after))
    return copy


def passes(copy: Path, *tests: str) -> tuple[bool, str]:
    """Return whether the tests pass in the copy, and the last line of pytest's output. A skipped test does not pass."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *tests],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest could not run {tests}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    summary = done.stdout.strip().splitlines()[-1]
    return done.returncode == 0 and "passed" in summary, summary


def survives(mutant: Mutant) -> bool:
    with tempfile.TemporaryDirectory(prefix="relay-mutant-") as directory:
        survived, _ = passes(build(mutant, Path(directory)), mutant.caught_by)
    return survived


def unmutated(mutants: list[Mutant]) -> dict[str, str]:
    """Return the tests that do not pass on the unchanged copy, with the last line of pytest's output."""
    with tempfile.TemporaryDirectory(prefix="relay-mutant-") as directory:
        copy = build(None, Path(directory))
        tests = sorted({mutant.caught_by for mutant in mutants})
        with ThreadPoolExecutor(JOBS) as pool:
            results = dict(zip(tests, pool.map(lambda test: passes(copy, test), tests), strict=True))
    return {test: summary for test, (passed, summary) in results.items() if not passed}


def main(wanted: list[str]) -> int:
    mutants = [mutant for mutant in MUTANTS if not wanted or any(text in mutant.name for text in wanted)]
    if not mutants:
        raise SystemExit(f"no mutant has a name with {' or '.join(wanted)}; the names: see tests/mutants/")
    unfit = unmutated(mutants)
    bad = 0
    width = max(len(mutant.name) for mutant in mutants) + 2
    with ThreadPoolExecutor(JOBS) as pool:
        for mutant, survived in zip(mutants, pool.map(survives, mutants), strict=True):
            verdict = "test unfit: " + unfit[mutant.caught_by] if mutant.caught_by in unfit else "caught"
            if survived:
                verdict = "SURVIVED"
            bad += verdict != "caught"
            test = mutant.caught_by.removeprefix("tests/")
            print(f"{mutant.breaks:<12}{mutant.name:<{width}}{verdict:<10}{test}", flush=True)
    print(f"{len(mutants) - bad} of {len(mutants)} caught")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

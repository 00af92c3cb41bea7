"""`make measure` prints every measurement with a value and a target."""

from __future__ import annotations

import subprocess
import sys

from tests.architecture.measure import STATEFUL
from tests.architecture.source import ROOT


def test_every_measurement_has_a_value() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.architecture.measure"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for what in ("modules directly in relay/", "import levels", "functions one event enters", "private names"):
        assert any(what in line for line in lines), what
    for name in STATEFUL:
        assert any(line.startswith("state fields of") and f".{name} " in line for line in lines), f"no class {name}"

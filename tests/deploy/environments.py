"""Check the environment that a deployment file gives to the relay."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def faults_of(given: Mapping[str, str], directory: Path, *, key_file: str) -> str:
    """Return the errors of `relay check-config`, "" for none. The file that `key_file` names is made in `directory`."""
    key = directory / "key"
    key.write_text("key-of-a-test")
    key.chmod(0o600)
    environ = {name: str(value) for name, value in given.items()} | {key_file: str(key)}
    command = [sys.executable, "-m", "relay", "check-config"]
    done = subprocess.run(command, env=environ, cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else done.stderr or done.stdout

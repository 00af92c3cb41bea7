"""Without a network the relay tries often and cheaply, and at once when the network changes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import PATIENCE_S
from tests.fault.network_namespace import SHELL


def _in_namespace(*command: str) -> list[str]:
    return ["unshare", "--net", *command]


def _has_namespaces() -> bool:
    needed = shutil.which("unshare") and shutil.which("ip")
    return bool(needed) and subprocess.run(_in_namespace("true"), check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not _has_namespaces(), reason="needs ip and the right to create network namespaces")
def test_a_new_address_of_the_machine_ends_the_backoff(tmp_path: Path) -> None:
    shell = SHELL.format(python=sys.executable, directory=tmp_path)
    subprocess.run(_in_namespace("sh", "-c", shell), check=True, timeout=4 * PATIENCE_S)

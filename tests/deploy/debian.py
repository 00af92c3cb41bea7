"""A bare Debian made with debootstrap, and commands in it. Both need root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SUITE = "trixie"

needs_debootstrap = pytest.mark.skipif(
    shutil.which("debootstrap") is None or os.geteuid() != 0, reason="debootstrap is not installed, or needs root"
)


def bootstrap(root: Path, *packages: str) -> None:
    """Create a minimal Debian with these packages in `root`."""
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", SUITE, str(root)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    shutil.copy("/etc/resolv.conf", root / "etc")


def inside(root: Path, command: str) -> list[str]:
    """Return the arguments that run a shell command in `root`. All its processes end with the first one."""
    mounts = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" sh -c "$1"'
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", mounts, str(root), command]

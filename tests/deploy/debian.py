"""A bare Debian made with mmdebstrap, and commands in it. Both need root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SUITE = "trixie"

needs_mmdebstrap = pytest.mark.skipif(
    shutil.which("mmdebstrap") is None or os.geteuid() != 0, reason="mmdebstrap is not installed, or needs root"
)


def bootstrap(root: Path, *packages: str, variant: str = "minbase") -> None:
    """Create a minimal Debian with these packages in `root`, without documentation as in container images."""
    kind = [f"--variant={variant}", f"--include={','.join(packages)}"]
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man")]
    command = ["mmdebstrap", "--quiet", *kind, *left_out, SUITE, str(root)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def inside(root: Path, command: str) -> list[str]:
    """Return the arguments that run a shell command in `root`. All its processes end with the first one."""
    mounts = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" sh -c "$1"'
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", mounts, str(root), command]

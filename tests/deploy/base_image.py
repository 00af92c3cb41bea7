"""A base image with this machine's Python, the programs that the Dockerfile calls, and the locked wheels.

Replaces `python:3.13-slim` if no registry is reachable. It has the same layout (Python in /usr/local). Its pip
installs packages only from /wheels, so that the build needs no network.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import pip

PROGRAMS = (
    "sh", "cat", "chmod", "env", "groupadd", "head", "id", "install", "ls", "mkdir", "rm", "sleep", "touch", "uname",
    "useradd",
)  # fmt: skip
LEFT_OUT = ("test", "tests", "site-packages", "dist-packages", "idlelib", "tkinter", "turtledemo", "lib2to3",
            "__pycache__", "config-*", "_tkinter*", "_test*")  # fmt: skip
LIBC_PARTS = ("libpthread", "libdl", "librt", "libutil")
"""Libraries that wheels for an older libc are linked with."""
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/gshadow": "root:*::\n",
    "etc/login.defs": "SYS_UID_MAX 99999\nSYS_GID_MAX 99999\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/pip.conf": "[global]\nno-index = true\nfind-links = /wheels\n",
}


def make(lock: Path, root: Path) -> None:
    """Create the file system of the image in `root`. Raises CalledProcessError if a wheel is not available."""
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    for name in ("tmp", "proc", "dev"):
        (root / name).mkdir()
    (root / "tmp").chmod(0o1777)
    _fetch_wheels(lock, root / "wheels")
    python = _copy_python(root)
    programs = [Path(found) for name in PROGRAMS if (found := shutil.which(name))]
    for program in programs:
        _put(program, root / "usr/bin" / program.name)
    for link in ("bin", "sbin"):
        (root / link).symlink_to("usr/bin")
    for library in _libraries([*programs, *python]):
        _put(library, root / library.relative_to("/"))


def _fetch_wheels(lock: Path, wheels: Path) -> None:
    download = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--dest",
        str(wheels),
    ]
    subprocess.run([*download, "--no-deps", "--require-hashes", "-r", str(lock)], check=True, capture_output=True)
    subprocess.run([*download, "setuptools>=77"], check=True, capture_output=True)


def _copy_python(root: Path) -> list[Path]:
    """Copy the interpreter, standard library and pip to /usr/local. Return the copied files that need libraries."""
    interpreter = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    stdlib = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(stdlib, root / "usr/local/lib" / stdlib.name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for part in Path(pip.__file__).parents[1].glob("pip*"):
        shutil.copytree(part, root / "usr/local/lib" / stdlib.name / "site-packages" / part.name)
    _put(interpreter, root / "usr/local/bin" / interpreter.name)
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).symlink_to(interpreter.name)
    return [interpreter, *(stdlib / "lib-dynload").glob("*.so")]


def _libraries(programs: Iterable[Path]) -> set[Path]:
    """Return the loader and the shared libraries of programs and modules, except of excluded modules."""
    wanted = [str(program) for program in programs if not program.name.startswith(("_tkinter", "_test"))]
    output = subprocess.run(["ldd", *wanted], capture_output=True, text=True, check=False).stdout
    found = {Path(path) for path in re.findall(r"(?:=> |^\t)(/\S+) \(0x", output, re.MULTILINE)}
    libc = next(path for path in found if path.name.startswith("libc.so"))
    return found | {extra for name in LIBC_PARTS for extra in libc.parent.glob(f"{name}.so.[0-9]")}


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=True)

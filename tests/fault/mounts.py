"""Small and failing file systems for one test. Mounting needs root and a kernel that allows it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout.strip()


@functools.cache
def rejection(kind: str) -> str:
    """Return why this machine cannot mount this kind of file system, "" if it can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    tools = {"ext4": ("mkfs.ext4", "losetup")}.get(kind, ())
    missing = [tool for tool in ("mount", *tools) if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is not installed"
    try:
        with tempfile.TemporaryDirectory() as directory, {"tmpfs": tmpfs, "ext4": ext4}[kind](Path(directory), 4):
            return ""
    except AssertionError as error:
        return f"{kind} cannot be mounted here: {error}"


def needs(kind: str) -> None:
    """Skip the calling test if this machine cannot mount this kind of file system."""
    if why := rejection(kind):
        pytest.skip(why)


@contextmanager
def mounted(directory: Path, *how: str) -> Iterator[Path]:
    """Mount a file system below a directory, with these arguments of mount(8). Yield the mount point."""
    at = directory / "mounted"
    at.mkdir(exist_ok=True)
    run("mount", *how, str(at))
    try:
        yield at
    finally:
        run("umount", "--lazy", str(at))  # A failed test may leave files open there.


@contextmanager
def tmpfs(directory: Path, mib: int, inodes: int = 0) -> Iterator[Path]:
    """Mount a file system in memory. `inodes` is its limit of files and directories, 0 for none."""
    with mounted(directory, "-t", "tmpfs", "-o", f"size={mib}m,nr_inodes={inodes},mode=0700", "none") as at:
        yield at


@contextmanager
def ext4(directory: Path, mib: int, options: str = "errors=remount-ro") -> Iterator[Path]:
    """Mount an ext4 on a new disk image."""
    image = directory / "disk.img"
    with image.open("wb") as file:
        file.truncate(mib << 20)
    run("mkfs.ext4", "-q", "-m", "0", str(image))
    with mounted(directory, "-o", f"loop,{options}", str(image)) as at:
        yield at


def loop_device(mount_point: Path) -> str:
    """Return the name of the block device mounted there, e.g. loop3."""
    return Path(run("findmnt", "-n", "-o", "SOURCE", str(mount_point))).name


def fill(directory: Path) -> Path:
    """Fill the file system with one file, and return it. Remove the file to free the space."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        for chunk_bytes in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(chunk_bytes)) == chunk_bytes:
                    pass
            except OSError:  # No chunk of this size fits any more.
                continue
    return filler

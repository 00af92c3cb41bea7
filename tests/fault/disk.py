"""A block device that logs every write and flush, and rebuilds the disk as a power cut would leave it.

A rebuilt disk has every write before the last completed flush and a random part of the later writes. A later write
may be torn between sectors. The device has a real ext4, and each mount replays its journal.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.fault import mounts
from tests.fault.fuse import Served

SIZE_BYTES = 24 << 20
SECTOR_BYTES = 512


class Write(NamedTuple):
    at: float
    """time.monotonic() after the write."""
    offset: int
    data: bytes


class LoggedDisk:
    """The content of the disk, and its writes and flushes since `begin`."""

    size = SIZE_BYTES

    def __init__(self) -> None:
        self._bytes = bytearray(SIZE_BYTES)
        self._first = b""
        self._writes: list[Write] = []
        self._flushes: list[tuple[float, int]] = []
        """(time.monotonic() of the flush, number of writes before it)."""

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self._bytes[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self._bytes[offset : offset + len(data)] = data
        self._writes.append(Write(time.monotonic(), offset, data))

    def flush(self) -> None:
        self._flushes.append((time.monotonic(), len(self._writes)))

    def begin(self) -> None:
        """Treat the current content as flushed, and start the log."""
        self._first = bytes(self._bytes)
        self._writes.clear()
        self._flushes = [(0.0, 0)]

    @property
    def flushes(self) -> int:
        return len(self._flushes) - 1

    def cut_at(self, instant: float, random: Random) -> bytes:
        """Return the content that a power cut at `instant` (time.monotonic()) could leave."""
        found = bytearray(self._first)
        flushed = self._flushes[bisect.bisect_right(self._flushes, (instant, 1 << 62)) - 1][1]
        for write in self._writes[:flushed]:
            found[write.offset : write.offset + len(write.data)] = write.data
        for write in self._writes[flushed:]:
            if write.at > instant:
                break
            if random.random() < 0.5:
                written = write.data
                if random.random() < 0.2:
                    written = written[: random.randrange(0, len(written) + 1, SECTOR_BYTES)]
                found[write.offset : write.offset + len(written)] = written
        return bytes(found)


@contextmanager
def logged_disk(directory: Path) -> Iterator[tuple[LoggedDisk, Path]]:
    """Mount an ext4 on a logged disk, and yield the disk and the mount point."""
    disk, served_at = LoggedDisk(), directory / "fuse"
    served_at.mkdir()
    served = Served(served_at, disk)
    try:
        device = mounts.run("losetup", "--find", "--show", str(served.path))
        try:
            mounts.run("mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard,lazy_itable_init=0", device)
            with mounts.mounted(directory, device) as at:
                mounts.run("sync", "--file-system", str(at))
                disk.begin()
                yield disk, at
        finally:
            mounts.run("losetup", "--detach", device)
    finally:
        served.close()


@contextmanager
def rebuilt(directory: Path, content: bytes) -> Iterator[Path]:
    """Mount the file system on a disk with this content."""
    image = directory / "rebuilt.img"
    image.write_bytes(content)
    try:
        with mounts.mounted(directory, "-o", "loop", str(image)) as at:
            yield at
    finally:
        image.unlink()


def rejection() -> str:
    """Return why this machine cannot provide a logged disk, "" if it can."""
    why = mounts.rejection("ext4")
    if why or Path("/dev/fuse").exists():
        return why
    return "/dev/fuse is missing"

"""Flushes reach the disk also where fsync stops at the cache of the drive (macOS)."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from relay.runtime import flush as module

COMMAND = 51
"""F_FULLFSYNC of macOS."""


class Calls(list[str]):
    """The calls of the system, with the outcome of F_FULLFSYNC."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, full_fsync_errno: int = 0) -> None:
        super().__init__()

        def full(fd: int, command: int) -> int:
            assert command == COMMAND
            self.append("F_FULLFSYNC")
            if full_fsync_errno:
                raise OSError(full_fsync_errno, os.strerror(full_fsync_errno))
            return 0

        monkeypatch.setattr(fcntl, "fcntl", full)
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, lambda _, name=name: self.append(name))


@pytest.fixture
def macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FULL_FSYNC", COMMAND)


@pytest.fixture
def fd(tmp_path: Path) -> int:
    return os.open(tmp_path, os.O_RDONLY)


def test_linux_uses_fsync_and_fdatasync(monkeypatch: pytest.MonkeyPatch, fd: int) -> None:
    calls = Calls(monkeypatch)
    module.flush(fd)
    module.flush_data(fd)
    assert calls == ["fsync", "fdatasync"]


@pytest.mark.usefixtures("macos")
@pytest.mark.parametrize("flush", [module.flush, module.flush_data])
def test_macos_empties_the_cache_of_the_drive(
    monkeypatch: pytest.MonkeyPatch, fd: int, flush: Callable[[int], None]
) -> None:
    calls = Calls(monkeypatch)
    monkeypatch.delattr(os, "fdatasync")
    flush(fd)
    assert calls == ["F_FULLFSYNC"]


@pytest.mark.usefixtures("macos")
def test_a_file_system_without_it_gets_fsync(monkeypatch: pytest.MonkeyPatch, fd: int) -> None:
    calls = Calls(monkeypatch, errno.ENOTSUP)
    module.flush(fd)
    assert calls == ["F_FULLFSYNC", "fsync"]


@pytest.mark.usefixtures("macos")
def test_a_failing_disk_is_an_error(monkeypatch: pytest.MonkeyPatch, fd: int) -> None:
    """An fsync after it could succeed although the data is lost."""
    calls = Calls(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        module.flush(fd)
    assert calls == ["F_FULLFSYNC"]

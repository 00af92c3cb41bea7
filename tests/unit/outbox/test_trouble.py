"""Errors of a disk: the table from errno to the error for the callers."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest
from relay.outbox import OutboxError, OutboxFull, OutboxLocked, OutboxRefused, OutboxUnavailable
from relay.outbox.sqlite import files
from relay.outbox.sqlite.trouble import failure_of


def failing(number: int) -> object:
    def call(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ENOSPC, OutboxFull, "the disk is full"),
        (errno.EDQUOT, OutboxFull, "the disk is full: the disk quota"),
        (errno.EIO, OutboxUnavailable, "the disk fails"),
        (errno.EROFS, OutboxUnavailable, "the disk fails"),
    ],
)
def test_an_errno_is_reported_as_what_it_means(number: int, kind: type[OutboxError], message: str) -> None:
    failure = failure_of(OSError(number, os.strerror(number)))
    assert type(failure) is kind
    assert str(failure).startswith(message)


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.EWOULDBLOCK, OutboxLocked, "another relay"),
        (errno.ENOLCK, OutboxRefused, "cannot lock"),
        (errno.EOPNOTSUPP, OutboxRefused, "cannot lock"),
    ],
)
def test_only_a_held_lock_is_another_relay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[OutboxError], message: str
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with pytest.raises(kind, match=message):
        files.lock(tmp_path / "outbox.db")


@pytest.mark.parametrize(("call", "number"), [("chmod", errno.EPERM), ("fsync", errno.EINVAL)])
def test_a_file_system_without_modes_or_directory_sync_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.touch()

    def use() -> None:
        files.make_private(old)
        files.rename(old, new)

    monkeypatch.setattr(os, call, failing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        use()
    new.touch()
    new.rename(old)
    monkeypatch.setattr(os, call, failing(number))
    use()
    assert new.exists()

"""Errors of a disk: the table from errno to the error for the callers."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from pathlib import Path

import pytest
from relay.outbox import OutboxError, OutboxFull, OutboxLocked, OutboxUnavailable, OutboxUnusable
from relay.outbox.sqlite import files
from relay.outbox.sqlite.disk_errors import explained, failure_of


def failing(number: int) -> object:
    def call(*_arguments: object, **_named: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


MEANINGS = [
    (errno.ENOSPC, OutboxFull, "the disk is full"),
    (errno.EDQUOT, OutboxFull, "the disk is full: the disk quota"),
    (errno.EFBIG, OutboxFull, "the disk is full: a file has the largest size"),
    (errno.EROFS, OutboxUnavailable, "the file system of outbox.path is read-only"),
    (errno.EMFILE, OutboxUnavailable, "the relay has no file descriptor left"),
    (errno.ENFILE, OutboxUnavailable, "the system has no file descriptor left"),
    (errno.EACCES, OutboxUnavailable, "the relay's user may not write"),
    (errno.EPERM, OutboxUnavailable, "the relay's user may not write"),
    (errno.EIO, OutboxUnavailable, "the disk fails"),
    (errno.ENODEV, OutboxUnavailable, "the disk fails"),
    (errno.ESTALE, OutboxUnavailable, "the disk fails"),
]


@pytest.mark.parametrize(("number", "kind", "message"), MEANINGS)
def test_error_message_for_each_errno(number: int, kind: type[OutboxError], message: str) -> None:
    failure = failure_of(OSError(number, os.strerror(number)))
    assert type(failure) is kind
    assert str(failure).startswith(message)


class HidingError(sqlite3.OperationalError):
    """What SQLite reports: no errno."""

    def __init__(self, code: int) -> None:
        super().__init__("disk I/O error")
        self.sqlite_errorcode = code


@pytest.mark.parametrize(("number", "kind", "message"), MEANINGS)
@pytest.mark.parametrize(
    ("code", "call"),
    [
        (sqlite3.SQLITE_IOERR_WRITE, "pwrite"),
        (sqlite3.SQLITE_IOERR_FSYNC, "fsync"),
        (sqlite3.SQLITE_CANTOPEN, "open"),
    ],
)
def test_hidden_errno_is_found_by_a_trial(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    call: str,
    number: int,
    kind: type[OutboxError],
    message: str,
) -> None:
    def work() -> None:
        raise HidingError(code)

    monkeypatch.setattr(os, call, failing(number))
    with pytest.raises((OSError, sqlite3.OperationalError)) as caught:
        explained(tmp_path / "outbox.db", work)
    failure = failure_of(caught.value)
    assert type(failure) is kind
    assert str(failure).startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CORRUPT])
def test_error_is_unchanged_if_the_trial_succeeds(tmp_path: Path, code: int) -> None:
    def work() -> None:
        raise HidingError(code)

    with pytest.raises(HidingError):
        explained(tmp_path / "outbox.db", work)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.EWOULDBLOCK, OutboxLocked, "another relay"),
        (errno.EACCES, OutboxLocked, "another relay"),
        (errno.ENOLCK, OutboxUnusable, "cannot lock"),
        (errno.EOPNOTSUPP, OutboxUnusable, "cannot lock"),
        (errno.ENOSYS, OutboxUnusable, "cannot lock"),
        (errno.EINVAL, OutboxUnusable, "cannot lock"),
    ],
)
def test_only_a_locked_file_is_reported_as_another_relay(
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

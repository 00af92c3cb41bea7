"""Bind the relay's unix socket, recognize its file, and remove it.

The socket's mode is 0660: processes of the relay's user or group can connect. Independent of HTTP.
"""

from __future__ import annotations

import contextlib
import socket
import stat
from pathlib import Path

from relay.runtime.address import listen_error

_SOCKET_MODE = 0o660


def bind_unix(path: Path) -> socket.socket:
    """Return a socket that is bound but not listening, so that no client connects before the mode is set.

    A stale socket file (without a listening process) is replaced. Raises ListenError if another process listens, or
    if the path is another kind of file.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_stale_socket(path):
            path.unlink()
        listening.bind(str(path))
        path.chmod(_SOCKET_MODE)
    except OSError as error:
        listening.close()
        raise listen_error(str(path), error, "http.unix_socket") from error
    return listening


def _is_stale_socket(path: Path) -> bool:
    try:
        if not stat.S_ISSOCK(path.stat(follow_symlinks=False).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except BlockingIOError:  # The backlog is full: another process listens.
            return False
    return False


def exists(path: Path) -> bool:
    """Return whether there is a file at `path`; True if the relay cannot look."""
    try:
        path.stat(follow_symlinks=False)
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    return True


def inode(path: Path) -> int | None:
    """Return the inode of the file at `path`; None if there is no file, or the relay cannot look at it."""
    try:
        return path.stat(follow_symlinks=False).st_ino
    except OSError:
        return None


def remove(path: Path, own_inode: int | None) -> None:
    """Remove the file at `path` if it has the inode `own_inode`: another relay may have replaced it."""
    if own_inode is not None and inode(path) == own_inode:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()

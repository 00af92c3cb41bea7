"""One file, served by this process through the kernel's FUSE: what a disk image needs to be seen being written.

Owns the protocol (https://www.kernel.org/doc/html/latest/filesystems/fuse.html, include/uapi/linux/fuse.h 7.31),
no more of it than a loop device asks for. No library: /dev/fuse and mount(2) are enough. Needs root.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import threading
from enum import IntEnum
from pathlib import Path
from typing import Protocol

NAME = "disk.img"
_FILE_NODE = 2
_MAX_WRITE_BYTES = 128 << 10
_BUFFER_BYTES = _MAX_WRITE_BYTES + 4096
_IN = struct.Struct("=IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
_OUT = struct.Struct("=IiQ")  # length, -errno, unique
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
_ATTRIBUTES = struct.Struct("=6Q10I")
_IO = struct.Struct("=QQIIQII")  # handle, offset, size, ...


class _Op(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    RELEASEDIR = 29
    ACCESS = 34
    DESTROY = 38
    BATCH_FORGET = 42


class Backing(Protocol):
    """Where the file's bytes are."""

    size: int

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...

    def flush(self) -> None: ...


class Served:
    """A mounted directory with the one file in it; answers the kernel in a thread until `close`."""

    def __init__(self, directory: Path, backing: Backing) -> None:
        self.path = directory / NAME
        self._backing = backing
        self._directory = directory
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0".encode()
        _mount(directory, options)
        self._thread = threading.Thread(target=self._serve, name="fuse", daemon=True)
        self._thread.start()

    def close(self) -> None:
        _libc.umount2(os.fsencode(self._directory), 2)  # MNT_DETACH
        self._thread.join()
        os.close(self._fd)

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fd, _BUFFER_BYTES)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return  # ENODEV: unmounted
            _, opcode, unique, node, *_ = _IN.unpack_from(request)
            if opcode in (_Op.FORGET, _Op.BATCH_FORGET):
                continue
            try:
                reply, failed = self._reply(opcode, node, request[_IN.size :]), 0
            except OSError as error:
                reply, failed = b"", error.errno or errno.EIO
            try:
                os.write(self._fd, _OUT.pack(_OUT.size + len(reply), -failed, unique) + reply)
            except OSError:
                return

    def _reply(self, opcode: int, node: int, body: bytes) -> bytes:
        match opcode:
            case _Op.INIT:
                return _INIT_OUT.pack(7, 31, 0, 1 << 5, 16, 12, _MAX_WRITE_BYTES, 1, 0, 0, 0)
            case _Op.LOOKUP:
                if body.rstrip(b"\0") != NAME.encode():
                    raise OSError(errno.ENOENT, "no such file")
                return struct.pack("=QQQQII", _FILE_NODE, 0, 3600, 3600, 0, 0) + self._attributes(_FILE_NODE)
            case _Op.GETATTR | _Op.SETATTR:
                return struct.pack("=QII", 3600, 0, 0) + self._attributes(node)
            case _Op.OPEN | _Op.OPENDIR:
                return struct.pack("=QII", 1, 0, 0)
            case _Op.READ:
                _, offset, length, *_ = _IO.unpack_from(body)
                return self._backing.read(offset, length)
            case _Op.WRITE:
                _, offset, length, *_ = _IO.unpack_from(body)
                self._backing.write(offset, body[_IO.size : _IO.size + length])
                return struct.pack("=II", length, 0)
            case _Op.FSYNC:
                self._backing.flush()
                return b""
            case _Op.STATFS:
                return struct.pack("=5Q4I24x", 1 << 20, 1 << 19, 1 << 19, 16, 8, 4096, 255, 4096, 0)
            case _Op.RELEASE | _Op.FLUSH | _Op.RELEASEDIR | _Op.ACCESS | _Op.DESTROY:
                return b""
            case _:
                raise OSError(errno.ENOSYS, "not asked of a disk")

    def _attributes(self, node: int) -> bytes:
        is_file = node == _FILE_NODE
        size, mode = (self._backing.size, stat.S_IFREG | 0o600) if is_file else (0, stat.S_IFDIR | 0o700)
        return _ATTRIBUTES.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


_libc = ctypes.CDLL(None, use_errno=True)


def _mount(directory: Path, options: bytes) -> None:
    if _libc.mount(b"relay-disk", os.fsencode(directory), b"fuse", 0, options):
        raise OSError(ctypes.get_errno(), f"mount: {os.strerror(ctypes.get_errno())}")

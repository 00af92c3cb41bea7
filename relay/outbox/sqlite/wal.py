"""The file of the write-ahead log: its frames, and the zeros after them.

This module reads SQLite's file format (https://www.sqlite.org/fileformat2.html#walformat). SQLite reports the size of
the log only in a checkpoint, and a truncating checkpoint after every commit would cost an inode update per fsync. So
SQLite reuses the log in place, and the salts of the header identify the frames since the log last restarted.

`reserve` extends the file with zeros, so that a commit overwrites blocks and changes no file size.
SQLite ends its recovery at the first frame whose salts are not the header's, so zeros after the
last frame mean nothing to it. The reason is ext4: while it aborts its journal after an error,
fdatasync can return 0 for a file whose new size is only in that journal, and a repair then cuts the
file. A sync of overwritten blocks needs no journal, and after the abort every write fails. It also
saves a commit of the journal for each commit that would have grown the file.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from contextlib import suppress
from pathlib import Path

from relay.outbox.sqlite.connection import PAGE_BYTES
from relay.runtime.flush import flush_data

HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
FRAME_BYTES = _FRAME_HEADER_BYTES + PAGE_BYTES
_SALTS = slice(16, 24)
_FRAME_PAGE, _FRAME_SALTS = slice(0, 4), slice(8, 16)
_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
"""Of checksums in little-endian and in big-endian words. A header of zeros begins no log."""
_USUAL_FRAMES = 7
"""Most commits write fewer frames. The search for the last frame begins with this number."""
_ZEROS = memoryview(bytes(PAGE_BYTES))
_RESERVED_AT_ONCE_BYTES = 256 << 10
"""Written and synced in a few milliseconds on a slow flash chip, and large enough for some 16 commits of one event."""


class Wal:
    """One write-ahead log, opened by the first call that reads or writes it."""

    def __init__(self, path: Path) -> None:
        self.frames = 0
        """Number of frames since the log last restarted, as of the last `grown`."""
        self.file_bytes = 0
        """Size of the file as of the last `grown`, including old frames and zeros."""
        self._copied_back = 0
        """Number of frames when the log was last copied into the database."""
        self._path = path
        self._fd: int | None = None
        self._salts = b""

    def grown(self) -> int:
        """Return the number of frames written since the last call. Raise OSError if the file cannot be read.

        The log may restart at most once between two calls.
        """
        fd = self._open()
        self.file_bytes = os.fstat(fd).st_size
        header = os.pread(fd, HEADER_BYTES, 0)
        salts = header[_SALTS] if header[:4] in _MAGIC else b""
        if salts != self._salts:
            self._salts, self.frames, self._copied_back = salts, 0, 0
        if len(salts) < 8:
            return 0
        new_frames = range(self.frames, (self.file_bytes - HEADER_BYTES) // FRAME_BYTES)
        if len(new_frames) > _USUAL_FRAMES and self._is_old(new_frames[_USUAL_FRAMES]):
            new_frames = new_frames[:_USUAL_FRAMES]
        grown = bisect_left(new_frames, True, key=self._is_old)
        self.frames += grown
        return grown

    def reserve(self, need_bytes: int, usual_bytes: int) -> int:
        """Extend the file to at least `need_bytes`, sync it, and return the number of bytes written.

        The file grows in steps up to `usual_bytes`, and beyond that only as far as necessary. If
        the disk is full, the file keeps its size and OSError is raised.
        """
        fd = self._open()
        old_bytes = self.file_bytes = os.fstat(fd).st_size
        if need_bytes <= old_bytes:
            return 0
        steps = -(-need_bytes // _RESERVED_AT_ONCE_BYTES)
        new_bytes = max(need_bytes, min(steps * _RESERVED_AT_ONCE_BYTES, usual_bytes))
        try:
            _write_zeros(fd, old_bytes, new_bytes)
        except OSError:
            with suppress(OSError):
                os.ftruncate(fd, old_bytes)
            raise
        flush_data(fd)
        self.file_bytes = new_bytes
        return new_bytes - old_bytes

    @property
    def waiting_bytes(self) -> int:
        """Size of the frames to copy back; 0 if there are no new frames, because the next write restarts the log."""
        return self.frames * FRAME_BYTES if self.frames > self._copied_back else 0

    def copied_back(self) -> None:
        """Record that the database contains all frames."""
        self._copied_back = self.frames

    def distinct_pages(self) -> int:
        """Return the number of pages that a checkpoint of the counted frames writes."""
        return len({self._frame_header(frame)[_FRAME_PAGE] for frame in range(self.frames)})

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._salts, self.frames, self.file_bytes, self._copied_back = b"", 0, 0, 0

    def _is_old(self, frame: int) -> bool:
        return self._frame_header(frame)[_FRAME_SALTS] != self._salts

    def _frame_header(self, frame: int) -> bytes:
        """Return the header of a frame; the first is 0."""
        return os.pread(self._open(), _FRAME_HEADER_BYTES, HEADER_BYTES + frame * FRAME_BYTES)

    def _open(self) -> int:
        if self._fd is None:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        return self._fd


def _write_zeros(fd: int, offset: int, end: int) -> None:
    """Write zeros from `offset` to `end`, or raise OSError. One write per page.

    Otherwise the kernel may cache the file in folios of many pages, and each later frame makes a whole folio dirty
    (8,170 instead of 1,667 bytes an event in /proc/PID/io).
    """
    while offset < end:
        offset += os.pwrite(fd, _ZEROS[: min(PAGE_BYTES - offset % PAGE_BYTES, end - offset)], offset)

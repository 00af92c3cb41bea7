"""How far the write-ahead log has grown, read from its file.

Owns the only reading of SQLite's file format: the WAL's header and its frames' headers, as in
https://www.sqlite.org/fileformat2.html#walformat. SQLite tells its size only by a checkpoint, and
a truncating checkpoint after every commit would cost an inode's update per fsync; so the log is
reused in place, and frames of this round are known by the header's salts.
"""

from __future__ import annotations

import os
from pathlib import Path

from relay.outbox.sqlite.connection import PAGE_BYTES

_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
FRAME_BYTES = _FRAME_HEADER_BYTES + PAGE_BYTES
_SALTS = slice(16, 24)
_FRAMES_AT_ONCE = 64


class Wal:
    """One write-ahead log; opened when first asked, closed with `close`."""

    def __init__(self, path: Path) -> None:
        self.frames = 0
        """Since the log last began anew, as of the last `grown`."""
        self._copied_back = 0
        """As many of them as there were when the log was copied back."""
        self._path = path
        self._fd: int | None = None
        self._salts = b""

    def grown(self) -> int:
        """How many frames were written since this was last asked. OSError if the file cannot be read.

        At most one beginning anew may lie between two calls.
        """
        salts = self._read(0, _HEADER_BYTES)[_SALTS]
        if salts != self._salts:
            self._salts, self.frames, self._copied_back = salts, 0, 0
        if len(salts) < 8:
            return 0
        before = self.frames
        step = 1
        while self._is_ours(self.frames + step):
            self.frames += step
            step *= 2
        while step > 1:
            step //= 2
            if self._is_ours(self.frames + step):
                self.frames += step
        return self.frames - before

    @property
    def waiting(self) -> int:
        """Frames to be copied back: none if nothing came since, for then the next write begins the log anew."""
        return self.frames if self.frames > self._copied_back else 0

    def copied_back(self) -> None:
        """All of them are in the database."""
        self._copied_back = self.frames

    def file_bytes(self) -> int:
        """The file's size: frames of earlier rounds are in it too."""
        return 0 if self._fd is None else os.fstat(self._fd).st_size

    def distinct_pages(self) -> int:
        """How many pages a checkpoint of all frames writes."""
        self.grown()
        pages: set[bytes] = set()
        for first in range(0, self.frames, _FRAMES_AT_ONCE):
            count = min(_FRAMES_AT_ONCE, self.frames - first)
            chunk = self._read(_HEADER_BYTES + first * FRAME_BYTES, count * FRAME_BYTES)
            pages.update(chunk[at : at + 4] for at in range(0, len(chunk), FRAME_BYTES))
        return len(pages)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._salts, self.frames, self._copied_back = b"", 0, 0

    def _is_ours(self, frame: int) -> bool:
        """Whether the `frame`-th frame (the first is 1) is of this round."""
        return self._read(_HEADER_BYTES + (frame - 1) * FRAME_BYTES + 8, 8) == self._salts

    def _read(self, offset: int, length: int) -> bytes:
        if self._fd is None:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return os.pread(self._fd, length, offset)

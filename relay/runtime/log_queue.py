"""Write log lines in a separate thread, so that a stalled reader of the log does not block the relay.

Rules:
- `put` never waits. If more than MAX_CHARS are queued, it drops the line and counts it.
- One notice in the log replaces the missing lines and contains their number.
- A failed write loses its line and raises nothing.
- `close` waits for a bounded time, because the reader may never read again.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol, TextIO

MAX_CHARS = 1_000_000
"""Maximum size of the queue, in characters."""
_LINE_COST_CHARS = 100
"""Size of a queued line beside its text. It bounds the number of short lines."""


class Counts(Protocol):
    """A counter with the interface of prometheus_client."""

    def inc(self, amount: float = 1) -> None: ...


class LogQueue:
    """A bounded queue of lines for one stream. Any thread may call `put`."""

    def __init__(
        self, stream: TextIO, notice: Callable[[int], str], lost: Counts | None = None, *, max_chars: int = MAX_CHARS
    ) -> None:
        """`notice` renders the notice for a number of missing lines; `lost` counts these lines."""
        self._stream = stream
        self._notice = notice
        self._counter = lost
        self._max_chars = max_chars
        # The lock is reentrant: a finalizer that logs may run in the thread that holds it.
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._chars = 0
        self._dropped = 0
        self._failed = 0
        self._writing = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, line: str) -> None:
        """Queue the line, or drop it if the queue is full or closed."""
        with self._changed:
            if self._closed or (self._lines and self._chars + _cost(line) > self._max_chars):
                self._dropped += 1
                self._count(1)
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            if self._dropped:
                # The notice is in the place of the missing lines, after the older lines.
                self._append(self._take_notice())
            self._append(line)
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all queued lines are written. Return False after `timeout_s` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._lines or self._dropped or self._writing), timeout_s)

    def close(self, timeout_s: float) -> None:
        """Flush, and end the thread after its current write. Later lines are lost."""
        self.flush(timeout_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _append(self, line: str) -> None:
        self._lines.append(line)
        self._chars += _cost(line)

    def _take_notice(self) -> str:
        notice = self._notice(self._dropped)
        self._dropped = 0
        return notice

    def _count(self, lines: int) -> None:
        if self._counter is not None:
            self._counter.inc(lines)

    def _run(self) -> None:
        while (line := self._next()) is not None:
            failed = self._failed  # Only this thread changes it.
            try:
                self._write(f"{self._notice(failed)}\n{line}\n" if failed else f"{line}\n")
            except (OSError, ValueError):
                # ValueError: the stream is closed.
                self._failed += 1
                self._count(1)
            else:
                self._failed = 0
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _next(self) -> str | None:
        """Wait for the next line and return it. Return None if the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._dropped or self._closed)
            if not self._lines and (self._closed or not self._dropped):
                return None
            self._writing = True
            if not self._lines:
                return self._take_notice()
            line = self._lines.popleft()
            self._chars -= _cost(line)
            return line

    def _write(self, text: str) -> None:
        try:
            descriptor = self._stream.fileno()
        except OSError:
            # A stream in memory has no descriptor and cannot stall.
            self._stream.write(text)
            self._stream.flush()
            return
        _write_all(descriptor, text.encode("utf-8", "backslashreplace"))


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all data to a descriptor that may be non-blocking. Programs on a terminal share that flag."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            select.select((), (descriptor,), ())  # poll(2) of macOS does not support terminals


def _cost(line: str) -> int:
    return len(line) + _LINE_COST_CHARS

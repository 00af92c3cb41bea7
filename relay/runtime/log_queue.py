"""Write log lines in a thread of their own, so that a stalled reader of the log stops no part of the relay.

Rules:
- `put` never waits. Beyond MAX_CHARS of queued lines it loses the line and counts it.
- The log itself says how many lines are missing: one notice takes their place.
- A write that fails loses its line. It never raises.
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
"""Queued at most, in characters."""
_LINE_COST_CHARS = 100
"""What a queued line takes beside its text: it bounds the number of short lines."""


class Counts(Protocol):
    """A counter with the interface of prometheus_client."""

    def inc(self, amount: float = 1) -> None: ...


class LogQueue:
    """A bounded queue of lines in front of one stream. `put` is for any thread."""

    def __init__(
        self, stream: TextIO, notice: Callable[[int], str], lost: Counts | None = None, *, max_chars: int = MAX_CHARS
    ) -> None:
        """`notice` renders the line that says how many lines are missing; `lost` counts them."""
        self._stream = stream
        self._notice = notice
        self._counter = lost
        self._max_chars = max_chars
        # The lock is reentrant: a finalizer that logs may run in the thread that holds it.
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._chars = 0
        self._refused = 0
        self._failed = 0
        self._writing = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, line: str) -> None:
        """Queue the line, or lose it if the queue is full."""
        with self._changed:
            if self._closed or (self._lines and self._chars + _cost(line) > self._max_chars):
                self._refused += 1
                self._count(1)
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            if self._refused:
                # The notice stands where the lines are missing, behind the older lines.
                self._append(self._take_refused())
            self._append(line)
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all queued lines are written; False if the time is over first."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._lines or self._refused or self._writing), timeout_s)

    def close(self, timeout_s: float) -> None:
        """Flush, and end the thread as soon as its current write ends. Lines that come later are lost."""
        self.flush(timeout_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _append(self, line: str) -> None:
        self._lines.append(line)
        self._chars += _cost(line)

    def _take_refused(self) -> str:
        notice = self._notice(self._refused)
        self._refused = 0
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
        """Wait for the next line, and return it; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._refused or self._closed)
            if not self._lines and (self._closed or not self._refused):
                return None
            self._writing = True
            if not self._lines:
                return self._take_refused()
            line = self._lines.popleft()
            self._chars -= _cost(line)
            return line

    def _write(self, text: str) -> None:
        try:
            descriptor = self._stream.fileno()
        except OSError:
            # A stream in memory has no descriptor. It cannot stall either.
            self._stream.write(text)
            self._stream.flush()
            return
        _write_all(descriptor, text.encode("utf-8", "backslashreplace"))


def _write_all(descriptor: int, data: bytes) -> None:
    """Write to a descriptor that may be non-blocking: a terminal shares this flag with every other program."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            writable = select.poll()
            writable.register(descriptor, select.POLLOUT)
            writable.poll()


def _cost(line: str) -> int:
    return len(line) + _LINE_COST_CHARS

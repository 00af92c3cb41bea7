"""Priorities of the lines in the systemd journal: a line that begins with "<4>" is a warning, see sd-daemon(3).

The prefix is written only if stderr is the journal's stream, which $JOURNAL_STREAM identifies. Elsewhere it would be a
part of the text.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from typing import TextIO

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Priorities of syslog(3) by log level."""


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether the journal reads the stream and interprets the prefix."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # The stream is in memory or closed.
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def prefixed(level: str, text: str) -> str:
    """Return the text with the priority of the level before each line."""
    return "\n".join(f"<{_PRIORITIES[level]}>{line}" for line in text.split("\n"))


class ErrorStream(io.TextIOWrapper):
    """Writes each line with the priority of an error."""

    _is_line_start = True

    def write(self, text: str) -> int:
        for line in io.StringIO(text):
            super().write(prefixed("error", "") + line if self._is_line_start else line)
            self._is_line_start = line.endswith("\n")
        return len(text)


def mark_errors() -> None:
    """Give text on stderr that does not pass the log the priority of an error: failed commands and tracebacks."""
    if is_journal(sys.stderr, os.environ):
        sys.stderr = ErrorStream(sys.stderr.buffer, "utf-8", errors="backslashreplace", line_buffering=True)

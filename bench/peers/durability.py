"""Whether a program syncs a file between a request and its answer, from its system calls (strace)."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from bench.process import PATIENCE_S, Child

_CALLS = "trace=%network,read,readv,write,writev,fsync,fdatasync,msync,sync_file_range"
_REQUEST, _ANSWER = '"POST /', '"HTTP/1.1 2'
_SYNC = re.compile(r"\b(fsync|fdatasync|msync|sync_file_range)(\((?!.*MS_ASYNC)| resumed>).*= 0$")
_ATTACHED = "attached"


def skip_reason() -> str:
    """Return why system calls cannot be followed here, or an empty text."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    return "" if os.geteuid() == 0 else "strace may not attach: not root"


class Watch(Child):
    """Record the system calls of a process until the context ends."""

    def __init__(self, pid: int, directory: Path) -> None:
        self._calls, messages = directory / "strace.calls", directory / "strace.log"
        super().__init__(["strace", "-f", "-s", "40", "-e", _CALLS, "-o", str(self._calls), "-p", str(pid)], messages)
        deadline = time.monotonic() + PATIENCE_S
        while _ATTACHED not in messages.read_text():
            if self.ended() or time.monotonic() > deadline:
                raise RuntimeError(f"strace did not attach: {messages.read_text()}")
            time.sleep(0.01)

    def synced(self) -> str:
        """Return the number of answers after a sync, of all: "3 of 3"."""
        answers = list(synced_answers(self._calls.read_text(errors="replace").splitlines()))
        return f"{sum(answers)} of {len(answers)}" if answers else "no answer was seen"


def synced_answers(calls: Iterable[str]) -> Iterable[bool]:
    """Yield for each answer whether a sync ended after its request was read. One request is in flight at a time."""
    synced: bool | None = None
    for call in calls:
        if _REQUEST in call:
            synced = False
        elif synced is not None and _ANSWER in call:
            yield synced
            synced = None
        elif synced is not None and _SYNC.search(call):
            synced = True

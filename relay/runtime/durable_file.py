"""Replace small text files atomically: after a crash, a file has its old or its new content."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from relay.runtime.flush import flush

_one_writer = threading.Lock()
"""A task that is cancelled leaves its write running in a thread, and the next write must not use the same file."""


def replace_text(path: Path, text: str) -> None:
    """Replace the content of `path` with `text` and a newline. Only the owner may read the file.

    Raises OSError, also if the directory is missing: a running relay must not create a directory again that was deleted
    with its lock.
    """
    new = path.with_name(path.name + ".new")
    with _one_writer:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            flush(file.fileno())
        new.replace(path)

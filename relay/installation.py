"""The identity of this installation: the UUID that `defaults.device_id = "auto"` stands for.

It is made once and kept beside the outbox, so that it lives and dies with the box's state.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def device_id(directory: Path, new_id: Callable[[], str]) -> str:
    """The id kept in `directory`/device_id, made if there is none or what is there is no UUID.

    Raises OSError if it can neither be read nor kept.
    """
    path = directory / "device_id"
    try:
        kept = path.read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        kept = ""
    if _UUID.fullmatch(kept):
        return kept
    made = new_id()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write(made + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    return made

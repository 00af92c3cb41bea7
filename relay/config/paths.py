"""Parse paths of files.

A relative path in the configuration file is relative to that file. In other sources it is relative to the working
directory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.config.values import Kind, Wrong, typing_mistake


def exists(path: Path) -> bool:
    """Return whether there is a file; False if the relay cannot look, or if the name is too long."""
    try:
        path.stat()
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class FilePath(Kind):
    """The path of a file that need not exist."""

    unit = "path"
    optional: bool = True
    """Whether "" is allowed, for no file."""
    max_bytes: int = 4_096

    @property
    def allowed(self) -> str:
        return f"a path of up to {self.max_bytes} bytes" + (', or ""' if self.optional else "")

    def read(self, raw: object) -> str | Wrong:
        if not isinstance(raw, str):
            return Wrong("is not a path")
        if not raw and not self.optional:
            return Wrong("is empty")
        if len(os.fsencode(raw)) > self.max_bytes:
            return Wrong("is too long")
        if not raw.isprintable():
            return Wrong("has control or other unprintable characters")
        if mistake := typing_mistake(raw):
            return Wrong(mistake)
        return raw

    def located(self, raw: object, directory: Path) -> object:
        return str(directory / raw) if isinstance(raw, str) and raw else raw


class OutboxPath(FilePath):
    """The path of the outbox, read as a Path."""

    def read(self, raw: object) -> Any:
        path = FilePath.read(self, raw)
        return path if isinstance(path, Wrong) else Path(path)

    def plain(self, value: Any) -> object:
        return str(value)


class ReadableFile(FilePath):
    """The path of a file that the relay can read now."""

    allowed = 'path of a readable file, or ""'

    def read(self, raw: object) -> str | Wrong:
        path = FilePath.read(self, raw)
        if path and isinstance(path, str):
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                return Wrong(f"cannot be read: {error.strerror}")
        return path

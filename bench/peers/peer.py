"""The adapter of a peer: where its command is found, how it is configured, started and checked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal

Transport = Literal["http", "udp"]
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/opt/fluent-bit/bin"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Files and commands are templates. Their names are those of `Place`, and `program` is the command's path."""

    name: str
    command: str
    transports: frozenset[Transport]
    files: Mapping[str, str]
    run: Sequence[str]
    check: Sequence[str]
    version: str
    """The option that prints the version."""
    delivers: bool = True
    """Whether the peer forwards events. A ceiling does not."""

    @property
    def program(self) -> str | None:
        return shutil.which(self.command, path=_PATH)

    def title(self) -> str:
        """Return the name with the version of the installed command."""
        done = subprocess.run([self._installed(), self.version], capture_output=True, text=True, check=True)
        found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
        return f"{self.name} {found.group()}" if found else self.name

    def configure(self, place: Place) -> list[str]:
        """Write the files into the directory of `place`. Return the command that starts the peer there."""
        for name, text in self.files.items():
            (place.directory / name).write_text(Template(text).substitute(place.names()))
        return self._command(self.run, place)

    def check_command(self, place: Place) -> list[str]:
        """Return the command with which the peer checks its configuration."""
        return self._command(self.check, place)

    def _command(self, words: Sequence[str], place: Place) -> list[str]:
        return [self._installed(), *(Template(word).substitute(place.names()) for word in words)]

    def _installed(self) -> str:
        if self.program is None:
            raise FileNotFoundError(f"{self.command} is not installed")
        return self.program


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The directory of a peer, its own ports, and the upstream."""

    directory: Path
    http_port: int
    udp_port: int
    upstream_host: str
    upstream_port: int
    upstream_path: str
    key: str

    def names(self) -> dict[str, str]:
        return {name: str(getattr(self, name)) for name in self.__slots__}

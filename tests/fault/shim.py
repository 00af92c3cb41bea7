"""A disk that fails on command: a preloaded library between the relay and its files.

Needs a C compiler and LD_PRELOAD, no privileges. The library counts only calls of the ordered kinds on files below
the outbox's directory: `fail(first=3, last=3)` fails the third call after the order.
"""

from __future__ import annotations

import errno
import functools
import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

WRITE, SYNC, NAMES = 1, 2, 4
ANY = WRITE | SYNC | NAMES
EVER = 1 << 62
_ORDERS = struct.Struct("=8q")  # calls, hits, which, first, last, error, delay_us, kill: as in shim.c

needs_cc = pytest.mark.skipif(
    shutil.which("cc") is None or not sys.platform.startswith("linux"), reason="no C compiler for the failing disk"
)


class Shim:
    """Orders to the library in one relay process, through a shared memory page."""

    def __init__(self, page: Path) -> None:
        self._page = page
        page.write_bytes(bytes(_ORDERS.size))
        with page.open("r+b") as file:
            self._orders = mmap.mmap(file.fileno(), _ORDERS.size)

    def around(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a relay that loads the library."""
        below = Path(env["RELAY__OUTBOX__PATH"]).parent
        return dict(env) | {
            "LD_PRELOAD": library(),
            "RELAY_SHIM_ORDERS": str(self._page),
            "RELAY_SHIM_BELOW": str(below),
        }

    def fail(self, which: int, error: int = errno.EIO, first: int = 1, last: int = EVER) -> None:
        self._order(which, first, last, error)

    def slow(self, which: int, delay_ms: int) -> None:
        self._order(which, 1, EVER, 0, delay_us=delay_ms * 1000)

    def kill_at(self, number: int) -> None:
        """Kill the relay (SIGKILL) before call `number` that changes the disk, counted from 1."""
        self._order(ANY, number, number, 0, kill=1)

    def heal(self) -> None:
        self._order(0, EVER, EVER, 0)

    @property
    def hits(self) -> int:
        """Number of calls that failed, were delayed or killed the relay since the last order."""
        hits: int = _ORDERS.unpack_from(self._orders)[1]
        return hits

    def _order(self, which: int, first: int, last: int, error: int, *, delay_us: int = 0, kill: int = 0) -> None:
        _ORDERS.pack_into(self._orders, 0, 0, 0, 0, first, last, error, delay_us, kill)
        _ORDERS.pack_into(self._orders, 0, 0, 0, which, first, last, error, delay_us, kill)


@functools.cache
def library(name: str = "shim.c") -> str:
    """Compile a library of this directory once per test process, and return its path."""
    built = Path(tempfile.mkdtemp(prefix="relay-shim-")) / "shim.so"
    source = Path(__file__).with_name(name)
    compiler = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", str(built), str(source), "-ldl"]
    subprocess.run(compiler, check=True, env=os.environ)
    return str(built)

"""The versions and the machine of a measurement, and the processor time that other programs used during it."""

from __future__ import annotations

import os
import platform
import resource
import sqlite3
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("event-relay", "aiohttp", "aiosqlite", "msgspec", "uvloop", "prometheus-client", "structlog")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_IDLE_FIELDS = (3, 4)
"""Fields of the first line of /proc/stat (proc(5)): idle time, and idle time while a disk request is pending."""


def circumstances() -> dict[str, Any]:
    return {
        "commit": _git("rev-parse", "HEAD"),
        "trees": _git("rev-parse", "HEAD:relay", "HEAD:bench").split(),
        "changed": bool(_git("status", "--porcelain", "--", "relay", "bench")),
        "versions": {name: _version(name) for name in _PACKAGES}
        | {"python": sys.version.split()[0], "sqlite": sqlite3.sqlite_version},
        "machine": {
            "system": platform.platform(),
            "processor": _first("/proc/cpuinfo", "model name"),
            "processors": os.cpu_count(),
            "memory_kib": _first("/proc/meminfo", "MemTotal").split()[0],
        },
    }


class Others:
    """Measures the processors that other programs use: all except this process and its children."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._all_s, self._own_s = _busy_s(), _own_s()

    def busy(self) -> float:
        """Return the mean number of processors since creation. A child's time counts when the child has ended."""
        others_s = _busy_s() - self._all_s - (_own_s() - self._own_s)
        return max(0.0, others_s / (time.monotonic() - self._began))


def _busy_s() -> float:
    fields = [int(field) for field in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    return (sum(fields) - sum(fields[at] for at in _IDLE_FIELDS)) / _TICKS_PER_S


def _own_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _first(path: str, name: str) -> str:
    for each in Path(path).read_text().splitlines():
        if each.startswith(name):
            return each.partition(":")[2].strip()
    return "0"

"""Rows of the table: a figure, its target, a verdict. Printed for people, written as JSON for comparison."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("relay", "aiohttp", "aiosqlite", "msgspec", "uvloop", "prometheus-client", "structlog")


@dataclass(frozen=True, slots=True)
class Target:
    """A number to reach: figures are good from it upwards, or up to it."""

    good: Literal["from", "to"]
    value: float

    def met(self, figure: float) -> bool:
        return figure >= self.value if self.good == "from" else figure <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.good == 'from' else '≤'} {number(self.value)}"


def at_least(value: float) -> Target:
    return Target("from", value)


def at_most(value: float) -> Target:
    return Target("to", value)


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    figure: float | None
    """None: could not be measured; `note` says why."""
    unit: str
    target: Target | None = None
    spread: tuple[float, float] | None = None
    """Least and greatest of the repetitions whose median the figure is."""
    note: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.figure is None:
            return "skipped"
        if self.target is None:
            return ""
        return "reached" if self.target.met(self.figure) else "MISSED"


def number(value: float) -> str:
    """Three significant digits, thousands separated."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def line(row: Row) -> str:
    figure = "-" if row.figure is None else f"{number(row.figure)} {row.unit}".strip()
    if row.spread:
        figure += f"  ({number(row.spread[0])} to {number(row.spread[1])})"
    target = "" if row.target is None else f"{row.target} {row.unit}".strip()
    return f"{row.what:<66} {target:<18} {figure:<44} {row.verdict:<8} {row.note}".rstrip()


def heading() -> str:
    return f"{'what':<66} {'target':<18} {'figure (least to greatest)':<44} {'verdict':<8} note"


def save(scenario: str, size: str, rows: Iterable[Row]) -> Path:
    """One file per run of a scenario."""
    now = datetime.now(UTC)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}-{scenario}.json"
    written = [asdict(row) | {"target": str(row.target or ""), "verdict": row.verdict} for row in rows]
    content = {"scenario": scenario, "size": size, "at": now.isoformat(), **_circumstances(), "rows": written}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def _circumstances() -> dict[str, Any]:
    return {
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--", "relay")),
        "versions": {name: _version(name) for name in _PACKAGES}
        | {"python": sys.version.split()[0], "sqlite": sqlite3.sqlite_version},
        "machine": {
            "system": platform.platform(),
            "processor": _first("/proc/cpuinfo", "model name"),
            "processors": os.cpu_count(),
            "memory_kib": _first("/proc/meminfo", "MemTotal").split()[0],
            "load_average": os.getloadavg(),
        },
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=RESULTS.parent, check=False)
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

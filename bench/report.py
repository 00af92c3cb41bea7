"""Rows of the result table: figure, target and verdict. They are printed, and written as JSON for comparison.

Verdicts: "reached"; "NOT REACHED"; "noise" if the median missed the target but the better end of the spread reached it,
so that the run proves neither; "skipped" if there is no measurement.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bench.machine import circumstances

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Target:
    """A lower ("from") or upper ("to") bound for a figure."""

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
    """Median of the repetitions; None without a measurement (`note` has the reason)."""
    unit: str
    target: Target | None = None
    spread: tuple[float, float] | None = None
    """Minimum and maximum of the repetitions."""
    note: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.figure is None:
            return "skipped"
        if self.target is None:
            return ""
        if self.target.met(self.figure):
            return "reached"
        return "noise" if any(map(self.target.met, self.spread or ())) else "NOT REACHED"


def number(value: float) -> str:
    """Return a number with three significant digits and separated thousands."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def figure(row: Row) -> str:
    """Return the figure with its unit and spread."""
    if row.figure is None:
        return "-"
    text = f"{number(row.figure)} {row.unit}".strip()
    return text if row.spread is None else f"{text} ({number(row.spread[0])} to {number(row.spread[1])})"


def target(row: Row) -> str:
    return "" if row.target is None else f"{row.target} {row.unit}".strip()


def line(row: Row) -> str:
    return f"{row.what:<72} {target(row):<18} {figure(row):<40} {row.verdict:<11} {row.note}".rstrip()


def heading() -> str:
    return f"{'what':<72} {'target':<18} {'figure (least to greatest)':<40} {'verdict':<11} note"


def verdicts(rows: Iterable[Row]) -> str:
    """Return the number of rows per verdict."""
    counted = Counter(row.verdict for row in rows if row.verdict)
    return ", ".join(f"{count} {verdict}" for verdict, count in counted.most_common()) or "no targets"


@dataclass(slots=True)
class Ran:
    """The result of one scenario."""

    scenario: str
    seconds: float
    others_busy: float
    """Processors that other programs used at the same time."""
    rows: list[Row]
    failed: str = ""


class Results:
    """The result file of one run of the benchmarks. It is valid JSON after each scenario."""

    def __init__(self, size: str) -> None:
        at = datetime.now(UTC)
        RESULTS.mkdir(exist_ok=True)
        self.path = RESULTS / f"{at:%Y%m%dT%H%M%SZ}.json"
        self._content: dict[str, Any] = {"at": at.isoformat(), "size": size, **circumstances(), "scenarios": []}

    def add(self, ran: Ran) -> None:
        rows = [asdict(row) | {"target": target(row), "shown": figure(row), "verdict": row.verdict} for row in ran.rows]
        self._content["scenarios"].append(asdict(ran) | {"rows": rows})
        self.path.write_text(json.dumps(self._content, indent=1, ensure_ascii=False) + "\n")

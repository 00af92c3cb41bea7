"""`python -m bench.page FILE`: the page of docs that shows one run's results, on standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_OPENING = """# Benchmarks

One run of `make bench`, written by `make bench PAGE=docs/benchmarks.md` and not by hand. Ratios are medians of
interleaved pairs, in brackets the least and the greatest; what each floor is, is in [performance](performance.md).
"noise": the median missed the target, the better end of the spread did not.
"""
_BUSY = 0.2
"""Processors; with more than that used by others, a scenario's rates are not the relay's alone."""


def page(run: dict[str, Any]) -> str:
    machine, versions = run["machine"], run["versions"]
    parts = [
        _OPENING,
        f"- at {run['at'][:16]}Z, commit `{run['commit'][:12]}`{' with changes' * run['changed']}, size {run['size']}",
        f"- {machine['processors']} processors ({machine['processor']}), {machine['system']}",
        "- " + ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "",
        "| what | target | figure | verdict | note |",
        "|---|---|---|---|---|",
    ]
    for scenario in run["scenarios"]:
        parts += [_row(row) for row in scenario["rows"]]
        if scenario["failed"]:
            parts.append(f"| {scenario['scenario']} | | | failed | {_cell(scenario['failed'])} |")
    busy = [f"{each['scenario']} {each['others_busy']:.1f}" for each in run["scenarios"] if each["others_busy"] > _BUSY]
    if busy:
        parts += ["", f"Processors that other programs kept busy meanwhile: {', '.join(busy)}."]
    return "\n".join(parts) + "\n"


def _row(row: dict[str, Any]) -> str:
    what = _cell(row["what"].strip())
    if row["what"].startswith(" "):
        what = f"· {what}"
    return f"| {what} | {_cell(row['target'])} | {_cell(row['shown'])} | {row['verdict']} | {_cell(row['note'])} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(page(json.loads(Path(sys.argv[1]).read_text())), end="")

"""Print the Markdown page for a result file: `python -m bench.page FILE`.

Scenarios that are missing in this run (such as the soak) are taken from other runs of the same code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.scenarios import SCENARIOS

_OPENING = """# Benchmarks

Written by `make bench PAGE=FILE` and `make soak PAGE=FILE`. Ratios are medians of interleaved pairs, in brackets the
least and the greatest. docs/inside/performance.md describes the floors. "noise": the median missed the target, the
better end of the spread did not.
"""
_BUSY = 0.2
"""Processors used by other programs from which the page reports them, because they affect a scenario's rates."""


def page(runs: Sequence[dict[str, Any]]) -> str:
    """Return the page for runs of the same code on one machine, oldest first, with the last result of each scenario."""
    newest: dict[str, dict[str, Any]] = {}
    for run in runs:
        for scenario in run["scenarios"]:
            if scenario["scenario"] not in newest or not _skipped(scenario):
                newest[scenario["scenario"]] = scenario
    scenarios = [newest[name] for name in SCENARIOS if name in newest]
    last = runs[-1]
    machine, versions = last["machine"], last["versions"]
    measured = ", ".join(f"{run['at'][:16]}Z (size {run['size']})" for run in runs if _shown(run, scenarios))
    parts = [
        _OPENING,
        f"- commit `{last['commit'][:12]}`{' with changes' * last['changed']}, at {measured}",
        f"- {machine['processors']} processors ({machine['processor']}), {machine['system']}",
        "- " + ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "",
        "| what | target | figure | verdict | note |",
        "|---|---|---|---|---|",
    ]
    for scenario in scenarios:
        parts += [_row(row) for row in scenario["rows"]]
        if scenario["failed"]:
            parts.append(f"| {scenario['scenario']} | | | failed | {_cell(scenario['failed'])} |")
    parts += [f"| {name} | | | not run | `make bench SCENARIO={name}` |" for name in SCENARIOS if name not in newest]
    busy = [f"{each['scenario']} {each['others_busy']:.1f}" for each in scenarios if each["others_busy"] > _BUSY]
    if busy:
        parts += ["", f"Processors that other programs used at the same time: {', '.join(busy)}."]
    return "\n".join(parts) + "\n"


def results_beside(path: Path) -> list[dict[str, Any]]:
    """Return the runs with the same relay, benchmarks, versions and machine as the run in `path`, which is the last."""
    wanted = json.loads(path.read_text())
    if wanted["changed"]:
        return [wanted]
    found = [json.loads(each.read_text()) for each in sorted(path.parent.glob("*.json")) if each.name < path.name]
    same = ("trees", "changed", "versions", "machine")
    return [*(run for run in found if all(run.get(key) == wanted[key] for key in same)), wanted]


def _skipped(scenario: dict[str, Any]) -> bool:
    return not scenario["failed"] and all(row["figure"] is None for row in scenario["rows"])


def _shown(run: dict[str, Any], scenarios: Sequence[dict[str, Any]]) -> bool:
    return any(scenario is each for scenario in run["scenarios"] for each in scenarios)


def _row(row: dict[str, Any]) -> str:
    what = _cell(row["what"].strip())
    if row["what"].startswith(" "):
        what = f"· {what}"
    return f"| {what} | {_cell(row['target'])} | {_cell(row['shown'])} | {row['verdict']} | {_cell(row['note'])} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(page(results_beside(Path(sys.argv[1]))), end="")

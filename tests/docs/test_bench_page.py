"""The benchmark page: one row for each scenario, with its last result of the same code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.page import page, results_beside

RUN = {
    "at": "2026-11-23T18:00:00+00:00",
    "size": "default",
    "commit": "c" * 40,
    "trees": ["a", "b"],
    "changed": False,
    "versions": {"python": "3.11"},
    "machine": {"processors": 2, "processor": "one", "system": "Linux"},
}


def scenario(name: str, shown: str | None, failed: str = "") -> dict[str, Any]:
    row = {
        "what": name,
        "target": "",
        "figure": None if shown is None else 1.0,
        "shown": shown or "-",
        "verdict": "",
        "note": "",
    }
    return {"scenario": name, "rows": [] if failed else [row], "failed": failed, "others_busy": 0.0}


def line(text: str, name: str) -> str:
    return next(each for each in text.splitlines() if each.startswith(f"| {name} |"))


def test_missing_scenarios_are_copied_from_an_earlier_run_and_failures_are_shown() -> None:
    earlier = RUN | {"scenarios": [scenario("soak", "20 minutes"), scenario("udp", "old"), scenario("drain", "old")]}
    later = RUN | {"scenarios": [scenario("soak", None), scenario("udp", "new"), scenario("drain", None, "it broke")]}

    text = page([earlier, later])

    assert "20 minutes" in line(text, "soak")
    assert "new" in line(text, "udp")
    assert "it broke" in line(text, "drain")
    assert "not run" in line(text, "idle")


def test_only_runs_of_the_same_code_are_combined(tmp_path: Path) -> None:
    runs = {"1": {}, "2": {"trees": ["other", "b"]}, "3": {"changed": True}, "4": {"commit": "d" * 40}, "5": {}}
    for name, difference in runs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(RUN | {"at": name} | difference))

    assert [run["at"] for run in results_beside(tmp_path / "4.json")] == ["1", "4"]
    assert [run["at"] for run in results_beside(tmp_path / "3.json")] == ["3"]

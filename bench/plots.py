"""Draw the plots of the scenario `growth` into docs: `python -m bench.plots [FILE]`.

Without FILE, the newest result file with this scenario is used. Only this module needs matplotlib (`make plots`
installs it).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

from bench.report import RESULTS

mpl.use("Agg")
from matplotlib import pyplot as plt

IMAGES = Path(__file__).parent.parent / "docs" / "images"


class Panel(NamedTuple):
    title: str
    lines: Sequence[tuple[str, str]]
    """Labels, and names of fields of bench.scenarios.growth.Point."""


_PANELS = (
    Panel("events a second", (("accept", "accepts_per_s"), ("drain", "drained_per_s"))),
    Panel("µs of processor an event", (("accept", "accepted_cpu_us"), ("drain", "drained_cpu_us"))),
    Panel("bytes written an event", (("accept", "accepted_written_bytes"), ("drain", "drained_written_bytes"))),
    Panel("memory, MB", (("resident", "memory_mb"),)),
    Panel("start to ready, s", (("start", "start_s"),)),
)


def draw(run: dict[str, Any], along: str, other: str, label: str, path: Path) -> None:
    """Draw all panels over the field `along`, for the points with the most frequent value of the field `other`."""
    points = [row["detail"] for each in run["scenarios"] if each["scenario"] == "growth" for row in each["rows"]]
    values = [point[other] for point in points]
    usual = max(set(values), key=values.count)
    line = sorted((point for point in points if point[other] == usual), key=lambda point: point[along])
    figure, axes = plt.subplots(len(_PANELS), 1, figsize=(6, 11), sharex=True, layout="constrained")
    for panel, axis in zip(_PANELS, axes, strict=True):
        for name, key in panel.lines:
            axis.plot([point[along] for point in line], [point[key] for point in line], marker="o", label=name)
        axis.set_title(panel.title, fontsize=9, loc="left")
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.grid(visible=True, alpha=0.3)
        axis.legend(fontsize=8)
    axes[-1].set_xlabel(label.format(usual))
    figure.suptitle(f"{run['at'][:10]}, commit {run['commit'][:12]}", fontsize=8)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main(*arguments: str) -> None:
    newest_first = [Path(each) for each in arguments] or sorted(RESULTS.glob("*.json"), reverse=True)
    for path in newest_first:
        run = json.loads(path.read_text())
        if any(each["scenario"] == "growth" and each["rows"] for each in run["scenarios"]):
            draw(run, "waiting", "devices", "pending events ({:,} devices)", IMAGES / "growth-waiting.png")
            draw(run, "devices", "waiting", "devices ({:,} pending events)", IMAGES / "growth-devices.png")
            return
    sys.exit("no result of the scenario growth: run `make bench SCENARIO=growth` first")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Run benchmark scenarios, print their table, and write their results: `python -m bench [SCENARIO ...] [--full]`.

Without SCENARIO, all scenarios run except those that take twenty minutes: soak (`make soak`) and peers. With --full
they run, too.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from bench.machine import Others
from bench.page import page, results_beside
from bench.report import Ran, Results, Row, heading, line, verdicts
from bench.scenarios import HEAVY, LIGHT, SCENARIOS
from bench.setup import Bench, bench

_BUDGET_MINUTES = 25.0
_LONG = ("soak", "peers")


def main() -> int:
    """Return 0 if every scenario could be measured, also if a target was missed; otherwise 1."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--full", action="store_true", help="longer runs, larger sizes, no time limit")
    parser.add_argument(
        "--minutes",
        type=float,
        default=_BUDGET_MINUTES,
        help="without --full, start no heavy scenario and no further pair after this time (default: %(default)g)",
    )
    parser.add_argument(
        "--directory", type=Path, help="parent directory of the outboxes (default: the system's temporary directory)"
    )
    parser.add_argument(
        "--page", type=Path, help="also write the table as Markdown, completed with earlier runs of the same code"
    )
    given = parser.parse_args()
    unknown = set(given.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"unknown scenario {', '.join(sorted(unknown))}; choose from {', '.join(SCENARIOS)}")
    names = given.scenarios or [name for name in SCENARIOS if given.full or name not in _LONG]
    # SystemExit unwinds the context managers, which end the child processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = Results("full" if given.full else "default")
    rows: list[Row] = []
    failed = False
    print(heading(), flush=True)
    with bench(full=given.full, directory=given.directory) as made:
        if not given.full:
            made.over_at = time.monotonic() + given.minutes * 60
        for ran in _run(made, names):
            for row in ran.rows:
                print(line(row))
            if ran.failed:
                print(f"{ran.scenario} failed: {ran.failed}", file=sys.stderr)
            print(f"  [{ran.scenario}: {ran.seconds:.0f} s, other programs used {ran.others_busy:.1f} processors]")
            sys.stdout.flush()
            results.add(ran)
            rows += ran.rows
            failed = failed or bool(ran.failed)
        if made.cut_short:
            print("time limit reached: some comparisons have fewer pairs than planned; run them alone or with FULL=1")
    print(f"{verdicts(rows)}; bench/results/{results.path.name}")
    if given.page:
        given.page.write_text(page(results_beside(results.path)))
    return 1 if failed else 0


def _run(made: Bench, names: list[str]) -> Iterator[Ran]:
    """Run the heavy scenarios one by one, then the light ones concurrently, because they mostly wait for time to pass.

    Each light scenario takes at most two minutes. The time limit does not apply to them.
    """
    for name in [name for name in HEAVY if name in names]:
        yield _one(made, name, made.over_at)
    light = [name for name in LIGHT if name in names]
    if light:
        with ThreadPoolExecutor(len(light)) as pool:
            for done in as_completed([pool.submit(_one, made, name, float("inf")) for name in light]):
                yield done.result()


def _one(made: Bench, name: str, over_at: float) -> Ran:
    rows: list[Row] = []
    failed = ""
    began, others = time.monotonic(), Others()
    if began > over_at:
        rows.append(Row(name, None, "", note="time limit reached; run it alone, or all with FULL=1"))
    else:
        try:
            rows.extend(SCENARIOS[name](made))
        except Exception as error:  # The results of the other scenarios must not be lost.
            failed = f"{type(error).__name__}: {error}"
    return Ran(name, time.monotonic() - began, others.busy(), rows, failed)


if __name__ == "__main__":
    sys.exit(main())

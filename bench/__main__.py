"""`python -m bench [SCENARIO ...] [--full]`: runs scenarios, prints their table, writes their results.

Without a name: all but the soak, which takes twenty minutes and has `make soak`; with --full that one, too.
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
_LONG = "soak"


def main() -> int:
    """Exit code 0 if everything could be measured, whatever it said."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--full", action="store_true", help="longer runs, larger sizes, no bound of time")
    parser.add_argument(
        "--minutes",
        type=float,
        default=_BUDGET_MINUTES,
        help="without --full, begin no heavy scenario and no further pair after this (default: %(default)g)",
    )
    parser.add_argument("--directory", type=Path, help="on whose disk the outboxes are (default: the temporary files')")
    parser.add_argument(
        "--page", type=Path, help="write the table as Markdown, too, with what earlier runs of this code have besides"
    )
    given = parser.parse_args()
    unknown = set(given.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    names = given.scenarios or [name for name in SCENARIOS if given.full or name != _LONG]
    # told to stop, it still ends what it started
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
            print(f"  [{ran.scenario}: {ran.seconds:.0f} s, others kept {ran.others_busy:.1f} processors busy]")
            sys.stdout.flush()
            results.add(ran)
            rows += ran.rows
            failed = failed or bool(ran.failed)
        if made.cut_short:
            print("time was short: some comparisons have fewer pairs than they should; run them alone, or FULL=1")
    print(f"{verdicts(rows)}; bench/results/{results.path.name}")
    if given.page:
        given.page.write_text(page(results_beside(results.path)))
    return 1 if failed else 0


def _run(made: Bench, names: list[str]) -> Iterator[Ran]:
    """The heavy ones one by one, then the light ones all at once: they wait for clocks, not for the machine.

    The light ones are bounded by themselves, two minutes at most, and run in any case.
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
        rows.append(Row(name, None, "", note="no time was left; run it alone, or all with FULL=1"))
    else:
        try:
            rows.extend(SCENARIOS[name](made))
        except Exception as error:  # the others' results are not to be lost
            failed = f"{type(error).__name__}: {error}"
    return Ran(name, time.monotonic() - began, others.busy(), rows, failed)


if __name__ == "__main__":
    sys.exit(main())

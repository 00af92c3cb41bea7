"""`python -m bench [SCENARIO ...] [--full]`: runs scenarios, prints their table, writes their results."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bench.report import Row, heading, line, save
from bench.scenarios import SCENARIOS
from bench.setup import bench


def main() -> int:
    """Exit code 0 if everything could be measured, whatever it said."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument(
        "--full", action="store_true", help="longer runs, larger sizes, and the scenarios that take long"
    )
    parser.add_argument("--directory", type=Path, help="on whose disk the outboxes are (default: the temporary files')")
    given = parser.parse_args()
    unknown = set(given.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    names = given.scenarios or list(SCENARIOS)
    failed = []
    print(heading())
    for name in names:
        rows: list[Row] = []
        began = time.monotonic()
        try:
            with bench(full=given.full, directory=given.directory) as made:
                for row in SCENARIOS[name](made):
                    rows.append(row)
                    print(line(row), flush=True)
        except (RuntimeError, OSError) as error:
            failed.append(name)
            print(f"{name} failed: {error}", file=sys.stderr, flush=True)
        path = save(name, "full" if given.full else "quick", rows)
        print(f"  [{name}: {time.monotonic() - began:.0f} s, {path.name}]", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

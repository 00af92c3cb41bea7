"""Print the section of CHANGELOG.md about a version: `python deploy/release/notes.py 1.2.3`.

Fails unless `relay.__version__` is that version, and the section exists and has a date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def notes(changelog: str, version: str) -> str:
    """Return the text under the heading `## VERSION (DATE)`. Raises ValueError if there is no such heading."""
    for section in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        if heading.split()[0] != version:
            continue
        if not re.fullmatch(r"\S+ \(\d{4}-\d{2}-\d{2}\)", heading):
            raise ValueError(f'CHANGELOG.md: the heading "{heading}" must be "{version} (YYYY-MM-DD)"')
        return text.strip() + "\n"
    raise ValueError(f"CHANGELOG.md: no section about version {version}")


def main(version: str) -> None:
    packaged = re.search(r'^__version__ = "(.+)"$', (ROOT / "relay/__init__.py").read_text(), re.MULTILINE)
    if packaged is None or packaged[1] != version:
        sys.exit(f"relay/__init__.py: __version__ must be {version}")
    try:
        sys.stdout.write(notes((ROOT / "CHANGELOG.md").read_text(), version))
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Plain, aligned text without colours and boxes, for serial consoles and grep."""

from __future__ import annotations

from collections.abc import Sequence

from relay.cli.terminal import printable

MAX_CELL_CHARS = 60


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return columns as wide as their widest cell, with numbers aligned to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in (head, *cells)
    )


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value or "")
    return printable(text, MAX_CELL_CHARS)


def bytes_text(number: int) -> str:
    """Return a size with its unit: 1536 -> "1.5 KiB"."""
    size = float(number)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units: 93784 -> "1 d 2 h"."""
    left = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])

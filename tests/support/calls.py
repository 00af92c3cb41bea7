"""Count the function calls of a piece of code: its work, independent of the machine and its load."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def count_calls(counts: list[int]) -> Iterator[None]:
    """Append the number of Python functions that the block calls to `counts`."""
    calls = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)
        counts.append(calls)

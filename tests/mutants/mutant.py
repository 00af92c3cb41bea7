"""What a mutant is: one mistake somebody could make, as replacements in the source, and the test that finds out."""

from __future__ import annotations

from typing import NamedTuple

FSYNC = "tests/e2e/test_fsync_order.py::test_the_wal_is_synced_before_each_202"
SQLITE = "relay/outbox/sqlite"
CONTRACT = "tests/contract/test_outbox.py"


class Edit(NamedTuple):
    file: str
    before: str
    """Is there once."""
    after: str


class Mutant(NamedTuple):
    name: str
    breaks: str
    edits: tuple[Edit, ...]
    caught_by: str
    """A test's id for pytest."""


def mutant(name: str, breaks: str, caught_by: str, *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(name, breaks, tuple(Edit(*edit) for edit in edits), caught_by)

"""A mutant: a plausible mistake, as replacements in the source, and the test that must detect it."""

from __future__ import annotations

from typing import NamedTuple

FSYNC = "tests/e2e/test_fsync_order.py::test_the_wal_is_synced_before_each_202"
ENGINE = "relay/outbox/engine"
SQLITE = "relay/outbox/sqlite"
CONTRACT = "tests/contract/test_outbox.py"


class Edit(NamedTuple):
    file: str
    before: str
    """Text that occurs exactly once in the file."""
    after: str


class Mutant(NamedTuple):
    name: str
    breaks: str
    edits: tuple[Edit, ...]
    caught_by: str
    """The pytest id of the test that must fail."""


def mutant(name: str, breaks: str, caught_by: str, *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(name, breaks, tuple(Edit(*edit) for edit in edits), caught_by)

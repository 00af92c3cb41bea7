"""Every mutant applies to the current source, so that a change of the code cannot make it obsolete unnoticed."""

from __future__ import annotations

import re

import pytest

from tests.mutants.__main__ import ROOT
from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_built_and_its_test_exists(mutant: Mutant) -> None:
    sources = {edit.file: (ROOT / edit.file).read_text() for edit in mutant.edits}
    for edit in mutant.edits:
        assert sources[edit.file].count(edit.before) == 1, edit.before
        sources[edit.file] = sources[edit.file].replace(edit.before, edit.after)
    for file, source in sources.items():
        if file.endswith(".py"):
            compile(source, file, "exec")
    path, *names = mutant.caught_by.split("::")
    tests = (ROOT / path).read_text()
    for name in names:
        plain = name.partition("[")[0]
        assert re.search(rf"(class|def) {plain}\b", tests), f"{path} has no {plain}"


def test_names_are_unique() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)

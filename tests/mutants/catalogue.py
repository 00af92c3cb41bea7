"""Which promises are broken on purpose, how, and which test finds out."""

from __future__ import annotations

from tests.mutants import guarded, paced, stored

MUTANTS = (*stored.MUTANTS, *paced.MUTANTS, *guarded.MUTANTS)

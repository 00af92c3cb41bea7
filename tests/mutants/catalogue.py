"""Which promises are broken on purpose, how, and which test finds out."""

from __future__ import annotations

from tests.mutants import guarded, kept, paced

MUTANTS = (*kept.MUTANTS, *paced.MUTANTS, *guarded.MUTANTS)

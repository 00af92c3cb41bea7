"""All mutants: the broken promise, the edits, and the test that must detect them."""

from __future__ import annotations

from tests.mutants import guarded, image, network, paced, passed, shared, stored

MUTANTS = (
    *stored.MUTANTS,
    *paced.MUTANTS,
    *guarded.MUTANTS,
    *network.MUTANTS,
    *passed.MUTANTS,
    *shared.MUTANTS,
    *image.MUTANTS,
)

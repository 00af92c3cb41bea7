"""Fixtures shared with the end-to-end tests: a sandbox upstream."""

from __future__ import annotations

from tests.e2e.conftest import sandbox

__all__ = ["sandbox"]

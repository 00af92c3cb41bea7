"""No test is timed: a busy machine proves nothing. What hangs is ended by pytest-timeout."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("relay", deadline=None)
settings.load_profile("relay")

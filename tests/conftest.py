"""Properties are not timed: a busy machine proves nothing."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("relay", deadline=None)
settings.load_profile("relay")

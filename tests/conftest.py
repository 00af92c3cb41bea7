"""How made-up examples are chosen, for all tests.

No test is timed: a busy machine proves nothing; what hangs is ended by pytest-timeout. The examples are the same
each time, so that a change is judged by what it changes; with RELAY_NIGHTLY=1 they are new ones.
"""

from __future__ import annotations

from hypothesis import settings

from tests.fault.sizes import NIGHTLY

settings.register_profile("relay", deadline=None, derandomize=not NIGHTLY)
settings.load_profile("relay")

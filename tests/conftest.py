"""Hypothesis settings for all tests.

No example has a deadline, because the load of the machine affects its duration. pytest-timeout ends a test that hangs.
The examples are the same in each run, so that a failure is due to the change under test. RELAY_NIGHTLY=1 draws new
examples.
"""

from __future__ import annotations

from hypothesis import settings

from tests.fault.sizes import NIGHTLY

settings.register_profile("relay", deadline=None, derandomize=not NIGHTLY)
settings.load_profile("relay")

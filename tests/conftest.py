"""Hypothesis settings for all tests, and a PostgreSQL server for those that need one.

No example has a deadline, because the load of the machine affects its duration. pytest-timeout ends a test that hangs.
The examples are the same in each run, so that a failure is due to the change under test. RELAY_NIGHTLY=1 draws new
examples.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.fault.sizes import NIGHTLY

if TYPE_CHECKING:
    from tests.support.postgres_server import PostgresCluster

settings.register_profile("relay", deadline=None, derandomize=not NIGHTLY)
settings.load_profile("relay")


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresCluster]:
    """Return a private PostgreSQL server. Skip the test where PostgreSQL or its driver is not installed."""
    pytest.importorskip("psycopg", reason="the extra [postgres] is not installed")
    from tests.support.postgres_server import PostgresCluster, find_tools

    tools = find_tools()
    if tools is None:
        pytest.skip("PostgreSQL is not installed (initdb and pg_ctl)")
    cluster = PostgresCluster(tools)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(autouse=True)
def _signals_stay_unblocked() -> Iterator[None]:
    """Fail a test that blocks signals in this process: the processes of later tests would inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    assert signal.pthread_sigmask(signal.SIG_SETMASK, before) == before

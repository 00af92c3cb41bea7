"""The choice of a store: the only module that imports one.

The shared store and its driver are imported only if they are configured: they are an extra of the distribution.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from relay.config import OutboxSettings
from relay.outbox.engine.outbox import OutboxEngine
from relay.outbox.sqlite import SQLITE_VERSION, SqliteStorage, files, schema
from relay.runtime.clock import Clock
from relay.runtime.machine import MachineIds
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks

if TYPE_CHECKING:
    from relay.outbox.postgres.outbox import SharedOutbox

__all__ = ["STORE_VERSION", "OutboxEngine", "create_outbox", "describe_schema", "exists", "why_unusable"]

STORE_VERSION = SQLITE_VERSION
_MAX_NAME_CHARS = 48


def create_outbox(
    settings: OutboxSettings,
    clock: Clock,
    metrics: Metrics,
    tasks: Tasks,
    *,
    mends: bool = True,
    ids: MachineIds | None = None,
) -> OutboxEngine | SharedOutbox:
    """Return a closed outbox. Raises OutboxUnusable for a URL of a database that cannot be used.

    `mends`: whether a broken store is quarantined and salvaged; otherwise `open` raises OutboxUnusable. `ids`: of this
    machine. If the outbox belongs to another machine, `open` quarantines its pending events. None: no check.
    """
    if settings.kind == "postgres":
        return _create_shared(settings, clock, metrics, tasks)
    storage = SqliteStorage(settings, clock, metrics, mends=mends, ids=ids)
    return OutboxEngine(settings, clock, metrics, tasks, storage)


def _create_shared(settings: OutboxSettings, clock: Clock, metrics: Metrics, tasks: Tasks) -> SharedOutbox:
    from relay.outbox.postgres.outbox import SharedOutbox  # noqa: PLC0415
    from relay.outbox.postgres.server import PostgresServer  # noqa: PLC0415

    named = replace(settings, replica_name=settings.replica_name or socket.gethostname()[:_MAX_NAME_CHARS])
    return SharedOutbox(named, clock, metrics, tasks, PostgresServer(named))


def why_unusable(settings: OutboxSettings) -> str | None:
    """Return why this installation cannot use the configured store, or None."""
    if settings.kind != "postgres":
        return None
    try:
        from relay.outbox.postgres.connection import url_problem  # noqa: PLC0415
    except ImportError as error:
        return f"the driver of PostgreSQL is not installed ({error}): pip install 'event-relay[postgres]'"
    return url_problem(settings.url)


def exists(settings: OutboxSettings) -> bool:
    """Return whether the outbox was created. Raises OSError if this user cannot look it up."""
    return settings.kind == "postgres" or files.identity(settings.path) is not None


def describe_schema() -> dict[str, object]:
    """Return the version and the tables of a new store."""
    return {"version_of_relay": len(schema.MIGRATIONS), "tables": schema.statements()}

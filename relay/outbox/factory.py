"""The choice of a store: the only module that imports one."""

from __future__ import annotations

from relay.config import OutboxSettings
from relay.outbox.engine.outbox import OutboxEngine
from relay.outbox.sqlite import SQLITE_VERSION, SqliteStorage, files, schema
from relay.runtime.clock import Clock
from relay.runtime.machine import MachineIds
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks

__all__ = ["STORE_VERSION", "OutboxEngine", "create_outbox", "describe_schema", "exists"]

STORE_VERSION = SQLITE_VERSION


def create_outbox(
    settings: OutboxSettings,
    clock: Clock,
    metrics: Metrics,
    tasks: Tasks,
    *,
    mends: bool = True,
    ids: MachineIds | None = None,
) -> OutboxEngine:
    """Return a closed outbox.

    `mends`: whether a broken store is quarantined and salvaged; otherwise `open` raises OutboxUnusable. `ids`: of this
    machine. If the outbox belongs to another machine, `open` quarantines its pending events. None: no check.
    """
    storage = SqliteStorage(settings, clock, metrics, mends=mends, ids=ids)
    return OutboxEngine(settings, clock, metrics, tasks, storage)


def exists(settings: OutboxSettings) -> bool:
    """Return whether the outbox was created. Raises OSError if this user cannot look it up."""
    return files.identity(settings.path) is not None


def describe_schema() -> dict[str, object]:
    """Return the version and the tables of a new store."""
    return {"version_of_relay": len(schema.MIGRATIONS), "tables": schema.statements()}

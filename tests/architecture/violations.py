"""Deliberate violations of the architecture, one rule each. Linters must report every one (see `test_violations`)."""

from __future__ import annotations

from typing import NamedTuple


class Violation(NamedTuple):
    """Code that is appended to a module (which is created if it does not exist), and who reports it."""

    tool: str
    module: str
    code: str


VIOLATIONS = {
    "policy waits": Violation("imports", "policy/backoff.py", "import asyncio"),
    "policy reads a clock": Violation("imports", "policy/backoff.py", "from relay.runtime import clock"),
    "policy logs": Violation("imports", "policy/verdict.py", "import structlog"),
    "policy counts": Violation("imports", "policy/verdict.py", "from relay.runtime.metrics import Metrics"),
    "policy knows the configuration": Violation(
        "imports", "policy/rate_window.py", "from relay.config import Settings"
    ),
    "policy does I/O through a library": Violation("imports", "policy/rate_window.py", "import socket"),
    "policy does I/O without an import": Violation("rules", "policy/rate_window.py", "def f() -> None:\n    open('x')"),
    "policy waits without an import": Violation("rules", "policy/rate_window.py", "async def f() -> None: ..."),
    "event knows a library for HTTP": Violation("imports", "event/rules.py", "import aiohttp"),
    "event draws a random number": Violation("imports", "event/rules.py", "import uuid"),
    "the promise knows SQLite": Violation("imports", "outbox/__init__.py", "import sqlite3"),
    "the engine knows SQLite": Violation("imports", "outbox/engine/limits.py", "import aiosqlite"),
    "ingest knows SQLite": Violation("imports", "ingest/events_api.py", "import sqlite3"),
    "a command knows SQLite": Violation("imports", "cli/flush.py", "import sqlite3"),
    "forward knows how events are stored": Violation(
        "imports", "forward/forwarder.py", "from relay.outbox.sqlite import SqliteStorage"
    ),
    "the composition root chooses a store without the factory": Violation(
        "imports", "app/service.py", "from relay.outbox.sqlite import SqliteStorage"
    ),
    "a command opens a store without the factory": Violation(
        "imports", "cli/outbox_on_disk.py", "from relay.outbox.sqlite import files"
    ),
    "a command uses the engine without the factory": Violation(
        "imports", "cli/outbox_on_disk.py", "from relay.outbox.engine.outbox import OutboxEngine"
    ),
    "forward chooses a store": Violation(
        "imports", "forward/forwarder.py", "from relay.outbox.factory import create_outbox"
    ),
    "the promise knows the factory": Violation("imports", "outbox/__init__.py", "from relay.outbox import factory"),
    "ops knows how events are stored": Violation("imports", "ops/status.py", "from relay.outbox.engine import limits"),
    "anybody knows PostgreSQL": Violation("imports", "app/service.py", "import psycopg"),
    "ops is a client of the upstream": Violation("rules", "ops/status.py", "from aiohttp import ClientSession"),
    "SQL numbers its parameters": Violation("rules", "outbox/sqlite/loading.py", "_SQL = 'SELECT ?1'"),
    "ingest reads time": Violation("imports", "ingest/events_api.py", "import time"),
    "forward draws a random number": Violation("imports", "forward/forwarder.py", "import random"),
    "time through the event loop": Violation(
        "rules", "forward/forwarder.py", "def f(loop: asyncio.AbstractEventLoop) -> float:\n    return loop.time()"
    ),
    "time of day": Violation("ruff", "ops/status.py", "import datetime\nNOW = datetime.datetime.now()"),
    "a task that no one watches": Violation(
        "ruff", "forward/forwarder.py", "async def f() -> None:\n    asyncio.create_task(f())"
    ),
    "ingest knows forward": Violation("imports", "ingest/events_api.py", "from relay.forward import forwarder"),
    "forward knows ingest": Violation("imports", "forward/forwarder.py", "from relay.ingest import events_api"),
    "the sandbox knows the relay": Violation("imports", "sandbox/server.py", "from relay.config import Settings"),
    "a lower level imports a higher one": Violation("imports", "runtime/log.py", "from relay.config import Log"),
    "a part knows the composition root": Violation("imports", "ops/status.py", "from relay.app import service"),
    "a cycle": Violation("imports", "http/guard.py", "from relay.ops import access"),
    "a module without a package": Violation("rules", "helpers.py", '"""Odds and ends."""'),
    "a package without a level": Violation("imports", "helpers/__init__.py", '"""Odds and ends."""'),
    "output beside the log": Violation("ruff", "ops/status.py", "print('here')"),
    "a function that does not fit a screen": Violation(
        "rules", "ops/status.py", "def f() -> None:\n" + "    pass\n" * 71
    ),
    "types only, of a higher level": Violation(
        "imports",
        "runtime/tasks.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from relay.config import Settings",
    ),
    "a higher level inside of a function": Violation(
        "imports", "http/guard.py", "def f() -> None:\n    from relay.outbox import OutboxFull\n    raise OutboxFull"
    ),
    "an import by name": Violation(
        "rules", "ops/status.py", "import importlib\nSTORE = importlib.import_module('relay.outbox.' + 'sqlite')"
    ),
    "the promise knows the engine": Violation(
        "imports", "outbox/__init__.py", "from relay.outbox.engine import limits"
    ),
    "the engine knows a store": Violation("imports", "outbox/engine/limits.py", "from relay.outbox.sqlite import wal"),
    "a store without a level": Violation("imports", "outbox/mysql/__init__.py", '"""Another store."""'),
    "the HTTP server knows the outbox": Violation("imports", "http/guard.py", "from relay.outbox import OutboxFull"),
    "the configuration knows policies": Violation("imports", "config/keys.py", "from relay.policy import limits"),
    "UDP knows forward": Violation("imports", "ingest/udp/responses.py", "from relay.forward import forwarder"),
    "forward knows ops": Violation("imports", "forward/forwarder.py", "from relay.ops import status"),
    "a command draws a secret": Violation("imports", "cli/flush.py", "import secrets"),
    "random bytes of the system": Violation("rules", "ops/status.py", "import os\nTOKEN = os.urandom(16)"),
    "a random id": Violation("ruff", "ops/status.py", "import uuid\nID = uuid.uuid4()"),
    "today": Violation("ruff", "ops/status.py", "import datetime\nTODAY = datetime.date.today()"),
    "the clock of an event loop as a value": Violation(
        "rules", "ops/status.py", "import asyncio\nNOW = asyncio.new_event_loop().time"
    ),
    "a task of the event loop": Violation(
        "rules",
        "forward/forwarder.py",
        "async def f() -> None:\n    asyncio.get_running_loop().create_task(f())",
    ),
    "all of the HTTP library": Violation("rules", "ops/status.py", "import aiohttp"),
    "a cycle inside of a package": Violation("rules", "forward/exchange.py", "from relay.forward import upstream"),
    "a second type of the same name": Violation("rules", "ops/status.py", "class Reader:\n    pass"),
    "a module beyond its size": Violation("rules", "ops/status.py", "# One more line.\n" * 400),
    "a test of no module": Violation("rules", "../tests/unit/ops/test_odds_and_ends.py", '"""Odds and ends."""'),
}

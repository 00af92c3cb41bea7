"""The store in a SQLite file, the embedded default.

`store` implements the storage protocol of the engine. `statements`, `dead_letters` and `quarantine` execute the
commands, in one transaction on the thread of `connection`. `space` limits the file, and `wal` measures the write-ahead
log. `loading` reads a sound file; `recovery` and `salvage` replace a broken one.
"""

from relay.outbox.sqlite.connection import SQLITE_VERSION
from relay.outbox.sqlite.store import SqliteStorage

__all__ = ["SQLITE_VERSION", "SqliteStorage"]

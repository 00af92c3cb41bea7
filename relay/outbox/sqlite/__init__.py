"""The outbox in a SQLite file, the embedded default.

`outbox` implements the interface. `group_commit` decides when to commit. `commit_plan`,
`operations`, `dead_letters` and `quarantine` plan a commit, `statements` and `transaction` execute
it, and `outbox_state` is the state in memory. `store` manages the open file, and `connection`
configures SQLite. `loading` reads a sound file; `recovery` and `salvage` replace a broken one.
"""

from relay.outbox.sqlite.connection import SQLITE_VERSION
from relay.outbox.sqlite.outbox import SqliteOutbox

__all__ = ["SQLITE_VERSION", "SqliteOutbox"]

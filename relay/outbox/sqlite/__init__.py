"""The outbox in a SQLite file: the embedded default.

`outbox` is the way in, `owner` decides when. `draft` and `ops` plan a commit, `transactions` and `dead`
run it, `book` is what memory knows. `store` owns the open file, `connection` how SQLite is set up,
`recovery` and `salvage` what happens to a broken one, `start` what is read of a sound one.
"""

from relay.outbox.sqlite.connection import SQLITE_VERSION
from relay.outbox.sqlite.outbox import SqliteOutbox

__all__ = ["SQLITE_VERSION", "SqliteOutbox"]

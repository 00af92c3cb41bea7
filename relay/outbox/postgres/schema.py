"""The tables of the shared outbox, and their migrations.

Names of the schema: a slot is a queue group. A row of `commits` describes the events of one append transaction, a row
of `moves` has the totals of a replica after its last forward transaction.

`log`, `commits` and `moves` are each the parent of a ring of tables (see `ring`): a statement that names a parent reads
all of them. Relays of schema 1 write into the parents, so that both versions can run at once.

Rule for a migration: relays of the last version run at the same time, so it only adds. `meta.version` is the oldest
version that can use the tables, `meta.migrated` the number of executed migrations.
"""

from __future__ import annotations

VERSION = 1
"""The latest `meta.version` that this relay can use."""
RING = 8
"""Number of tables of a ring."""
RINGS = {"log": "seq", "commits": "replica, id", "moves": "replica, n"}
"""Primary key by parent."""

_FIRST = (
    "CREATE TABLE IF NOT EXISTS meta(one bool PRIMARY KEY DEFAULT true CHECK (one), version int NOT NULL,"
    " outbox_ms bigint, monotonic_ms bigint, wall_ms bigint, boot_id text, boot_from_ms bigint NOT NULL DEFAULT 0)",
    "CREATE TABLE IF NOT EXISTS replicas(replica int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL,"
    " beat bigint NOT NULL DEFAULT 0, events bigint NOT NULL DEFAULT 0, body_bytes bigint NOT NULL DEFAULT 0)"
    " WITH (fillfactor=20)",
    "CREATE TABLE IF NOT EXISTS fences(replica int, role text, fenced bool NOT NULL DEFAULT false,"
    " PRIMARY KEY (replica, role))",
    "CREATE TABLE IF NOT EXISTS slots(slot int PRIMARY KEY, replica int)",
    "CREATE TABLE IF NOT EXISTS device_queues(queue_id bigint PRIMARY KEY, slot int NOT NULL,"
    " tenant_id bigint NOT NULL, platform text NOT NULL, device_id text NOT NULL, cursors jsonb NOT NULL DEFAULT '{}',"
    " rate_window bytea NOT NULL DEFAULT '', monotonic_ms bigint NOT NULL DEFAULT 0, holder int, request bigint,"
    " ordinal int, flight jsonb, shift_ms bigint, omitted bytea, forgotten bool NOT NULL DEFAULT false)"
    " WITH (fillfactor=50)",
    "CREATE INDEX IF NOT EXISTS device_queues_slot ON device_queues(slot)",
    "CREATE TABLE IF NOT EXISTS owed(queue_id bigint, replica int, since_ms bigint NOT NULL,"
    " ended bool NOT NULL DEFAULT false,"
    " PRIMARY KEY (queue_id, replica))",
    "CREATE TABLE IF NOT EXISTS marks(seq bigint PRIMARY KEY, queue_id bigint NOT NULL, why text NOT NULL)",
    "CREATE TABLE IF NOT EXISTS log(seq bigint PRIMARY KEY, queue_id bigint NOT NULL, event_id bytea NOT NULL,"
    " crc bigint NOT NULL, checked bigint NOT NULL, body bytea NOT NULL)",
    "ALTER TABLE log ALTER COLUMN body SET STORAGE EXTERNAL",
    "CREATE TABLE IF NOT EXISTS commits(replica int, id bigint, n bigint NOT NULL, accepted bigint NOT NULL,"
    " requeued bigint NOT NULL, at_ms bigint NOT NULL, is_requeue bool NOT NULL, queue_ids bytea NOT NULL,"
    " sizes bytea NOT NULL, ids bytea NOT NULL, checks bytea NOT NULL, PRIMARY KEY (replica, id))",
    "CREATE TABLE IF NOT EXISTS moves(replica int, n bigint, delivered bigint NOT NULL, dead_lettered bigint NOT NULL,"
    " dropped bigint NOT NULL, duplicates bigint NOT NULL, PRIMARY KEY (replica, n))",
    "CREATE TABLE IF NOT EXISTS dead_letters(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
    " queue_id bigint NOT NULL, event_id bytea NOT NULL, tenant_id bigint NOT NULL, platform text NOT NULL,"
    " device_id text NOT NULL, reason text NOT NULL, status int, message text NOT NULL, dead_at_ms bigint NOT NULL,"
    " crc bigint NOT NULL, checked bigint NOT NULL, body bytea NOT NULL)",
    "CREATE SEQUENCE IF NOT EXISTS commit_id",
    "INSERT INTO slots SELECT slot, NULL FROM generate_series(0, 255) slot ON CONFLICT DO NOTHING",
    "INSERT INTO meta(version) VALUES (1) ON CONFLICT DO NOTHING",
)

_RING = (
    "CREATE INDEX IF NOT EXISTS dead_letters_event ON dead_letters(event_id)",
    *(
        f"CREATE TABLE {parent}_{number}(PRIMARY KEY ({key})) INHERITS ({parent})"
        " WITH (autovacuum_enabled=false, toast.autovacuum_enabled=false)"
        for parent, key in RINGS.items()
        for number in range(RING)
    ),
    "ALTER TABLE meta ADD segment int NOT NULL DEFAULT 0",
    "ALTER TABLE meta ADD segment_from_ms bigint NOT NULL DEFAULT 0",
    "ALTER TABLE meta ADD migrated int NOT NULL DEFAULT 2",
)

_DEVICES = ("ALTER TABLE replicas ADD devices bigint NOT NULL DEFAULT 0", "UPDATE meta SET migrated = 3")

MIGRATIONS = (_FIRST, _RING, _DEVICES)
MIGRATED = "SELECT coalesce((to_jsonb(meta) ->> 'migrated')::int, 1) FROM meta"
"""The number of executed migrations of existing tables."""

"""The statements of the shared outbox. INSERTs name their columns, and a statement changes each table once.

`{k}` is the number of a table in the ring. Statements that add rows name a table of the ring, others the parents.
"""

from __future__ import annotations

_ROW_BYTES = 250
"""Size of a stored event without its body, on the server."""

FENCE = "SELECT 1 FROM fences WHERE replica = %s AND role = %s AND NOT fenced FOR SHARE"
FENCE_AND_WAIT = "SELECT 1 FROM fences WHERE replica = %s AND role = %s AND NOT fenced FOR UPDATE"
"""Waits until a transaction of an earlier connection is decided."""

DURABILITY = """
CASE WHEN 'off' IN (current_setting('synchronous_commit'), current_setting('fsync')) THEN 'normal'
     WHEN current_setting('synchronous_commit') IN ('on', 'remote_apply')
          AND current_setting('synchronous_standby_names') <> '' THEN 'replicated'
     ELSE 'full' END"""
APPEND = f"""
WITH f AS MATERIALIZED (
       SELECT 1 FROM fences WHERE replica = %(replica)s AND role = 'append' AND NOT fenced FOR SHARE),
     s AS MATERIALIZED (SELECT nextval('commit_id') AS id FROM f),
     c AS (INSERT INTO commits_{{k}}(replica, id, n, accepted, requeued, at_ms, is_requeue, queue_ids, sizes, ids,
                                        checks)
           SELECT %(replica)s, id, %(n)s, %(accepted)s, %(requeued)s, %(at_ms)s, false, %(packed_queue_ids)b,
                  %(packed_sizes)b, %(ids)b, %(packed_checks)b FROM s),
     q AS (INSERT INTO device_queues(queue_id, slot, tenant_id, platform, device_id)
           SELECT u.* FROM f, unnest(%(new_ids)s::bigint[], %(new_slots)s::int[], %(new_tenants)s::bigint[],
                                     %(new_platforms)s::text[], %(new_devices)s::text[]) u
           ON CONFLICT (queue_id) DO UPDATE SET forgotten = false WHERE device_queues.forgotten),
     r AS (INSERT INTO log_{{k}}(seq, queue_id, event_id, crc, checked, body)
           SELECT (s.id << 12) | u.n, u.queue_id, substring(%(ids)b::bytea FROM (16 * u.n - 15)::int FOR 16), u.crc,
                  u.checked, substring(%(bodies)b::bytea FROM u.start FOR u.size)
           FROM s, unnest(%(queue_ids)s::bigint[], %(crcs)s::bigint[], %(checks)s::bigint[], %(starts)s::int[],
                          %(sizes)s::int[]) WITH ORDINALITY u(queue_id, crc, checked, start, size, n))
SELECT id, {DURABILITY} FROM s"""  # noqa: S608

_COMMIT = """
replica, id, at_ms, is_requeue, accepted, requeued, queue_ids, sizes, ids, checks,
nullif(right(tableoid::regclass::text, 1), 's')::int"""
LAST_APPEND = f"""
SELECT n, {_COMMIT} FROM commits
WHERE replica = %(replica)s AND n = (SELECT max(n) FROM commits WHERE replica = %(replica)s) ORDER BY id"""  # noqa: S608
POLL = f"""
SELECT c.* FROM replicas
LEFT JOIN unnest(%s::int[], %s::bigint[]) p(replica, position) ON p.replica = replicas.replica
CROSS JOIN LATERAL (
  SELECT {_COMMIT} FROM commits
  WHERE commits.replica = replicas.replica AND commits.id > coalesce(p.position, 0) ORDER BY id LIMIT %s) c"""  # noqa: S608

REQUEUED = """
DELETE FROM dead_letters WHERE id = ANY(%s)
RETURNING id, queue_id, event_id, tenant_id, platform, device_id, crc, checked, body"""
ADD_QUEUE = """
INSERT INTO device_queues(queue_id, slot, tenant_id, platform, device_id) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (queue_id) DO UPDATE SET forgotten = false WHERE device_queues.forgotten"""
ADD_COMMIT = """
INSERT INTO commits_{k}(replica, id, n, accepted, requeued, at_ms, is_requeue, queue_ids, sizes, ids, checks)
VALUES (%s, %s, %s, %s, %s, %s, true, %s, %s, %s, %s)"""
ADD_EVENT = "INSERT INTO log_{k}(seq, queue_id, event_id, crc, checked, body) VALUES (%s, %s, %s, %s, %s, %s)"

ADD_MOVE = """
INSERT INTO moves_{k}(replica, n, delivered, dead_lettered, dropped, duplicates) VALUES (%s, %s, %s, %s, %s, %s)"""
LAST_MOVE = "SELECT coalesce(max(n), 0) FROM moves WHERE replica = %s"
JOURNAL = """
UPDATE device_queues SET rate_window = %s, monotonic_ms = %s, holder = %s, request = %s, ordinal = %s,
       flight = %s::jsonb, shift_ms = %s, omitted = %s, forgotten = false WHERE queue_id = %s"""
SETTLE = """
UPDATE device_queues SET cursors = CASE WHEN NOT %s THEN cursors ELSE (
         SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(cursors)
         WHERE key::int IN (SELECT replica FROM replicas)) END || %s::jsonb,
       rate_window = %s, monotonic_ms = %s, request = NULL, ordinal = NULL, flight = NULL,
       shift_ms = NULL, omitted = NULL WHERE queue_id = %s"""
BURY = """
INSERT INTO dead_letters(queue_id, event_id, tenant_id, platform, device_id, reason, status, message, dead_at_ms, crc,
                         checked, body)
SELECT %s, %s, %s, %s, %s, %s, %s, %s, %s, coalesce(crc, 0), coalesce(checked, 0), coalesce(body, '')
FROM (SELECT 1) one LEFT JOIN log ON seq = %s"""
LETTER_TOTALS = "SELECT count(*), coalesce(sum(octet_length(body)), 0)::bigint FROM dead_letters"
LETTER_SHARES = "SELECT id, tenant_id, platform, device_id, octet_length(body) FROM dead_letters ORDER BY id"
DELETE_LETTERS = "DELETE FROM dead_letters WHERE id = ANY(%s) RETURNING octet_length(body)"
MARK = """
INSERT INTO marks(seq, queue_id, why) SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::text[])
ON CONFLICT (seq) DO UPDATE SET why = excluded.why"""
FORGET = "UPDATE device_queues SET forgotten = true WHERE queue_id = ANY(%s)"
READ_BODIES = "SELECT seq, crc, body FROM {table} WHERE seq = ANY(%s)"
_LETTERS = """
SELECT id, event_id, tenant_id, platform, device_id, reason, status, message, dead_at_ms, body FROM dead_letters
WHERE {after} AND (%(ids)s::bigint[] IS NULL OR id = ANY(%(ids)s::bigint[]))
  AND (%(device_id)s::text IS NULL OR device_id = %(device_id)s) AND (%(reason)s::text IS NULL OR reason = %(reason)s)
  AND (%(event_id)s::bytea IS NULL OR event_id = %(event_id)s)
ORDER BY id {order} LIMIT %(limit)s"""
LETTERS = _LETTERS.format(after="id > %(after)s", order="")
NEWEST_LETTERS = _LETTERS.format(after="(id < %(after)s OR %(after)s = 0)", order="DESC")

BEAT = "UPDATE replicas SET beat = beat + 1, events = %s, body_bytes = %s, devices = %s WHERE replica = %s"
SAVE_TIME = "UPDATE meta SET outbox_ms = %s, monotonic_ms = %s, wall_ms = %s, boot_id = %s, boot_from_ms = %s"
VERSION = "SELECT version FROM meta"
TIME = "SELECT outbox_ms, monotonic_ms, wall_ms, boot_id, boot_from_ms, segment FROM meta"
STATE = f"SELECT coalesce(outbox_ms, 0), {DURABILITY}, segment FROM meta"  # noqa: S608
VIEW = """
SELECT r.replica, r.name, r.beat, r.events, r.body_bytes, r.devices, f.fenced,
       coalesce(c.accepted, 0), coalesce(c.requeued, 0), coalesce(m.delivered, 0),
       coalesce(m.dead_lettered, 0), coalesce(m.dropped, 0), coalesce(m.duplicates, 0)
FROM replicas r JOIN fences f ON f.replica = r.replica AND f.role = 'forward'
LEFT JOIN LATERAL (SELECT accepted, requeued FROM commits WHERE replica = r.replica ORDER BY id DESC LIMIT 1) c ON true
LEFT JOIN LATERAL (SELECT * FROM moves WHERE replica = r.replica ORDER BY n DESC LIMIT 1) m ON true"""
HOLDERS = "SELECT slot, replica FROM slots WHERE replica IS NOT NULL"

HAS_TABLES = "SELECT to_regclass('meta') IS NOT NULL"
REGISTER = "INSERT INTO replicas(name) VALUES (%s) RETURNING replica"
ADD_FENCES = "INSERT INTO fences(replica, role) VALUES (%s, 'append'), (%s, 'forward')"
LIVE = "SELECT count(*) FROM fences WHERE role = 'forward' AND NOT fenced"
LAST_TIME = "SELECT coalesce(max(at_ms), 0) FROM commits"
MARKS = "SELECT seq, queue_id, why FROM marks"
LOCK_REPLICA = "UPDATE replicas SET beat = beat WHERE replica = %s AND beat = %s RETURNING 1"
SET_FENCES = "UPDATE fences SET fenced = true WHERE replica = %s AND NOT fenced RETURNING 1"
OWE = """
INSERT INTO owed(queue_id, replica, since_ms)
SELECT queue_id, %s, coalesce(outbox_ms, 0) FROM device_queues, meta WHERE holder = %s AND flight IS NOT NULL
ON CONFLICT DO NOTHING"""
FREE_SLOTS = "UPDATE slots SET replica = NULL WHERE replica = %s"
CLAIM_SLOTS = """
UPDATE slots SET replica = %(replica)s WHERE slot = ANY(%(slots)s) AND (replica IS NULL OR replica = %(replica)s)
RETURNING slot"""
RELEASE_SLOTS = "UPDATE slots SET replica = NULL WHERE replica = %s AND slot = ANY(%s)"
QUEUES_OF_SLOTS = """
SELECT queue_id, tenant_id, platform, device_id, cursors, rate_window, monotonic_ms, request, ordinal, flight, shift_ms,
       omitted, forgotten FROM device_queues WHERE slot = ANY(%s)"""
MARKS_OF_SLOTS = "SELECT seq, queue_id, why FROM marks WHERE (queue_id & 255) = ANY(%s)"
ENDED = """
SELECT queue_id, owed.replica FROM owed JOIN slots ON slot = (queue_id & 255) WHERE slots.replica = %s AND ended"""
END_OWED = "UPDATE owed SET ended = true WHERE replica = %s"
END_OLD_OWED = "UPDATE owed SET ended = true WHERE NOT ended AND since_ms < (SELECT outbox_ms FROM meta) - %s"
DELETE_OWED = "DELETE FROM owed WHERE queue_id = %s AND replica = %s"
SET_WINDOW = "UPDATE device_queues SET rate_window = %s, monotonic_ms = %s WHERE queue_id = %s"
OWED_OF_SLOTS = "SELECT queue_id, count(*) FROM owed WHERE (queue_id & 255) = ANY(%s) GROUP BY queue_id"
OUTCOMES = """
SELECT e.seq, e.queue_id, coalesce(m.why, 'delivered')
FROM unnest(%s::bigint[], %s::bigint[], %s::text[]) e(seq, queue_id, replica)
LEFT JOIN marks m ON m.seq = e.seq LEFT JOIN device_queues q ON q.queue_id = e.queue_id
WHERE m.seq IS NOT NULL OR e.seq <= (q.cursors ->> e.replica)::bigint"""
QUEUES = "SELECT queue_id, tenant_id, platform, device_id, cursors FROM device_queues WHERE queue_id = ANY(%s)"
REMEMBERED = "SELECT queue_id FROM device_queues WHERE queue_id = ANY(%s) AND NOT forgotten"
KEPT_COMMITS = "SELECT id FROM commits WHERE id < %s"

SEGMENT = f"""
SELECT segment, coalesce(outbox_ms, 0) - segment_from_ms,
       (SELECT coalesce(sum(body_bytes + events * {_ROW_BYTES}), 0)::bigint FROM replicas JOIN fences USING (replica)
        WHERE role = 'forward' AND NOT fenced)
FROM meta"""  # noqa: S608
SIZES = """
SELECT name, pg_relation_size(name::regclass), pg_total_relation_size(name::regclass) FROM unnest(%s::text[]) name"""
LOCK_WAIT = "SET LOCAL lock_timeout = '100ms'"
LOCK = "LOCK TABLE ONLY {table} IN {mode} MODE"
TRUNCATE = "TRUNCATE ONLY {table}"
SET_SEGMENT = "UPDATE meta SET segment = %s, segment_from_ms = coalesce(outbox_ms, 0) WHERE segment = %s"
WINDOW_START = """
SELECT coalesce(max(id), 0) FROM (
  SELECT id, sum(octet_length(ids) / 16) OVER (ORDER BY id DESC) AS newer FROM commits WHERE replica > 0) counted
WHERE newer >= %s"""
"""The id of the oldest commit row with events in the dedupe window; 0 if all have."""
NEEDED = {
    "log": """
SELECT l.seq, l.queue_id, l.event_id, l.crc, l.checked, l.body FROM ONLY {table} l
LEFT JOIN commits c ON c.id = l.seq >> 12 LEFT JOIN device_queues q ON q.queue_id = l.queue_id
WHERE l.seq > coalesce((q.cursors ->> c.replica::text)::bigint, 0)
  AND NOT EXISTS (SELECT FROM marks WHERE marks.seq = l.seq)""",
    "commits": """
SELECT c.* FROM ONLY {table} c
WHERE c.id >= {window_start} OR EXISTS (SELECT FROM log WHERE seq > c.id << 12 AND seq < (c.id + 1) << 12)
   OR NOT EXISTS (SELECT FROM commits later WHERE later.replica = c.replica AND later.id > c.id)""",
    "moves": """
SELECT m.* FROM ONLY {table} m
WHERE NOT EXISTS (SELECT FROM moves later WHERE later.replica = m.replica AND later.n > m.n)""",
}
"""The rows of a table that must stay: pending events; commit rows that describe them, or are in the dedupe window; and
the last totals of each replica."""
COUNT = "SELECT count(*), coalesce(sum(octet_length(body)), 0)::bigint FROM ({rows} LIMIT %s) counted"
COPY = "INSERT INTO {to} {rows}"
DELETE_MARKS = """
DELETE FROM marks WHERE seq BETWEEN (SELECT min(id) << 12 FROM ONLY {table}) AND
                                    (SELECT (max(id) + 1) << 12 FROM ONLY {table})
  AND seq >> 12 IN (SELECT id FROM ONLY {table}) AND seq >> 12 NOT IN (SELECT id FROM ({rows}) needed)"""

ENDED_REPLICAS = """
SELECT replica FROM fences f
WHERE role = 'forward' AND fenced AND replica > 0
  AND NOT EXISTS (SELECT FROM slots WHERE slots.replica = f.replica)
  AND NOT EXISTS (SELECT FROM owed WHERE owed.replica = f.replica)
  AND NOT EXISTS (
    SELECT FROM commits c WHERE c.replica = f.replica
      AND (c.id >= %s OR EXISTS (SELECT FROM log WHERE seq > c.id << 12 AND seq < (c.id + 1) << 12)))
FOR UPDATE"""
ADD_ENDED = (
    "INSERT INTO replicas(replica, name) OVERRIDING SYSTEM VALUE VALUES (0, 'ended') ON CONFLICT DO NOTHING",
    "INSERT INTO fences(replica, role, fenced) VALUES (0, 'append', true), (0, 'forward', true) ON CONFLICT DO NOTHING",
    """
INSERT INTO commits(replica, id, n, accepted, requeued, at_ms, is_requeue, queue_ids, sizes, ids, checks)
SELECT 0, 0, 0, 0, 0, 0, false, '', '', '', '' WHERE NOT EXISTS (SELECT FROM commits WHERE replica = 0)""",
    """
INSERT INTO moves(replica, n, delivered, dead_lettered, dropped, duplicates)
SELECT 0, 0, 0, 0, 0, 0 WHERE NOT EXISTS (SELECT FROM moves WHERE replica = 0)""",
)
"""Replica 0 has the totals of the removed replicas."""
REMOVE_REPLICAS = (
    """
UPDATE commits SET accepted = commits.accepted + s.accepted, requeued = commits.requeued + s.requeued
FROM (SELECT sum(accepted)::bigint AS accepted, sum(requeued)::bigint AS requeued FROM (
        SELECT DISTINCT ON (replica) accepted, requeued FROM commits
        WHERE replica = ANY(%(replicas)s) ORDER BY replica, id DESC) last) s
WHERE commits.replica = 0 AND s.accepted IS NOT NULL""",
    """
UPDATE moves SET delivered = moves.delivered + s.delivered, dead_lettered = moves.dead_lettered + s.dead_lettered,
                 dropped = moves.dropped + s.dropped, duplicates = moves.duplicates + s.duplicates
FROM (SELECT sum(delivered)::bigint AS delivered, sum(dead_lettered)::bigint AS dead_lettered,
             sum(dropped)::bigint AS dropped, sum(duplicates)::bigint AS duplicates FROM (
        SELECT DISTINCT ON (replica) delivered, dead_lettered, dropped, duplicates FROM moves
        WHERE replica = ANY(%(replicas)s) ORDER BY replica, n DESC) last) s
WHERE moves.replica = 0 AND s.delivered IS NOT NULL""",
    "DELETE FROM marks WHERE seq >> 12 IN (SELECT id FROM commits WHERE replica = ANY(%(replicas)s))",
    "DELETE FROM commits WHERE replica = ANY(%(replicas)s)",
    "DELETE FROM moves WHERE replica = ANY(%(replicas)s)",
    "DELETE FROM fences WHERE replica = ANY(%(replicas)s)",
    "DELETE FROM replicas WHERE replica = ANY(%(replicas)s)",
)

"""The space of the database file: its limits, and the pages that commands need."""

from __future__ import annotations

from collections.abc import Sequence

from relay.config import OutboxSettings
from relay.outbox.engine.commands import AddQueues, ClaimEvents, Command, InsertEvents, SaveClocks, SettleEvents
from relay.outbox.engine.storage import Space, SpaceLimits
from relay.outbox.sqlite.connection import PAGE_BYTES

_LOCAL_BYTES = PAGE_BYTES - 35
"""The longest row without overflow pages (https://www.sqlite.org/fileformat2.html#payload_overflow)."""
ROW_BYTES = 60
"""Maximum size of a row without its body."""
_QUEUE_PAGES = 2
"""Pages written when the row of a device queue changes: its page, and a neighbour if the row grows."""
_SMALL_BYTES = 600
"""Pages with rows up to this size are at least 80 % full."""
_FREE_PAGES = 256
"""A file with fewer free pages is not vacuumed."""


def limits_of(settings: OutboxSettings) -> SpaceLimits:
    size = settings.max_size_bytes
    wal = max(min(4 << 20, size // 4), 16 * PAGE_BYTES)
    return SpaceLimits(
        max_bytes=size,
        log_bytes=wal,
        append_bytes=size - wal - size // 16,
        commit_bytes=wal // 4,
        dead_letter_bytes=size // 4,
        delete_rows=min(4096, wal // 1024),
        delete_bytes=wal // 2,
        shrink_bytes=wal // 4,
        block_bytes=PAGE_BYTES,
    )


def space_of(pages: int, free_pages: int, vacuum_useless_at: int = 0) -> Space:
    """Return the space of a file.

    It can shrink if more than half of it is free pages. `vacuum_useless_at`: number of pages when a vacuum freed none,
    because a copy of the file has lost auto_vacuum.
    """
    used = pages - free_pages
    can_shrink = free_pages > max(used, _FREE_PAGES) and pages != vacuum_useless_at
    return Space(used * PAGE_BYTES, free_pages * PAGE_BYTES, can_shrink)


def cost_bytes(body_bytes: Sequence[int]) -> int:
    """Return the maximum growth of the used pages by rows with these bodies."""
    if max(body_bytes, default=0) > _SMALL_BYTES:
        return sum(map(_row_cost_bytes, body_bytes))
    return sum(body_bytes) * 5 // 4 + ROW_BYTES * len(body_bytes)


def _row_cost_bytes(body_bytes: int) -> int:
    """Return the size of the pages of one event: its share of a page with several rows, or its own pages."""
    row_bytes = body_bytes + ROW_BYTES
    if row_bytes > _LOCAL_BYTES:
        return row_bytes + 2 * PAGE_BYTES
    return PAGE_BYTES // (_LOCAL_BYTES // row_bytes) + ROW_BYTES


def written_pages(commands: Sequence[Command]) -> tuple[int | None, int]:
    """Return the maximum number of pages that a commit writes, and its part for new events.

    Inner pages are not counted. None: the number is unknown.
    """
    appended_bytes = pages = 0
    is_known = True
    for command in commands:
        match command:
            case InsertEvents():
                appended_bytes += cost_bytes(command.sizes)
            case AddQueues():
                pages += _QUEUE_PAGES * len(command.queues)
            case ClaimEvents():
                for part in command.wanted:
                    pages += _QUEUE_PAGES + len(part.omitted) // PAGE_BYTES
            case SettleEvents() if not command.dead_events and not command.ahead:
                pages += _QUEUE_PAGES * len(command.moves)
            case SaveClocks():
                pages += 1
            case _:
                is_known = False
    appended = appended_bytes // PAGE_BYTES
    return pages + appended if is_known else None, appended

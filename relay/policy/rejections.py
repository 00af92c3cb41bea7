"""The rejections of one endpoint: its single events since the latest success, and whether its names of events count.

A wrong URL or a proxy can reject every event, so that too many rejections in a row are the fault of the endpoint. An
upstream whose indexes were wrong, because it counts from 1 for example, is not believed for a day.
"""

from __future__ import annotations

UNEXPLAINED_REJECTIONS_MAX = 3
"""Single events rejected in succession by a status that is not about events, before the endpoint is at fault."""
_UNNAMED_REJECTIONS_MAX = 20
NAMES_IGNORED_MS = 86_400_000


class Rejections:
    __slots__ = ("_names_ignored_until", "_queue_ids", "_unexplained", "_unnamed")

    def __init__(self) -> None:
        self._unexplained = 0  # By a status about something else.
        self._unnamed = 0  # By a 400 or 422 without a name.
        self._queue_ids: set[int] = set()  # Device queues of the unnamed ones.
        self._names_ignored_until = 0

    def __repr__(self) -> str:
        return f"Rejections(unexplained={self._unexplained}, unnamed={self._unnamed})"

    def __contains__(self, queue_id: int) -> bool:
        """Return whether a 400 or 422 rejected an event of the device queue without a name."""
        return queue_id in self._queue_ids

    def forget(self) -> None:
        """Forget all rejections after a success."""
        self._unexplained = self._unnamed = 0
        self._queue_ids.clear()

    def ignore_names(self, now: int) -> None:
        """Record that a response named other events than the bad ones."""
        self._names_ignored_until = now + NAMES_IGNORED_MS

    def ignore_names_at(self, now: int) -> bool:
        """Return whether the names in a response must not be believed."""
        return now < self._names_ignored_until

    def count_unexplained(self) -> None:
        self._unexplained += 1

    def count_unnamed(self, queue_id: int) -> None:
        self._unnamed += 1
        self._queue_ids.add(queue_id)
        assert len(self._queue_ids) <= self._unnamed, self

    @property
    def are_unexplained(self) -> bool:
        """Whether the status cannot be about the events, because it rejected too many of them."""
        return self._unexplained >= UNEXPLAINED_REJECTIONS_MAX

    def include_everything(self, *, recent_success: bool) -> bool:
        """Return whether the URL must be wrong, because too many events were rejected and none was accepted."""
        return self._unnamed >= _UNNAMED_REJECTIONS_MAX and (len(self._queue_ids) > 1 or not recent_success)

"""What happened to the files of the open store, and whether they are to be written again."""

from __future__ import annotations

from relay.outbox.engine.storage import FileFault


class FileWatch:
    def __init__(self) -> None:
        self.problem = ""
        """Why appends are rejected although the store is open; "" if they are not."""
        self._is_recreation_due = False
        self._logged_reason = ""
        """The last logged reason why deleted files cannot be written again."""

    def look(self, fault: FileFault | None) -> bool:
        """Record the fault found by a check. Return whether the files are to be written again."""
        self.problem = "" if fault is None else fault.reason
        self._is_recreation_due = fault is not None and fault.is_curable
        return self._is_recreation_due

    def take_recreation(self) -> bool:
        """Return whether the files are to be written again now, once after each check."""
        is_due, self._is_recreation_due = self._is_recreation_due, False
        return is_due

    def is_news(self, reason: str) -> bool:
        """Return whether this reason is to be logged."""
        is_news, self._logged_reason = reason != self._logged_reason, reason
        return is_news

    def forget(self) -> None:
        """Record that the files were written again."""
        self.problem = self._logged_reason = ""

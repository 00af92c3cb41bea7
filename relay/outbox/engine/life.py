"""The life of an outbox: its states, what happens to it, and the state after that."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from relay.outbox import OutboxError
from relay.outbox.engine.storage import FileFault

_RETRY_FIRST_MS, _RETRY_LAST_MS = 50, 5_000


@dataclass(frozen=True, slots=True)
class Closed:
    """The store was not opened yet, or is closed."""


@dataclass(frozen=True, slots=True)
class Opening:
    """The store is being opened. Calls wait, or fail with `failure`."""

    failure: OutboxError | None = None
    """Why the store had to be opened again."""


@dataclass(frozen=True, slots=True)
class Loading:
    """The store is open, and its log is being loaded. Appends are committed, other calls wait."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Every call is committed."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The store is closed after a failure, and is opened again later. Calls fail with `failure`."""

    failure: OutboxError
    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class Recreating:
    """The files were deleted, and are being written again from the open ones. Calls wait."""

    before: Loading | Serving


LifeState: TypeAlias = Closed | Opening | Loading | Serving | Failed | Recreating


class Happening(Enum):
    OPEN = "the store is to be opened"
    OPENED = "the store is open"
    OPENED_AS_KNOWN = "the store is open, and its content equals the state in memory, which was loaded before"
    LOG_READ = "the last rows of the log were loaded"
    RECREATE = "deleted files are to be written again"
    RECREATED = "the files were written, and are to be opened"
    NOT_RECREATED = "the files could not be written"
    CLOSED = "the store was closed for good"


@dataclass(frozen=True, slots=True)
class Failure:
    """A call of the store failed."""

    error: OutboxError
    failures: int
    """Number of failures since the last commit, this one included."""


def transition(state: LifeState, happening: Happening | Failure) -> LifeState:
    """Return the state after a happening. A pair that cannot occur raises AssertionError."""
    match state, happening:
        case _, Happening.CLOSED:
            return Closed()
        case Closed(), Happening.OPEN:
            return Opening()
        case Failed(), Happening.OPEN:
            return Opening(state.failure)
        case Opening(), Happening.OPENED:
            return Loading()
        case Opening(), Happening.OPENED_AS_KNOWN:
            return Serving()
        case Loading(), Happening.LOG_READ:
            return Serving()
        case Loading() | Serving(), Happening.RECREATE:
            return Recreating(state)
        case Recreating(), Happening.RECREATED:
            return Opening()
        case Recreating(), Happening.NOT_RECREATED:
            return state.before
        case Opening() | Loading() | Serving() | Recreating(), Failure():
            delay_ms = min(_RETRY_FIRST_MS << min(happening.failures, 16), _RETRY_LAST_MS)
            return Failed(happening.error, delay_ms)
        case _:
            raise AssertionError(f"{happening} cannot happen in {state}")


class Life:
    """The present state, and the number of failures since the last commit."""

    def __init__(self) -> None:
        self.state: LifeState = Closed()
        self.failure: OutboxError | None = None
        """The error with which calls fail; None if the store is open or was not opened yet."""
        self.is_closing = False
        """Whether new calls are rejected, and the store is closed after the waiting ones."""
        self._failures = 0

    def __repr__(self) -> str:
        return f"<Life {self.state}{', closing' if self.is_closing else ''}, {self._failures} failures>"

    @property
    def is_open(self) -> bool:
        """Whether the store is open for commits."""
        return isinstance(self.state, (Loading, Serving))

    @property
    def retry_after_s(self) -> float:
        """The time until the store is opened again."""
        assert isinstance(self.state, Failed), self.state
        return self.state.retry_after_ms / 1000

    def enter(self, happening: Happening | Failure) -> None:
        self.state = transition(self.state, happening)
        self.failure = self.state.failure if isinstance(self.state, (Opening, Failed)) else None

    def fail(self, error: OutboxError) -> None:
        self._failures += 1
        self.enter(Failure(error, self._failures))

    def committed(self) -> None:
        assert self.is_open, self.state
        self._failures = 0

    def begin_closing(self) -> None:
        self.is_closing = True

    def end(self) -> None:
        self.begin_closing()
        self.enter(Happening.CLOSED)


class FileWatch:
    """What happened to the files of the open store, and whether they are to be written again."""

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

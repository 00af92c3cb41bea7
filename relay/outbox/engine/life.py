"""The life of an outbox: its states, what happens to it, and the state after that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from relay.outbox import OutboxError

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


@dataclass(frozen=True, slots=True)
class OpenStore:
    """The store is to be opened."""


@dataclass(frozen=True, slots=True)
class StoreOpened:
    """The store is open."""

    is_loaded: bool
    """Whether its content equals the state in memory, which was loaded before."""


@dataclass(frozen=True, slots=True)
class LogRead:
    """The last rows of the log were loaded."""


@dataclass(frozen=True, slots=True)
class Failure:
    error: OutboxError
    failures: int
    """Number of failures since the last commit, this one included."""


@dataclass(frozen=True, slots=True)
class Recreate:
    """Deleted files are to be written again."""


@dataclass(frozen=True, slots=True)
class Recreated:
    is_written: bool
    """Whether the files were written, and are to be opened."""


@dataclass(frozen=True, slots=True)
class StoreClosed:
    """The store was closed for good."""


Happening: TypeAlias = OpenStore | StoreOpened | LogRead | Failure | Recreate | Recreated | StoreClosed


def transition(state: LifeState, happening: Happening) -> LifeState:
    """Return the state after a happening. A pair that cannot occur raises AssertionError."""
    match state, happening:
        case _, StoreClosed():
            return Closed()
        case Closed(), OpenStore():
            return Opening()
        case Failed(), OpenStore():
            return Opening(state.failure)
        case Opening(), StoreOpened():
            return Serving() if happening.is_loaded else Loading()
        case Loading(), LogRead():
            return Serving()
        case Loading() | Serving(), Recreate():
            return Recreating(state)
        case Recreating(), Recreated():
            return Opening() if happening.is_written else state.before
        case Opening() | Loading() | Serving() | Recreating(), Failure():
            delay_ms = min(_RETRY_FIRST_MS << min(happening.failures, 16), _RETRY_LAST_MS)
            return Failed(happening.error, delay_ms)
        case _:
            raise AssertionError(f"{happening} cannot happen in {state}")


class Life:
    """The present state, and the number of failures since the last commit."""

    def __init__(self) -> None:
        self.state: LifeState = Closed()
        self.is_closing = False
        """Whether new calls are rejected, and the store is closed after the waiting ones."""
        self._failures = 0

    def __repr__(self) -> str:
        return f"<Life {self.state}{', closing' if self.is_closing else ''}, {self._failures} failures>"

    @property
    def failure(self) -> OutboxError | None:
        """The error with which calls fail; None if the store is open or was not opened yet."""
        return self.state.failure if isinstance(self.state, Opening | Failed) else None

    @property
    def retry_after_s(self) -> float:
        """The time until the store is opened again."""
        assert isinstance(self.state, Failed), self.state
        return self.state.retry_after_ms / 1000

    def enter(self, happening: OpenStore | StoreOpened | LogRead | Recreate | Recreated | StoreClosed) -> None:
        self.state = transition(self.state, happening)

    def fail(self, error: OutboxError) -> None:
        self._failures += 1
        self.state = transition(self.state, Failure(error, self._failures))

    def committed(self) -> None:
        assert isinstance(self.state, Loading | Serving), self.state
        self._failures = 0

    def begin_closing(self) -> None:
        self.is_closing = True

    def end(self) -> None:
        self.is_closing = True
        self.state = transition(self.state, StoreClosed())

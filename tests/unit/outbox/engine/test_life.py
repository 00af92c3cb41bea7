"""The states of an outbox: every pair of a state and a happening."""

from __future__ import annotations

import pytest
from relay.outbox import OutboxUnavailable
from relay.outbox.engine.life import (
    Closed,
    Failed,
    Failure,
    FileWatch,
    Happening,
    Life,
    LifeState,
    Loading,
    Opening,
    Recreating,
    Serving,
    transition,
)
from relay.outbox.engine.storage import FileFault

OLD, NEW = OutboxUnavailable("the disk fails"), OutboxUnavailable("the disk is full")
STATES: list[LifeState] = [
    Closed(),
    Opening(),
    Opening(OLD),
    Loading(),
    Serving(),
    Failed(OLD, 50),
    Recreating(Loading()),
    Recreating(Serving()),
]
FAILURE = Failure(NEW, 3)
AFTER: dict[tuple[LifeState, Happening | Failure], LifeState] = {
    (Closed(), Happening.OPEN): Opening(),
    (Opening(), Happening.OPENED): Loading(),
    (Opening(), Happening.OPENED_AS_KNOWN): Serving(),
    (Opening(), FAILURE): Failed(NEW, 400),
    (Opening(OLD), Happening.OPENED): Loading(),
    (Opening(OLD), Happening.OPENED_AS_KNOWN): Serving(),
    (Opening(OLD), FAILURE): Failed(NEW, 400),
    (Loading(), Happening.LOG_READ): Serving(),
    (Loading(), Happening.RECREATE): Recreating(Loading()),
    (Loading(), FAILURE): Failed(NEW, 400),
    (Serving(), Happening.RECREATE): Recreating(Serving()),
    (Serving(), FAILURE): Failed(NEW, 400),
    (Failed(OLD, 50), Happening.OPEN): Opening(OLD),
    (Recreating(Loading()), Happening.RECREATED): Opening(),
    (Recreating(Loading()), Happening.NOT_RECREATED): Loading(),
    (Recreating(Loading()), FAILURE): Failed(NEW, 400),
    (Recreating(Serving()), Happening.RECREATED): Opening(),
    (Recreating(Serving()), Happening.NOT_RECREATED): Serving(),
    (Recreating(Serving()), FAILURE): Failed(NEW, 400),
    **{(state, Happening.CLOSED): Closed() for state in STATES},
}
"""Every pair that can occur."""


@pytest.mark.parametrize("state", STATES, ids=repr)
@pytest.mark.parametrize("happening", [*Happening, FAILURE], ids=str)
def test_transition(state: LifeState, happening: Happening | Failure) -> None:
    if (state, happening) in AFTER:
        assert transition(state, happening) == AFTER[state, happening]
    else:
        with pytest.raises(AssertionError, match="cannot happen in"):
            transition(state, happening)


def test_calls_fail_from_a_failure_until_the_store_is_open_again() -> None:
    life = Life()
    life.enter(Happening.OPEN)
    assert life.failure is None
    life.fail(OLD)
    assert life.failure is OLD
    life.enter(Happening.OPEN)
    assert life.failure is OLD
    life.enter(Happening.OPENED)
    assert life.failure is None


def test_retries_are_delayed_longer_with_each_failure_since_the_last_commit() -> None:
    life, delays = Life(), []
    life.enter(Happening.OPEN)
    for _ in range(9):
        life.fail(OLD)
        delays.append(life.retry_after_s)
        life.enter(Happening.OPEN)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5]
    life.enter(Happening.OPENED)
    life.committed()
    life.fail(OLD)
    assert life.retry_after_s == 0.1


def test_repr_shows_the_state() -> None:
    life = Life()
    life.enter(Happening.OPEN)
    life.begin_closing()
    assert repr(life) == "<Life Opening(failure=None), closing, 0 failures>"


def test_deleted_files_are_written_again_once_after_each_check() -> None:
    files = FileWatch()
    assert files.look(FileFault("deleted", True))
    assert [files.take_recreation(), files.take_recreation(), files.problem] == [True, False, "deleted"]
    assert not files.look(FileFault("replaced", False))
    assert [files.take_recreation(), files.problem] == [False, "replaced"]
    assert [files.is_news("full"), files.is_news("full"), files.is_news("read-only")] == [True, False, True]
    files.forget()
    assert [files.problem, files.is_news("read-only")] == ["", True]

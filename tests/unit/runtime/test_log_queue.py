"""The queue of the log's stream, tested with real pipes, because a stream in memory cannot stall."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import TextIO

import pytest
from relay.runtime.log_queue import LogQueue

WAIT_S = 10.0


class Counter:
    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        self.value += amount


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        yield reading, stream
    os.close(reading)


def notice(lines: int) -> str:
    return f"{lines} lines are missing"


def read_lines(reading: int, until: str) -> list[str]:
    text = ""
    while not text.endswith(f"{until}\n"):
        text += os.read(reading, 1 << 16).decode()
    return text.splitlines()


def test_lines_keep_their_order(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    queue = LogQueue(stream, notice)

    for n in range(100):
        queue.put(f"line {n}")

    assert read_lines(reading, "line 99") == [f"line {n}" for n in range(100)]


@pytest.mark.parametrize("blocking", [True, False])
def test_stalled_reader_does_not_block_put_and_receives_the_number_of_missing_lines(
    pipe: tuple[int, TextIO], blocking: bool
) -> None:
    reading, stream = pipe
    os.set_blocking(stream.fileno(), blocking)
    lost = Counter()
    queue = LogQueue(stream, notice, lost, max_chars=200_000)

    # 4 MB exceed the capacity of pipe and queue. `put` must return nevertheless.
    for n in range(4_000):
        queue.put(f"{n} {'x' * 1_000}")
    assert lost.value > 3_000
    assert not queue.flush(0)

    text, numbers, missing = "", [], 0
    while len(numbers) + missing < 4_000:
        *lines, text = (text + os.read(reading, 1 << 16).decode()).split("\n")
        numbers += [int(line.split()[0]) for line in lines if line.endswith("x")]
        missing += sum(int(line.split()[0]) for line in lines if line.endswith("missing"))
    assert numbers == sorted(numbers)
    assert (len(numbers) + missing, missing) == (4_000, lost.value)


def test_notice_is_in_the_place_of_the_missing_lines(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    lost = Counter()
    queue = LogQueue(stream, notice, lost, max_chars=200_000)
    n = 0
    while not lost.value:
        queue.put(f"early {n} {'x' * 1_000}")
        n += 1
    early = read_lines(reading, notice(1))
    queue.put("late")

    assert early[-1] == notice(1)
    assert all(line.startswith("early") for line in early[:-1])
    assert read_lines(reading, "late") == ["late"]


def test_close_waits_for_a_bounded_time_and_later_lines_count_as_lost(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    lost, before = Counter(), set(threading.enumerate())
    queue = LogQueue(stream, notice, lost)
    queue.put("x" * 300_000)
    (thread,) = set(threading.enumerate()) - before

    queue.close(0.01)
    queue.put("too late")
    assert lost.value == 1

    assert read_lines(reading, "x") == ["x" * 300_000]
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_pipe_without_a_reader_loses_lines_and_raises_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    lost = Counter()
    with os.fdopen(writing, "w") as stream:
        queue = LogQueue(stream, notice, lost)
        queue.put("lost")
        queue.put("lost")
        assert queue.flush(WAIT_S)
        queue.close(0)

    assert lost.value == 2


def test_characters_that_cannot_be_encoded_are_escaped(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    queue = LogQueue(stream, notice)

    queue.put("\udc80 end")

    assert read_lines(reading, "end") == ["\\udc80 end"]

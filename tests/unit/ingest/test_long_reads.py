"""Long bodies are read in rotation, one step per turn of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from itertools import pairwise

import pytest
from relay.ingest.long_reads import MAX_ACTIVE_BYTES, LongReads


def reading(name: str, slices: int, trace: list[str]) -> Generator[None, None, str]:
    for number in range(slices):
        trace.append(f"{name}{number}")
        yield
    return name


async def test_readings_rotate_and_a_short_one_finishes_before_a_long_one() -> None:
    trace: list[str] = []
    turns: LongReads[str] = LongReads()
    long, short = turns.add(reading("a", 4, trace)), turns.add(reading("b", 2, trace))
    assert await asyncio.gather(long, short) == ["a", "b"]
    assert trace == ["a0", "b0", "a1", "b1", "a2", "a3"]


async def test_the_event_loop_runs_after_every_step() -> None:
    trace: list[str] = []
    turns: LongReads[str] = LongReads()
    readings = [turns.add(reading(str(number), 3, trace)) for number in range(50)]
    seen = []
    while not all(read.done() for read in readings):
        seen.append(len(trace))
        await asyncio.sleep(0)
    assert max(after - before for before, after in pairwise(seen)) == 1


async def test_an_exception_is_raised_to_its_own_caller_only() -> None:
    def broken() -> Generator[None, None, str]:
        yield
        raise ZeroDivisionError

    turns: LongReads[str] = LongReads()
    bad, good = turns.add(broken()), turns.add(reading("a", 3, []))
    with pytest.raises(ZeroDivisionError):
        await bad
    assert await good == "a"


async def test_a_cancelled_reading_is_dropped() -> None:
    trace: list[str] = []
    turns: LongReads[str] = LongReads()
    left, stayed = turns.add(reading("a", 100, trace)), turns.add(reading("b", 3, trace))
    left.cancel()
    assert await stayed == "b"
    assert trace == ["b0", "b1", "b2"]
    assert await turns.add(reading("c", 1, trace)) == "c"


async def test_the_size_of_active_bodies_is_limited_and_a_larger_one_is_read_alone() -> None:
    under_way = [0]
    seen = []

    def sized(size_bytes: int) -> Generator[None, None, int]:
        under_way[0] += size_bytes
        for _ in range(5):
            seen.append(under_way[0])
            yield
        under_way[0] -= size_bytes
        return size_bytes

    turns: LongReads[int] = LongReads()
    sizes = [MAX_ACTIVE_BYTES // 3] * 9 + [3 * MAX_ACTIVE_BYTES]
    assert await asyncio.gather(*[turns.add(sized(size), size) for size in sizes]) == sizes
    assert max(seen) == 3 * MAX_ACTIVE_BYTES
    assert max(each for each in seen if each != 3 * MAX_ACTIVE_BYTES) == MAX_ACTIVE_BYTES // 3 * 3


async def test_the_next_body_is_alternately_the_smallest_and_the_oldest() -> None:
    trace: list[str] = []
    turns: LongReads[str] = LongReads()
    large = [turns.add(reading(f"large{number}-", 1, trace), MAX_ACTIVE_BYTES) for number in range(4)]
    small = [turns.add(reading(f"small{number}-", 1, trace), MAX_ACTIVE_BYTES - 1) for number in range(2)]
    await asyncio.gather(*large, *small)
    assert trace == ["large0-0", "small0-0", "large1-0", "small1-0", "large2-0", "large3-0"]

"""The choice of dead letters to delete, compared with a list, and what a device never loses."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from relay.outbox.engine.dead_letter_shares import DeadLetterShares

MAX_LETTERS, MAX_BYTES = 12, 600
LETTERS = st.lists(st.tuples(st.sampled_from("aaaaabc"), st.integers(0, 200)), max_size=150)


def use(letters: int, body_bytes: int) -> int:
    """Return the part of both limits that dead letters use, multiplied by both limits."""
    return letters * MAX_BYTES + body_bytes * MAX_LETTERS


@given(LETTERS)
def test_the_device_that_uses_the_most_loses_its_oldest(letters: list[tuple[str, int]]) -> None:
    shares, model = DeadLetterShares(MAX_LETTERS, MAX_BYTES), list[tuple[int, str, int]]()
    for letter_id, (device, size) in enumerate(letters, 1):
        shares.add(letter_id, device, size)
        model.append((letter_id, device, size))
        while len(model) > MAX_LETTERS or sum(each[2] for each in model) > MAX_BYTES:
            used: Counter[str] = Counter()
            for _, each_device, each_size in model:
                used[each_device] += use(1, each_size)
            expected = next(each for each in model if used[each[1]] == max(used.values()))
            assert (expected[0], expected[2]) == shares.remove_next()
            model.remove(expected)

    assert f"to id {len(letters)}>" in repr(shares)
    assert sorted((letter_id, size) for letter_id, _, size in model) == sorted(iter(shares.remove_next, None))


@given(LETTERS, st.integers(1, 4), st.integers(0, 50))
def test_a_device_within_an_equal_part_of_the_limits_loses_nothing(
    letters: list[tuple[str, int]], quiet: int, size: int
) -> None:
    """There are four devices. The use of both limits is at least one whole limit when a dead letter is deleted."""
    shares, stored, body_bytes = DeadLetterShares(MAX_LETTERS, MAX_BYTES), {}, 0
    within = use(quiet, quiet * size) * 4 <= MAX_LETTERS * MAX_BYTES
    steps = [("quiet", size)] * quiet + letters
    for letter_id, (device, letter_bytes) in enumerate(steps, 1):
        shares.add(letter_id, device, letter_bytes)
        stored[letter_id] = device
        body_bytes += letter_bytes
        while len(stored) > MAX_LETTERS or body_bytes > MAX_BYTES:
            removed = shares.remove_next()
            assert removed is not None
            body_bytes -= removed[1]
            loser = stored.pop(removed[0])
            assert not (within and loser == "quiet")


def test_removed_dead_letters_and_outdated_entries_leave_memory() -> None:
    shares = DeadLetterShares(10, 1 << 20)
    for letter_id in range(1, 10_000):
        shares.add(letter_id, letter_id % 3, 1)
        if letter_id > 10:
            shares.remove_next()

    assert len(shares._uses) <= 2 * 3 + 64 + 1
    assert all(len(letters._ids) <= 2 * 64 + 10 for letters in shares._devices.values())

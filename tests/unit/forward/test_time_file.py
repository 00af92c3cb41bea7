"""The file that stores the learned true time for a restart within the same boot."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from relay.forward.time_file import TimeFile
from relay.policy.true_time import OffsetBounds

A, B = "https://a.example:443", "https://bücher.example:443"
NOON = 1_795_420_800_000
LEARNED = {A: OffsetBounds(NOON, NOON + 1_000), B: OffsetBounds(NOON - 500, NOON + 500)}


class BootClock:
    """The clock of one boot. The test sets its time."""

    def __init__(self, boot_id: str, monotonic: int) -> None:
        self.boot_id = boot_id
        self.monotonic = monotonic

    def monotonic_ms(self) -> int:
        return self.monotonic

    def wall_ms(self) -> int:
        return 0

    def chance(self) -> float:
        return 0.5

    def new_event_id(self) -> str:
        raise AssertionError("no id is needed")


def time_file(
    tmp_path: Path, boot_id: str = "this boot", monotonic: int = 1_000, **known: dict[str, OffsetBounds]
) -> TimeFile:
    return TimeFile(tmp_path / "outbox.db", BootClock(boot_id, monotonic), lambda: known.get("known", {}))


def save(file: TimeFile) -> bool:
    return asyncio.run(file.save())


def test_restart_within_the_boot_loads_the_learned_time(tmp_path: Path) -> None:
    assert save(time_file(tmp_path, known=LEARNED))
    assert time_file(tmp_path, monotonic=5_000).load() == LEARNED


@pytest.mark.parametrize(
    ("boot_id", "monotonic"), [("next boot", 5_000), ("this boot", 999)], ids=["another boot", "time ran backwards"]
)
def test_file_of_another_boot_is_ignored(tmp_path: Path, boot_id: str, monotonic: int) -> None:
    assert save(time_file(tmp_path, known=LEARNED))
    assert time_file(tmp_path, boot_id, monotonic).load() == {}


def test_missing_file_loads_nothing(tmp_path: Path) -> None:
    assert time_file(tmp_path).load() == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"boot_id":"this boot","monotonic_ms":1}',
        b'{"boot_id":"this boot","monotonic_ms":1,"origins":{"https://a.example:443":[1]}}',
        b'{"boot_id":"this boot","monotonic_ms":1,"origins":{"https://a.example:443":["1","2"]}}',
        b'{"boot_id":"this boot","monotonic_ms":1,"origins":{"https://a.example:443":[2,1]}}',
    ],
)
def test_invalid_file_loads_nothing(tmp_path: Path, content: bytes) -> None:
    file = time_file(tmp_path)
    file.path.write_bytes(content)
    assert file.load() == {}


def test_only_the_owner_can_read_the_file_and_no_temporary_file_remains(tmp_path: Path) -> None:
    file = time_file(tmp_path, known=LEARNED)
    assert save(file)
    assert [(path.name, stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.iterdir()] == [
        ("outbox.db-time", 0o600)
    ]


@pytest.mark.parametrize(
    ("change", "is_written"),
    [
        (lambda known: None, False),
        (lambda known: known.update({A: OffsetBounds(NOON + 400, NOON + 500)}), False),
        (lambda known: known.update({A: OffsetBounds(NOON + 9_000, NOON + 9_500)}), True),
        (lambda known: known.update({"http://c.example:80": OffsetBounds(NOON, NOON)}), True),
        (lambda known: known.pop(B), True),
    ],
    ids=["no change", "more exact", "another time", "a new origin", "an origin is forgotten"],
)
def test_only_significant_changes_are_written(
    tmp_path: Path, change: Callable[[dict[str, OffsetBounds]], object], is_written: bool
) -> None:
    known = dict(LEARNED)
    file = TimeFile(tmp_path / "outbox.db", BootClock("this boot", 1_000), lambda: known)
    assert save(file)
    file.path.unlink()
    change(known)
    assert save(file)
    assert file.path.exists() is is_written


def test_loaded_time_is_not_written_again(tmp_path: Path) -> None:
    assert save(time_file(tmp_path, known=LEARNED))
    file = time_file(tmp_path, known=LEARNED)
    file.load()
    file.path.unlink()
    assert save(file)
    assert not file.path.exists()


def test_failed_write_is_reported_and_repeated(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.write_text("a file in the directory's place")
    file = TimeFile(directory / "outbox.db", BootClock("this boot", 1_000), lambda: LEARNED)
    assert not save(file)
    directory.unlink()
    directory.mkdir()
    assert save(file)
    assert file.load() == LEARNED


def test_deleted_directory_is_not_created_again(tmp_path: Path) -> None:
    """The lock was deleted with the directory, so another relay could use a new one at the same time."""
    state = tmp_path / "state"
    file = TimeFile(state / "outbox.db", BootClock("this boot", 1_000), lambda: LEARNED)
    assert not save(file)
    assert not state.exists()

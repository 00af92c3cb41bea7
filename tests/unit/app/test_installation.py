"""The installation id is generated once, stored beside the outbox, and belongs to one machine."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from relay.app import installation
from relay.app.installation import Installation
from relay.runtime.machine import MachineIds

BOX, OTHER_BOX = MachineIds("a" * 32, ""), MachineIds("b" * 32, "")


@pytest.fixture
def new_id() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"00000000-0000-4000-8000-{next(numbers):012}"


def test_id_is_generated_once_and_only_its_owner_can_read_it(tmp_path: Path, new_id: Callable[[], str]) -> None:
    first = installation.identify(tmp_path / "state", BOX, new_id)

    assert installation.identify(tmp_path / "state", BOX, new_id) == first == Installation(first.device_id, False)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()} == {0o600}


def test_copy_on_another_machine_generates_one_new_id(tmp_path: Path, new_id: Callable[[], str]) -> None:
    original = installation.identify(tmp_path, BOX, new_id)

    copy = installation.identify(tmp_path, OTHER_BOX, new_id)

    assert copy.was_moved
    assert copy.device_id != original.device_id
    assert installation.identify(tmp_path, OTHER_BOX, new_id) == Installation(copy.device_id, False)


@pytest.mark.parametrize("ids", [None, MachineIds("", "")])
def test_id_stays_if_the_machine_is_unknown_or_not_compared(
    tmp_path: Path, new_id: Callable[[], str], ids: MachineIds | None
) -> None:
    original = installation.identify(tmp_path, BOX, new_id)

    assert installation.identify(tmp_path, ids, new_id) == original


def test_id_of_an_earlier_version_is_bound_to_the_current_machine(tmp_path: Path, new_id: Callable[[], str]) -> None:
    (tmp_path / "device_id").write_text("11111111-1111-4111-8111-111111111111\n")

    assert installation.identify(tmp_path, BOX, new_id).device_id == "11111111-1111-4111-8111-111111111111"
    assert installation.identify(tmp_path, OTHER_BOX, new_id).was_moved


def test_file_without_a_uuid_is_replaced(tmp_path: Path, new_id: Callable[[], str]) -> None:
    (tmp_path / "device_id").write_bytes(b"\xff\xfe")

    assert installation.identify(tmp_path, BOX, new_id) == Installation("00000000-0000-4000-8000-000000000001", False)


def test_id_is_generated_even_if_it_cannot_be_stored(tmp_path: Path, new_id: Callable[[], str]) -> None:
    (tmp_path / "file").write_text("")

    assert installation.identify(tmp_path / "file", BOX, new_id).device_id.startswith("00000000-")


def test_forget_removes_the_id_and_the_machine_identity(tmp_path: Path, new_id: Callable[[], str]) -> None:
    installation.identify(tmp_path, BOX, new_id)

    installation.forget(tmp_path)
    installation.forget(tmp_path)

    assert list(tmp_path.iterdir()) == []

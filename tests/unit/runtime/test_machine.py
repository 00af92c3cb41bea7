"""Machines are compared by salted hashes of their ids; the ids are never stored."""

from __future__ import annotations

from pathlib import Path

import pytest
from relay.runtime.machine import MachineIds, identity, is_other_machine, read_machine_ids

BOX = MachineIds("a" * 32, "board-1")
SALT = "salt"


def test_ids_are_read_from_the_files_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("a" * 32 + "\n")
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/serial-number").write_bytes(b"10000000abcdef01\0")

    assert read_machine_ids(tmp_path) == MachineIds("a" * 32, "10000000abcdef01")


@pytest.mark.parametrize("content", ["", "\n", "uninitialized\n"])
def test_machine_id_before_the_first_boot_is_unknown(tmp_path: Path, content: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text(content)

    assert read_machine_ids(tmp_path) == MachineIds("", "")


@pytest.mark.parametrize(
    ("ids", "other"),
    [
        (BOX, False),
        (MachineIds("b" * 32, "board-1"), True),
        (MachineIds("a" * 32, "board-2"), True),
        (MachineIds("", "board-2"), True),
        (MachineIds("a" * 32, ""), False),
        (MachineIds("", "board-1"), False),
        (MachineIds("", ""), False),
    ],
)
def test_machines_differ_if_an_id_known_for_both_differs(ids: MachineIds, other: bool) -> None:
    assert is_other_machine(identity("", BOX, SALT), ids) is other


@pytest.mark.parametrize("stored", ["", "salt", "salt - -", "a b c d"])
def test_identity_without_a_known_id_belongs_to_no_machine(stored: str) -> None:
    assert not is_other_machine(stored, BOX)


def test_identity_contains_no_id_and_depends_on_the_salt() -> None:
    stored = identity("", BOX, SALT)

    assert BOX.machine_id not in stored
    assert BOX.hardware_id not in stored
    assert stored != identity("", BOX, "another salt")


def test_unreadable_id_keeps_its_stored_hash() -> None:
    """A relay that runs first as root and then as its own user still recognizes the board."""
    as_root = identity("", BOX, SALT)
    as_user = identity(as_root, MachineIds(BOX.machine_id, ""), "ignored")

    assert as_user == as_root


def test_newly_readable_id_is_added() -> None:
    stored = identity(identity("", MachineIds(BOX.machine_id, ""), SALT), BOX, "ignored")

    assert is_other_machine(stored, MachineIds(BOX.machine_id, "board-2"))

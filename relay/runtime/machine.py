"""Identify the machine, so that the relay recognizes a cloned installation.

Two ids identify a machine. The machine id of the operating system is copied with a disk image unless it is reset. The
hardware id of the board is never copied, but on most machines only root can read it. Two machines differ if one of
the ids is known for both and differs. Only salted hashes are stored, because the ids are confidential (machine-id(5)).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

_MACHINE_ID_FILES = ("etc/machine-id", "var/lib/dbus/machine-id")
_HARDWARE_ID_FILES = ("sys/class/dmi/id/product_uuid", "proc/device-tree/serial-number")
_NO_IDS = ("", "uninitialized")
"""Contents of the files before the first boot of an image (machine-id(5))."""
_UNKNOWN = "-"
_FIELDS = 3


class MachineIds(NamedTuple):
    """The ids of a machine; an unreadable id is ""."""

    machine_id: str
    hardware_id: str


def read_machine_ids(root: Path = Path("/")) -> MachineIds:
    """Read the ids of this machine; `root` is the root of the file system."""
    return MachineIds(_first(root, _MACHINE_ID_FILES), _first(root, _HARDWARE_ID_FILES))


def is_other_machine(stored: str, ids: MachineIds) -> bool:
    """Return whether `stored`, a result of `identity`, belongs to another machine than `ids`.

    Return False for an empty or damaged text.
    """
    salt, *hashes = _fields(stored)
    return any(
        _UNKNOWN not in (before, now) and before != now
        for before, now in zip(hashes, (_hash(salt, each) for each in ids), strict=True)
    )


def identity(stored: str, ids: MachineIds, salt: str) -> str:
    """Return the text to store for the machine of `ids`: "SALT HASH HASH".

    `stored` is the earlier text of the same machine, or "". An id that cannot be read now keeps its stored hash.
    `salt` is used only if `stored` has none.
    """
    stored_salt, *hashes = _fields(stored)
    salt = stored_salt or salt
    now = (_hash(salt, each) for each in ids)
    return " ".join((salt, *(new if new != _UNKNOWN else old for new, old in zip(now, hashes, strict=True))))


def _first(root: Path, names: tuple[str, ...]) -> str:
    for name in names:
        try:
            content = (root / name).read_bytes()[:256].decode("ascii", "replace").strip("\0 \t\r\n")
        except OSError:
            continue
        if content not in _NO_IDS:
            return content
    return ""


def _fields(stored: str) -> list[str]:
    fields = stored.split(" ")
    return fields if len(fields) == _FIELDS else ["", _UNKNOWN, _UNKNOWN]


def _hash(salt: str, machine_or_hardware_id: str) -> str:
    if not machine_or_hardware_id:
        return _UNKNOWN
    return hashlib.sha256(f"{salt} {machine_or_hardware_id}".encode()).hexdigest()

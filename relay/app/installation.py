"""Identify this installation by a UUID, the device id of `defaults.device_id = "auto"`.

The relay generates the UUID once and stores it beside the outbox, together with the identity of the machine. A copy on
another machine, for example an image on many boxes, generates a new UUID.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from relay.runtime.durable_file import replace_text
from relay.runtime.machine import MachineIds, identity, is_other_machine

_log = structlog.get_logger("relay.installation")

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DEVICE_ID, _MACHINE = "device_id", "machine_identity"


class Installation(NamedTuple):
    """What identifies this installation."""

    device_id: str
    was_moved: bool
    """Whether the files beside the outbox belonged to another machine."""


def identify(directory: Path, ids: MachineIds | None, new_id: Callable[[], str]) -> Installation:
    """Return the identity of the installation in `directory`, see `read_or_make`.

    If it can neither be read nor stored, log an error and return an id that is valid until the next start.
    """
    try:
        return read_or_make(directory, ids, new_id)
    except OSError as error:
        made = Installation(new_id(), False)
        _log.error("installation id cannot be stored", error=str(error), id=made.device_id, until="next start")
        return made


def read_or_make(directory: Path, ids: MachineIds | None, new_id: Callable[[], str]) -> Installation:
    """Return the installation id stored in `directory`.

    Generate and store a new id if there is none, if the file contains no UUID, or if the id belongs to another machine
    than `ids`. With None, the machine is not compared. Raises OSError if the files can neither be read nor written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    stored, owner = _read(directory / _DEVICE_ID), _read(directory / _MACHINE)
    was_moved = ids is not None and is_other_machine(owner, ids)
    if was_moved or not _UUID.fullmatch(stored):
        stored = new_id()
        replace_text(directory / _DEVICE_ID, stored)
    if ids is not None and (mine := identity("" if was_moved else owner, ids, new_id())) != owner:
        # The id is written first, so that a crash before this line cannot make the other machine's id ours.
        replace_text(directory / _MACHINE, mine)
    return Installation(stored, was_moved)


def forget(directory: Path) -> None:
    """Remove the installation id and the identity of its machine. Raises OSError."""
    for name in (_DEVICE_ID, _MACHINE):
        (directory / name).unlink(missing_ok=True)


def _read(path: Path) -> str:
    """Return the text of a file; "" if it does not exist or is not text. Raises OSError."""
    try:
        return path.read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""

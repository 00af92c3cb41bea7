"""Notices that a key file was changed or replaced. A task of its own: whatever else is looked at may hang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from relay.runtime.secret import fingerprint

_log = structlog.get_logger(__name__)

_EVERY_S = 2.0
"""The contract promises 5."""


async def watch_keys(
    files: Callable[[], Iterable[Path]], known: list[tuple[int, ...]], changed: Callable[[], object]
) -> None:
    """Call `changed` each time the fingerprint of the files is another than before; at first than `known`."""
    while True:
        await asyncio.sleep(_EVERY_S)
        if (now := fingerprint(files())) != known:
            known = now
            _log.info("a key file has changed")
            changed()

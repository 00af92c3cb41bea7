"""Detect changes of key and certificate files. This is a separate task, because checks of other files may hang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from relay.runtime.secret import fingerprint

_log = structlog.get_logger(__name__)

_EVERY_S = 2.0
"""Interval of the checks. The contract requires that a change is applied within 5 s."""


async def watch_keys(
    files: Callable[[], Iterable[Path]], known: list[tuple[int, ...]], changed: Callable[[], object]
) -> None:
    """Call `changed` after each change of the files' fingerprint, beginning with `known`. Never returns."""
    while True:
        await asyncio.sleep(_EVERY_S)
        if (now := fingerprint(files())) != known:
            known = now
            _log.info("a key or certificate file has changed")
            changed()

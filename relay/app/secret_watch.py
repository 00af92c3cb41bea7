"""Detect changes of key and certificate files, and warn of secrets that others can read.

The watch is a separate task, because checks of other files may hang.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from relay.config import Settings
from relay.forward.upstream import certificate_files
from relay.runtime.secret import exposed, fingerprint

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


def watched_files(settings: Settings) -> list[Path]:
    """Return the key and certificate files. The relay applies their changes without a signal."""
    return [*dict.fromkeys(settings.secret_files.values()), *certificate_files(settings.upstream).values()]


def warn_of_exposed(settings: Settings) -> None:
    """Log a warning for each secret that other users of the machine can read."""
    for problem in exposed(dict.fromkeys(settings.secret_files.values())):
        _log.warning("a secret is exposed", problem=problem)

"""Speed up the imports of `relay run`, so that a restarted device stores events again soon.

Two causes take a third of the import time without a benefit. On import, aiohttp reads the system's certificate
authorities for a default context that the relay does not use (`forward.upstream` creates its own). The garbage
collector repeatedly scans the objects of the loaded modules, none of which becomes garbage.
"""

from __future__ import annotations

import gc
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quick_imports() -> Iterator[None]:
    """Run imports in the block. Exclude the objects created so far from garbage collection permanently."""
    original = ssl.create_default_context
    ssl.create_default_context = _context_without_authorities
    gc.disable()
    try:
        yield
    finally:
        ssl.create_default_context = original
        gc.freeze()
        gc.enable()


def _context_without_authorities(*_: Any, **__: Any) -> ssl.SSLContext:
    """Return a context that verifies without any authority. A connection that used it by mistake would fail."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

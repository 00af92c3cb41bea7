"""What `relay run` imports, imported fast: a box that starts again shall keep events again soon.

Two things cost a third of the time and bring nothing: aiohttp reads the system's certificate authorities
when it is imported, for a default that nobody here uses (`forward.upstream` makes its own); and the garbage
collector walks again and again over what modules are made of, none of which is ever garbage.
"""

from __future__ import annotations

import gc
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quick_imports() -> Iterator[None]:
    """For imports only. What is imported by then stays out of the collector's sight for good."""
    made = ssl.create_default_context
    ssl.create_default_context = _trusting_nobody
    gc.disable()
    try:
        yield
    finally:
        ssl.create_default_context = made
        gc.freeze()
        gc.enable()


def _trusting_nobody(*_: Any, **__: Any) -> ssl.SSLContext:
    """A context that verifies and knows no authority: whoever used it by mistake would connect to nobody."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

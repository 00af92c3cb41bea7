"""What touches sockets is tested on both event loops the relay runs on: their transports differ in kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

ASYNCIO = {"asyncio": asyncio.new_event_loop}
BOTH = {**ASYNCIO, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return BOTH if item.path.name in ("test_listener.py", "test_connection.py") else ASYNCIO

"""A running relay, and a working directory without a configuration."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli.harness import NotedRelay, answering


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, without ./config.toml."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def relay() -> Iterator[NotedRelay]:
    relay = NotedRelay()
    with answering(relay):
        yield relay


@pytest.fixture
def absent_relay() -> Iterator[dict[str, str]]:
    """The environment of a relay that does not run. Its port is bound, and no process listens there."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield {"RELAY__HTTP__LISTEN": f"127.0.0.1:{bound.getsockname()[1]}"}

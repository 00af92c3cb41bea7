"""Every command ends with 0, 1, 2, 75 or 78, and the same kind of failure has the same code in all of them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from relay.cli import COMMANDS

from tests.unit.cli.harness import call

ID = "550e8400-e29b-41d4-a716-446655440000"
CLIENTS: dict[str, tuple[str, ...]] = {
    "send": ("post.view",),
    "status": (),
    "flush": (),
    "tail": (),
    "event": (ID,),
    "dead": ("list",),
    "adopt": (),
    "support-bundle": ("bundle.tar.gz",),
    "healthcheck": (),
}
"""Commands for a running relay, with arguments."""
READERS = ["run", "check-config", "prepare-image", *CLIENTS]
"""Commands that read the configuration."""
OTHERS = ["config", "demo", "sandbox"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def environ(tmp_path: Path, **changes: str) -> dict[str, str]:
    """Return a valid environment of a relay that does not run."""
    return {
        "RELAY__UPSTREAM__URL": "https://up.example/v1/events",
        "RELAY__UPSTREAM__API_KEY": "k",
        "RELAY__HTTP__LISTEN": "127.0.0.1:1",
        "RELAY__OUTBOX__PATH": str(tmp_path / "outbox.db"),
    } | changes


def test_each_command_is_in_one_of_the_tables() -> None:
    assert sorted([*READERS, *OTHERS]) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_a_success_and_an_unknown_option_a_usage_error(command: str) -> None:
    assert call(command, "--help", environ={}).exit_code == 0
    assert call(command, "--colour", environ={}).exit_code == 2


@pytest.mark.parametrize("command", READERS)
def test_an_invalid_configuration_is_78(command: str, tmp_path: Path) -> None:
    result = call(command, *CLIENTS.get(command, ()), environ=environ(tmp_path, RELAY__BATCH__LINGER="soon"))
    assert result.exit_code == 78
    assert "RELAY__BATCH__LINGER" in result.stderr


@pytest.mark.parametrize("command", [name for name in CLIENTS if name != "support-bundle"])
def test_without_a_relay_and_an_outbox_a_command_fails_with_1(command: str, tmp_path: Path) -> None:
    """A support bundle states that no relay responds."""
    result = call(command, *CLIENTS[command], environ=environ(tmp_path))
    assert result.exit_code == 1
    assert "no relay responds" in result.stderr


@pytest.mark.parametrize("command", ["run", "dead", "adopt", "prepare-image"])
def test_an_outbox_of_another_process_is_75(command: str, tmp_path: Path) -> None:
    """The commands have processes of their own, because `relay run` blocks signals in its main thread."""
    (tmp_path / "outbox.db").touch()
    with (tmp_path / "outbox.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = subprocess.run(
            [sys.executable, "-m", "relay", command, *CLIENTS.get(command, ())],
            env={**os.environ, **environ(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 75, ended.stderr

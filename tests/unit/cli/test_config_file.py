"""All commands find the configuration file in the same places, in the same order."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from relay.cli import COMMANDS, cli

from tests.unit.cli.harness import call

WITHOUT_CONFIGURATION = {"config", "demo", "sandbox"}
ARGUMENTS = {
    "send": ["post.view"],
    "event": ["ID"],
    "dead show": ["1"],
    "dead requeue": ["1"],
    "dead discard": ["1"],
    "support-bundle": ["bundle.tar.gz"],
}


def commands(group: click.Group, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the names of each command that reads the configuration."""
    for name in group.list_commands(click.Context(group)):
        found = group.get_command(click.Context(group), name)
        if isinstance(found, click.Group):
            yield from commands(found, (*above, name))
        else:
            yield (*above, name)


READERS = [names for names in commands(cli) if names[0] not in WITHOUT_CONFIGURATION]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Write a faulty file at each place, in the documented order: each names itself in an unknown key."""
    etc = [tmp_path / "etc" / name / "config.toml" for name in ("relay", "event-relay")]
    monkeypatch.setattr(importlib.import_module("relay.config.load"), "CONFIG_FILES", (Path("config.toml"), *etc))
    files = [Path("given.toml"), Path("named.toml"), Path("config.toml"), *etc]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"unknown_{number} = 1\n")
    return files


def test_the_table_has_every_command() -> None:
    assert {names[0] for names in READERS} == COMMANDS.keys() - WITHOUT_CONFIGURATION


@pytest.mark.parametrize("names", READERS, ids=" ".join)
def test_a_command_reads_the_first_file_and_no_other(names: tuple[str, ...], places: list[Path]) -> None:
    """--config, RELAY_CONFIG, ./config.toml, /etc/relay/config.toml, /etc/event-relay/config.toml; else no file."""
    command = [*names, *ARGUMENTS.get(" ".join(names), [])]
    for number, place in enumerate(places):
        option = ["--config", str(place)] if number == 0 else []
        environ = {"RELAY_CONFIG": str(places[1])} if number <= 1 else {}
        called = call(*command, *option, environ=environ)

        assert called.exit_code == 78, called.output
        assert [f"unknown_{other}" in called.output for other in range(len(places))] == [
            other == number for other in range(len(places))
        ]
        place.unlink()
    assert "unknown_" not in call(*command, environ={"RELAY__HTTP__LISTEN": "127.0.0.1:1"}).output

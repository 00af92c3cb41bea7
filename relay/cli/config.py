"""`relay config`: print the example configuration or its JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path

import click

from relay import config as package
from relay.config.schema import schema


@click.group("config", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Print the example configuration, or its schema for editors. `relay check-config` checks a configuration."""


@command.command("example")
def example() -> None:
    """Print every key with its default, unit and effect, as a commented TOML file."""
    click.echo(Path(package.__file__).with_name("example.toml").read_text(encoding="utf-8"), nl=False)


@command.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of the configuration file."""
    click.echo(json.dumps(schema(), indent=2))

"""`relay config`: print files of the package: example configuration, its schema, unit, alerts, dashboard."""

from __future__ import annotations

import json
from pathlib import Path

import click

from relay import config as package
from relay.config.schema import schema

FILES = {
    "example": ("example.toml", "Print every key with its default, unit and effect, as a commented TOML file."),
    "unit": ("event-relay.service", "Print the systemd unit for a relay in /opt/event-relay."),
    "alerts": ("alerts.yml", "Print the alerts for Prometheus."),
    "dashboard": ("dashboard.json", "Print the dashboard for Grafana."),
}


@click.group("config", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Print files for a configuration or a deployment. `relay check-config` checks a configuration."""


@command.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of the configuration file."""
    click.echo(json.dumps(schema(), indent=2))


def _printer(file: str, description: str) -> click.Command:
    def show() -> None:
        click.echo(Path(package.__file__).with_name(file).read_text(encoding="utf-8"), nl=False)

    return click.Command(None, callback=show, help=description)


for _name, _file in FILES.items():
    command.add_command(_printer(*_file), _name)

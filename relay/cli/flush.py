"""`relay flush`."""

from __future__ import annotations

from pathlib import Path

import click

from relay.cli.client import Client
from relay.cli.common import config_option, load_client_settings, ops_place


@click.command("flush")
@config_option
def command(config_file: Path | None) -> None:
    """Ask the running relay to send now what waits, still within the limits.

    A held route (wrong key, wrong URL, no answer) is probed at once.
    """
    settings = load_client_settings(config_file)
    client = Client(ops_place(settings), settings.ops.token)
    client.expect(client.post("/flush", {}))
    click.echo("asked to send")

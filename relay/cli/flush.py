"""`relay flush`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from relay.cli.client import RelayClient
from relay.cli.common import config_option, load_client_settings, ops_place


@click.command("flush")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(config_file: Path | None, as_json: bool) -> None:
    """Ask the running relay to send now what waits, still within the limits.

    A held route (wrong key, wrong URL, no answer) is probed at once.
    """
    settings = load_client_settings(config_file)
    client = RelayClient(ops_place(settings), settings.ops.token)
    said = client.expect(client.post("/flush", {}), {"pending": int})
    click.echo(
        json.dumps(said) if as_json else f"asked to send {said['pending']:,} events, as fast as the limits allow"
    )

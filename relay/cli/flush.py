"""`relay flush`: send pending events now."""

from __future__ import annotations

import json
from pathlib import Path

import click

from relay.cli.client import RelayClient
from relay.cli.common import config_option, json_option, load_client_settings, ops_place


@click.command("flush")
@config_option
@json_option
def command(config_file: Path | None, as_json: bool) -> None:
    """Make the running relay send its pending events now, within the limits.

    The relay also tries at once each upstream that rejected the key, has a wrong URL or did not respond.
    """
    settings = load_client_settings(config_file)
    client = RelayClient(ops_place(settings), settings.ops.token)
    reply = client.expect(client.post("/flush", {}), {"pending": int})
    click.echo(json.dumps(reply) if as_json else f"sending {reply['pending']:,} events, as fast as the limits allow")

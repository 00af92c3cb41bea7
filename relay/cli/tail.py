"""`relay tail`: follow events of a running relay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from relay.cli import exits
from relay.cli.client import RelayClient
from relay.cli.common import Utf8, config_option, json_option, load_client_settings, ops_place
from relay.cli.shape import Optional, difference
from relay.cli.terminal import printable

PATH = "/events/stream"
_TEXTS = ("at", "change", "event_id", "event_type", "platform", "device_id", "reason", "message")
SHAPE = {**dict.fromkeys(_TEXTS, str), "tenant": Optional(int)}
_CHANGE_CHARS = len("dead_lettered")


@click.command("tail")
@config_option
@json_option
@click.option("--device", type=Utf8(), metavar="ID", help="Only events of this device_id.")
@click.option("--type", "event_type", type=Utf8(), help="Only events of this event_type.")
def command(config_file: Path | None, as_json: bool, device: str | None, event_type: str | None) -> None:
    """Print a line when an event is stored, rejected, delivered, dropped or moved to the dead letters.

    Ctrl-C and a stop of the relay end the command with 0. A rejected body that is not one JSON object has neither id
    nor type. Of more than 256 events that are dropped at once, the others have no type.
    """
    client = RelayClient(ops_place(load_client_settings(config_file)))
    try:
        for data in client.follow(PATH, device=device, type=event_type):
            if "end" in data:
                click.echo(printable(str(data["end"])), err=True)
                return
            _print(client, data, as_json)
    except KeyboardInterrupt:
        return
    raise exits.CommandFailed(f"the connection to the relay at {client.place} was closed")


def _print(client: RelayClient, data: dict[str, Any], as_json: bool) -> None:
    if wrong := difference(data, {"skipped": int} if "skipped" in data else SHAPE):
        raise client.not_a_relay(wrong)
    if as_json:
        click.echo(json.dumps(data))
    elif "skipped" in data:
        click.echo(f"{data['skipped']:,} lines skipped, because this command was too slow")
    else:
        key = [data[name] for name in ("tenant", "platform", "device_id")]
        device = "/".join(str(part) for part in key if part not in ("", None))
        why = ": ".join(data[name] for name in ("reason", "message") if data[name])
        parts = [data["at"], data["change"].ljust(_CHANGE_CHARS), data["event_id"], data["event_type"], device, why]
        click.echo(printable("  ".join(part for part in parts if part), None))

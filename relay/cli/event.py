"""`relay event`: print what became of one event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from relay.cli import exits
from relay.cli.client import RelayClient
from relay.cli.common import Utf8, apps_place, config_option, has_ops, json_option, load_client_settings, ops_place
from relay.cli.terminal import printable
from relay.config import Settings

SHAPE_OF_LOST = {"event_id": str, "state": str, "reason": str, "message": str}


@click.command("event")
@click.argument("event_id", type=Utf8())
@config_option
@json_option
def command(event_id: str, config_file: Path | None, as_json: bool) -> None:
    """Print what became of the event EVENT_ID: pending, delivered, rejected or dropped, and why.

    Exits with 1 if the relay does not know the event, or no longer.
    """
    settings = load_client_settings(config_file)
    data = find(RelayClient(apps_place(settings)), event_id)
    if data is None:
        raise exits.CommandFailed(
            f"the relay has no record of {printable(event_id, 40)}: it was never stored, or it has left "
            "outbox.dedupe_window and is not a dead letter"
        )
    if as_json:
        click.echo(json.dumps(data))
        return
    click.echo(f"{data['event_id']}: {printable(data['state'], 40)}")
    for name in ("reason", "message"):
        if name in data:
            click.echo(f"  {name}: {printable(data[name])}")
    if data["state"] == "pending":
        click.echo(f"  {_why_pending(settings)}")


def find(client: RelayClient, event_id: str) -> dict[str, Any] | None:
    """Return the response about an event; None if the relay does not know it. Raises CommandFailed."""
    reply = client.get(f"/v1/events/{event_id}")
    if reply.status == 404:
        return None
    data: dict[str, Any] = client.expect(reply, {"event_id": str, "state": str})
    return data if data["state"] in ("pending", "delivered") else client.expect(reply, SHAPE_OF_LOST)


def _why_pending(settings: Settings) -> str:
    """Return the summary of the status, which shows why events are pending."""
    if not has_ops(settings):
        return "`relay status` shows why"
    client = RelayClient(ops_place(settings))
    summary = client.expect(client.get("/status.json"), {"summary": {"message": str}})["summary"]
    return printable(summary["message"])

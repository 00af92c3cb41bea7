"""`relay adopt`: send or drop the events that a cloned installation found in its outbox."""

from __future__ import annotations

import json
from pathlib import Path

import click

from relay.cli.client import RelayClient, running_relay
from relay.cli.common import config_option, json_option, load_client_settings, progress
from relay.config import OutboxSettings

_EVENTS_AT_ONCE = 4096


@click.command("adopt")
@config_option
@click.option("--discard", is_flag=True, help="Drop the events instead of sending them.")
@json_option
def command(config_file: Path | None, discard: bool, as_json: bool) -> None:
    """Send the quarantined events of another machine, or drop them with --discard.

    If an outbox was copied from another machine, or its disk was moved, the relay quarantines the pending events,
    because the original machine may send them too. Without a running relay, the command opens the outbox directly.
    """
    settings = load_client_settings(config_file)
    done = "discarded" if discard else "adopted"
    if client := running_relay(settings):
        events = _through_relay(client, discard, done)
    else:
        events = _on_disk(settings.outbox, discard)
    click.echo(json.dumps({done: events}) if as_json else f"{events:,} events {done}")


def _through_relay(client: RelayClient, discard: bool, done: str) -> int:
    """Return the number of moved events. Raises CommandFailed if the remainder does not shrink."""
    path = f"/quarantine/{'discard' if discard else 'adopt'}"
    events = 0
    before: int | None = None
    with progress(done) as step:
        while True:
            reply = client.expect(client.post(path, {}), {"success": bool, done: int, "remaining": int})
            moved: int = reply[done]
            remaining: int = reply["remaining"]
            if moved < 0 or remaining < 0 or (before is not None and moved and remaining >= before):
                raise client.not_a_relay(f"{moved} events {done}, {remaining} remaining after {before}")
            events += moved
            before = remaining
            step(moved)
            if not moved or not remaining:
                return events


def _on_disk(settings: OutboxSettings, discard: bool) -> int:
    """Return the number of moved events. Raises CommandFailed."""
    from relay.cli.outbox_on_disk import open_on_disk  # noqa: PLC0415 - slow to import, needed without a relay only

    with open_on_disk(settings) as disk:
        outbox = disk.outbox
        total = outbox.gauges().quarantined
        with progress("events", total) as step:
            while moved := disk.run((outbox.discard_quarantined if discard else outbox.adopt)(_EVENTS_AT_ONCE)):
                step(moved)
        return total

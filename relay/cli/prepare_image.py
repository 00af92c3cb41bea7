"""`relay prepare-image`: prepare this installation for cloning."""

from __future__ import annotations

import json
from pathlib import Path

import click

from relay.app import installation
from relay.cli import exits
from relay.cli.client import running_relay
from relay.cli.common import config_option, json_option, load_client_settings
from relay.config import OutboxSettings


@click.command("prepare-image")
@config_option
@click.option(
    "--discard", is_flag=True, help="Drop pending events. Without this option the command fails if events are pending."
)
@json_option
def command(config_file: Path | None, discard: bool, as_json: bool) -> None:
    """Remove the installation id, so that the disk image can be cloned.

    Stop the relay first. Exits with 75 while a relay runs. Exits with 1 and changes nothing if events are pending and
    --discard is not given.
    """
    settings = load_client_settings(config_file)
    if client := running_relay(settings):
        raise exits.CommandFailed(f"a relay is running at {client.place}: stop it first", exits.OUTBOX_LOCKED)
    discarded = _empty(settings.outbox, discard) if settings.outbox.kind == "sqlite" else 0
    try:
        installation.forget(settings.outbox.path.parent)
    except OSError as error:
        raise exits.CommandFailed(f"cannot remove the installation id: {error.strerror}: {error.filename}") from error
    text = f"ready to be cloned: {discarded:,} events discarded, installation id removed"
    click.echo(json.dumps({"discarded": discarded}) if as_json else text)


def _empty(settings: OutboxSettings, discard: bool) -> int:
    """Return the number of discarded events. Raises CommandFailed if there are any and `discard` is False."""
    from relay.cli.outbox_on_disk import is_there, open_on_disk  # noqa: PLC0415 - slow to import
    from relay.outbox.factory import OutboxEngine  # noqa: PLC0415

    if not is_there(settings):
        return 0
    with open_on_disk(settings) as disk:
        pending = disk.outbox.ledger().pending
        if pending and not discard:
            raise exits.CommandFailed(
                f"{pending:,} events are pending in {settings.path}: run the relay until they are delivered, "
                "or give --discard to drop them; nothing was changed"
            )
        assert isinstance(disk.outbox, OutboxEngine)
        discarded = disk.run(disk.outbox.discard_pending())
        disk.run(disk.outbox.disown())
        return discarded

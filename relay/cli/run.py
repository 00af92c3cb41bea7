"""`relay run`: the sidecar itself."""

from __future__ import annotations

from pathlib import Path

import click

from relay import service
from relay.cli.common import config_option
from relay.config import default_config_file


@click.command("run")
@config_option
@click.pass_context
def command(ctx: click.Context, config_file: Path | None) -> None:
    """Run the relay until SIGTERM or SIGINT; SIGHUP reads the configuration again.

    Exits with 75 if another relay holds the outbox, with 78 if the configuration is wrong.
    """
    ctx.exit(service.main(config_file or default_config_file()))

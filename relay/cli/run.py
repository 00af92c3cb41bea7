"""`relay run`: run the relay."""

from __future__ import annotations

import os
from pathlib import Path

import click

from relay.cli import exits
from relay.cli.common import config_option
from relay.cli.quick_imports import quick_imports

with quick_imports():
    from relay.app import process, run_service
    from relay.config import ConfigError, find_config_file
    from relay.outbox import OutboxError, OutboxLocked
    from relay.runtime.address import ListenError


@click.command("run")
@config_option
def command(config_file: Path | None) -> None:
    """Run the relay until SIGTERM or SIGINT. SIGHUP reloads the configuration.

    Exits with 75 if another process holds the outbox, and with 78 if the configuration is invalid.
    """
    try:
        process.end(run_service.main(find_config_file(config_file, os.environ)))
    except ConfigError as error:
        raise exits.Failed(str(error), exits.CONFIG_WRONG) from error
    except OutboxLocked as error:
        raise exits.Failed(str(error), exits.OUTBOX_LOCKED) from error
    except (ListenError, OutboxError) as error:
        raise exits.Failed(str(error)) from error

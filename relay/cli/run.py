"""`relay run`: run the relay."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from relay.cli import exits
from relay.cli.common import config_option


@contextmanager
def _uncollected() -> Iterator[None]:
    """Run imports without the garbage collector, which would scan the loaded modules repeatedly: 10 % of the start.

    The objects created so far are excluded from garbage collection permanently. None of them becomes garbage.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


with _uncollected():
    from relay.app import process, run_service
    from relay.config import ConfigError, find_config_file
    from relay.outbox import OutboxError, OutboxLocked
    from relay.runtime.address import ListenError


@click.command("run")
@config_option
def command(config_file: Path | None) -> None:
    """Run the relay until SIGTERM or SIGINT. SIGHUP reloads the configuration.

    Exits with 75 if another relay uses the outbox, and with 78 if the configuration is invalid.
    """
    try:
        process.end(run_service.main(find_config_file(config_file, os.environ)))
    except ConfigError as error:
        raise exits.CommandFailed(str(error), exits.CONFIG_WRONG) from error
    except OutboxLocked as error:
        raise exits.CommandFailed(str(error), exits.OUTBOX_LOCKED) from error
    except (ListenError, OutboxError) as error:
        raise exits.CommandFailed(str(error)) from error

"""Exit codes, and the errors that end a command with a message on standard error.

Codes above 2 are those of sysexits.h. Click itself reports usage errors with code 2.
"""

from __future__ import annotations

import click

from relay.cli.terminal import printable_lines

FAILED = 1
OUTBOX_LOCKED = 75
CONFIG_WRONG = 78


class CommandFailed(click.ClickException):
    """End the command with a message that names the failure and what to do.

    The message keeps its line breaks. Other control characters in it are escaped.
    """

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(printable_lines(message))
        self.exit_code = exit_code  # type: ignore[misc]  # click has one per class, the relay one per error


class NoRelay(CommandFailed):
    """No relay responds. The outcome of the request is unknown."""

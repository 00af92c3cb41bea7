"""How a command ends when something expected went wrong: one sentence on standard error, and a code.

Codes beyond 2 are those of sysexits.h. Usage errors (2) are click's own.
"""

from __future__ import annotations

import click

FAILED = 1
OUTBOX_LOCKED = 75
CONFIG_WRONG = 78


class Failed(click.ClickException):
    """Ends the command; the message says what happened and what to do."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click has one a class, we one an end


class NoRelay(Failed):
    """No relay answers: what became of the request is not known."""

"""The command line, `relay COMMAND`.

Rules:
- The module of a command is imported only when that command is called, so that `relay healthcheck` starts fast on
  small machines. The module defines the command as `command`.
- Every expected failure ends with a message that names what to do, and with an exit code of `exits`. A traceback is
  a bug.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from relay import __version__
from relay.runtime.journal import mark_errors
from relay.runtime.standard_streams import open_standard_streams

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS: Mapping[str, str] = {
    "run": "Run the relay.",
    "check-config": "Print the effective configuration and the source of each value.",
    "config": "Print the example configuration, its schema, the unit, alerts or dashboard.",
    "demo": "Run a sandbox upstream, a relay and simulated devices.",
    "sandbox": "Run a stand-in upstream for development.",
    "send": "Send one event to a running relay.",
    "status": "Print received, sent and pending events.",
    "flush": "Send pending events now.",
    "tail": "Follow events: stored, rejected, delivered, dropped, dead-lettered.",
    "event": "Print what became of one event.",
    "dead": "List, show, requeue, discard or export dead letters.",
    "adopt": "Send or drop the quarantined events of another machine.",
    "prepare-image": "Prepare this installation for cloning.",
    "support-bundle": "Write a diagnostic archive without secrets and events.",
    "healthcheck": "Exit with 0 if the relay runs and can store events.",
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"relay.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Reject an unknown name, and suggest the most similar one."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches  # noqa: PLC0415 - slow to import, needed after a typing error only

            near = get_close_matches(args[0], COMMANDS, n=1)
            meant = f"; did you mean {near[0]}?" if near else f"; the commands are {', '.join(COMMANDS)}"
            raise click.UsageError(f"no such command {args[0]!r}{meant}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names without importing the commands."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only shell completion needs it

        names = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 1 failure, 2 usage, 75 another relay uses the outbox, 78 invalid configuration.",
)
@click.version_option(__version__, prog_name="relay", message="%(prog)s %(version)s")
def cli() -> None:
    """Store the events of local apps, and forward them to the upstream events API within its limits."""


def main() -> None:
    """Run the command line. The entry point of the `relay` script."""
    open_standard_streams()
    mark_errors()
    cli(prog_name="relay")

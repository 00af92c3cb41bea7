"""The command line, `relay COMMAND`.

Rules: a command's module and what it needs are imported only when that command is called, so that
`relay healthcheck` starts fast on a small box; each module of a command calls it `command`. What can
go wrong is told in one sentence that says what to do, with an exit code of `exits`; a traceback is a bug.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from relay import __version__
from relay.runtime.standard_streams import open_standard_streams

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS: Mapping[str, str] = {
    "run": "Run the relay.",
    "check-config": "Print the effective configuration and where each value is from.",
    "demo": "Sandbox upstream, relay and simulated devices, all at once.",
    "sandbox": "Stand in for the upstream, for working offline.",
    "send": "Send one event to a running relay.",
    "status": "What comes in, goes out and waits.",
    "flush": "Ask the running relay to send now what waits.",
    "dead": "The dead letters: list, show, requeue, discard, export.",
    "adopt": "Send the quarantined events of another machine, or drop them.",
    "prepare-image": "Prepare this installation for cloning.",
    "support-bundle": "Write what somebody needs who is to help, without secrets and events.",
    "healthcheck": "Exit 0 if the relay lives and can store events.",
}


class LazyGroup(click.Group):
    """Knows its commands by name and help; imports one only when it is called."""

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
        """A mistyped name is told with the one that is most like it."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches  # noqa: PLC0415 - slow to import, and needed for mistakes only

            near = get_close_matches(args[0], COMMANDS, n=1)
            meant = f"; did you mean {near[0]}?" if near else f": there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"no such command {args[0]!r}{meant}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Without importing any of them."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - a shell asks for it, nobody else

        names = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 fine, 1 failed, 2 usage, 75 another relay holds this outbox, 78 configuration wrong.",
)
@click.version_option(__version__, prog_name="relay", message="%(prog)s %(version)s")
def cli() -> None:
    """Keep events of the apps on this machine, and forward them upstream within its limits."""


def main() -> None:
    open_standard_streams()
    cli(prog_name="relay")

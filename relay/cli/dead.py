"""`relay dead`: inspect, requeue, discard and export dead letters.

The commands use the running relay. If no relay responds, they open the outbox itself. A command that changes dead
letters requires an explicit selection.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple
from itertools import islice
from pathlib import Path
from typing import IO, Any, get_args

import click

from relay.cli import exits
from relay.cli.client import running_relay
from relay.cli.common import (
    Utf8,
    config_option,
    json_option,
    load_client_settings,
    open_private,
    progress,
)
from relay.cli.dead_letters import (
    DONE,
    PAGE,
    Action,
    Cause,
    DeadLetters,
    Filter,
    Letter,
    RemoteDeadLetters,
    causes,
    each,
)
from relay.cli.table import table
from relay.cli.terminal import printable
from relay.outbox import DeadReason

Function = Callable[..., Any]


def _filled(_: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """Reject an empty text: a script's unset variable must not select all dead letters."""
    if text == "":
        raise click.BadParameter("is empty: give a value, or omit the option", param=option)
    return text


def filter_options(function: Function) -> Function:
    """Add --device, --reason and --search."""
    reasons = click.Choice(get_args(DeadReason))
    search = "Select by a text in the event, the device or the upstream's message, in any case."
    function = click.option("--search", type=Utf8(), metavar="TEXT", callback=_filled, help=search)(function)
    function = click.option("--reason", type=reasons, help="Select by reason.")(function)
    device = "Select by device_id."
    return click.option("--device", type=Utf8(), metavar="ID", callback=_filled, help=device)(function)


def choice_options(function: Function) -> Function:
    """Add IDS, --device, --reason, --search and --all."""
    function = click.option("--all", "every", is_flag=True, help="Select all dead letters.")(filter_options(function))
    return click.argument("ids", nargs=-1, type=click.IntRange(min=1))(function)


@click.group("dead", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Manage dead letters: events that could not be delivered, with the upstream's message."""


@command.command("list")
@filter_options
@click.option(
    "--limit", default=PAGE, show_default=True, type=click.IntRange(min=1), help="Maximum number of dead letters."
)
@click.option("--group", is_flag=True, help="Count all matching dead letters by type, reason and message.")
@json_option
@config_option
def list_letters(limit: int, group: bool, as_json: bool, config_file: Path | None, **matching: str | None) -> None:
    """List dead letters, the oldest first, or group them by cause."""
    with _letters(config_file) as letters:
        if group:
            _print_causes(causes(each(letters, Filter(**matching), with_bodies=False)), as_json)
            return
        found = list(islice(each(letters, Filter(**matching)), limit + 1))
    more = len(found) > limit
    if as_json:
        click.echo(json.dumps({"dead_letters": found[:limit], "more": more}))
        return
    keys = ("event_type", "reason", "platform", "device_id", "dead_at", "message")
    rows = [[str(letter["id"]), str(letter["tenant"]), *(letter[key] for key in keys)] for letter in found[:limit]]
    head = ("id", "tenant", "type", "reason", "platform", "device", "since", "message")
    click.echo(table(head, rows) if rows else "no dead letters")
    if more:
        click.echo("more dead letters exist: raise --limit", err=True)


def _print_causes(found: Sequence[Cause], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"causes": [asdict(cause) for cause in found]}))
        return
    head = ("count", "type", "reason", "first", "last", "message")
    click.echo(table(head, list(map(astuple, found))) if found else "no dead letters")


@command.command("show")
@click.argument("letter_id", metavar="ID", type=click.IntRange(min=1))
@json_option
@config_option
def show(letter_id: int, as_json: bool, config_file: Path | None) -> None:
    """Show one dead letter with its event."""
    with _letters(config_file) as letters:
        letter = letters.find(letter_id)
    if letter is None:
        raise exits.CommandFailed(f"no dead letter has the id {letter_id}; `relay dead list` lists all ids")
    if as_json:
        click.echo(json.dumps(letter))
        return
    width = max(map(len, letter))
    for name, value in letter.items():
        click.echo(f"{name.ljust(width)}  {'' if value is None else printable(str(value), None)}")


@command.command("requeue")
@choice_options
@json_option
@config_option
def requeue(ids: Sequence[int], every: bool, as_json: bool, config_file: Path | None, **matching: str | None) -> None:
    """Send dead letters again, as if they were new events.

    Select them by IDS, --device, --reason, --search or --all. Dead letters that are added
    meanwhile are not affected.
    """
    chosen = Filter(**matching)
    _require_choice(every, ids, chosen)
    with _letters(config_file) as letters:
        _move(letters, "requeue", as_json, ids, chosen)


@command.command("discard")
@choice_options
@click.option("--yes", is_flag=True, help="Discard all without confirmation.")
@json_option
@config_option
def discard(
    ids: Sequence[int], every: bool, yes: bool, as_json: bool, config_file: Path | None, **matching: str | None
) -> None:
    """Delete dead letters permanently.

    Select them by IDS, --device, --reason, --search or --all. Dead letters that are added
    meanwhile are not affected.
    """
    chosen = Filter(**matching)
    _require_choice(every, ids, chosen)
    if every and not yes:
        click.confirm("Delete all dead letters permanently?", abort=True, err=True)
    with _letters(config_file) as letters:
        _move(letters, "discard", as_json, ids, chosen)


@command.command("export")
@choice_options
@click.option(
    "--output", "-o", metavar="FILE", type=click.Path(path_type=Path), help="Write to a new file with mode 0600."
)
@click.option("--json", "as_json", is_flag=True, help="Print the count as JSON. The dead letters are always NDJSON.")
@config_option
def export(
    ids: Sequence[int],
    every: bool,
    output: Path | None,
    as_json: bool,
    config_file: Path | None,
    **matching: str | None,
) -> None:
    """Write dead letters as NDJSON, to standard output or FILE.

    Exports all dead letters, unless IDS, --device, --reason or --search select some.
    """
    chosen = Filter(**matching)
    if ids or any(chosen):
        _require_choice(every, ids, chosen)
    with _letters(config_file) as letters, _opened(output) as file, progress("exporting") as step:
        count = 0
        for letter in _chosen(letters, ids, chosen):
            click.echo(json.dumps(letter), file=file)
            count += 1
            step(1)
    # Without --output, standard output contains the export.
    click.echo(json.dumps({"exported": count}) if as_json else f"{count} exported", err=not as_json or output is None)


@contextmanager
def _letters(config_file: Path | None) -> Iterator[DeadLetters]:
    """Yield the dead letters of the running relay, or of the outbox if no relay runs. Raises CommandFailed."""
    settings = load_client_settings(config_file)
    if client := running_relay(settings):
        yield RemoteDeadLetters(client)
        return
    # The outbox is slow to import, and a running relay makes it unnecessary.
    from relay.cli.dead_letters_on_disk import DeadLettersOnDisk  # noqa: PLC0415
    from relay.cli.outbox_on_disk import open_on_disk  # noqa: PLC0415

    with open_on_disk(settings.outbox) as disk:
        yield DeadLettersOnDisk(disk)


def _require_choice(every: bool, ids: Sequence[int], chosen: Filter) -> None:
    if every == bool(ids or any(chosen)):
        raise click.UsageError("select dead letters by IDS, --device, --reason or --search, or give --all alone")
    if ids and any(chosen):
        raise click.UsageError("IDS cannot be combined with --device, --reason and --search")


def _chosen(letters: DeadLetters, ids: Sequence[int], chosen: Filter) -> Iterator[Letter]:
    """Yield the selected dead letters. Raises CommandFailed for an unknown id."""
    if not ids:
        yield from each(letters, chosen)
    for letter_id in ids:
        letter = letters.find(letter_id)
        if letter is None:
            raise exits.CommandFailed(f"no dead letter has the id {letter_id}")
        yield letter


def _ids(letters: DeadLetters, chosen: Filter) -> list[int]:
    found = []
    with progress("searching") as step:
        for letter in each(letters, chosen, with_bodies=False):
            found.append(letter["id"])
            step(1)
    return found


def _move(letters: DeadLetters, action: Action, as_json: bool, ids: Sequence[int], chosen: Filter) -> None:
    """Requeue or discard the selected dead letters, one page at a time, with a progress bar."""
    done = DONE[action]
    wanted = list(dict.fromkeys(ids)) or _ids(letters, chosen)
    moved = 0
    try:
        with progress(done, len(wanted)) as step:
            for first in range(0, len(wanted), PAGE):
                page = wanted[first : first + PAGE]
                moved += letters.move(action, page)
                step(len(page))
    except exits.CommandFailed as failed:
        # The relay may have moved some dead letters of the failed page.
        raise exits.CommandFailed(
            f"{failed.message}\n{done} so far: {moved} of {len(wanted)}", failed.exit_code
        ) from failed
    click.echo(json.dumps({done: moved}) if as_json else f"{moved} {done}")
    if ids and moved < len(wanted):
        raise exits.CommandFailed(f"{len(wanted) - moved} of the given ids do not exist")


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[str]]:
    """Yield standard output, or a new file that only its owner may read. Raises CommandFailed."""
    if output is None:
        yield sys.stdout
        return
    with os.fdopen(open_private(output), "w", encoding="utf-8") as file:
        yield file

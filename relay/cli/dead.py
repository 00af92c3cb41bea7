"""`relay dead`: look at what the upstream refused, send it again, or let it go.

Goes through the running relay; where none answers, to the outbox itself. What changes anything says
which letters it means; a choice is never implied.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, get_args

import click

from relay.cli import exits
from relay.cli.client import RelayClient
from relay.cli.common import Utf8, config_option, has_ops, load_client_settings, open_private, ops_place, progress
from relay.cli.dead_letters import PAGE, DeadLetters, Filter, Letter, RemoteDeadLetters, each
from relay.cli.table import table
from relay.cli.terminal import printable
from relay.outbox import DeadReason

Function = Callable[..., Any]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _filled(_: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """What a script's unset variable leaves behind must not mean "all"."""
    if text == "":
        raise click.BadParameter("is empty: leave the option out, or say which ones", param=option)
    return text


def filter_options(function: Function) -> Function:
    """--device, --reason and --search."""
    reasons = click.Choice(get_args(DeadReason))
    search = "Those with this text in the event, the device or the upstream's words, in any case."
    function = click.option("--search", type=Utf8(), metavar="TEXT", callback=_filled, help=search)(function)
    function = click.option("--reason", type=reasons, help="Those given up for this reason.")(function)
    device = "Those of this device_id."
    return click.option("--device", type=Utf8(), metavar="ID", callback=_filled, help=device)(function)


def choice_options(function: Function) -> Function:
    """IDS, --device, --reason, --search, --all."""
    function = click.option("--all", "every", is_flag=True, help="All of them.")(filter_options(function))
    return click.argument("ids", nargs=-1, type=click.IntRange(min=1))(function)


@click.group("dead", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """The dead letters: events that the upstream refused, with its words."""


@command.command("list")
@filter_options
@click.option("--limit", default=PAGE, show_default=True, type=click.IntRange(min=1), help="The oldest so many.")
@json_option
@config_option
def list_letters(limit: int, as_json: bool, config_file: Path | None, **matching: str | None) -> None:
    """List dead letters, the oldest first."""
    with _letters(config_file) as letters:
        found = list(islice(each(letters, Filter(**matching)), limit + 1))
    more = len(found) > limit
    if as_json:
        click.echo(json.dumps({"dead_letters": found[:limit], "more": more}))
        return
    keys = ("reason", "platform", "device_id", "dead_at", "words")
    rows = [[str(letter["id"]), *(letter[key] for key in keys)] for letter in found[:limit]]
    click.echo(table(("id", "reason", "platform", "device", "since", "words"), rows) if rows else "none")
    if more:
        click.echo("there are more: raise --limit", err=True)


@command.command("show")
@click.argument("letter_id", metavar="ID", type=click.IntRange(min=1))
@json_option
@config_option
def show(letter_id: int, as_json: bool, config_file: Path | None) -> None:
    """Show one with the event as it was sent."""
    with _letters(config_file) as letters:
        letter = letters.find(letter_id)
    if letter is None:
        raise exits.Failed(f"no dead letter has the id {letter_id}; `relay dead list` has them all")
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
    """Let dead letters wait again, to be sent as if they were new.

    Chosen by IDS, --device, --reason, --search or --all, as they are when the command begins.
    """
    chosen = Filter(**matching)
    _require_choice(every, ids, chosen)
    with _letters(config_file) as letters:
        _move(letters, letters.requeue, "requeued", as_json, ids, chosen)


@command.command("discard")
@choice_options
@click.option("--yes", is_flag=True, help="Do not ask before discarding all.")
@json_option
@config_option
def discard(
    ids: Sequence[int], every: bool, yes: bool, as_json: bool, config_file: Path | None, **matching: str | None
) -> None:
    """Forget dead letters for good.

    Chosen by IDS, --device, --reason, --search or --all, as they are when the command begins.
    """
    chosen = Filter(**matching)
    _require_choice(every, ids, chosen)
    if every and not yes:
        click.confirm("Forget all dead letters for good?", abort=True, err=True)
    with _letters(config_file) as letters:
        _move(letters, letters.discard, "discarded", as_json, ids, chosen)


@command.command("export")
@choice_options
@click.option("--output", "-o", metavar="FILE", type=click.Path(path_type=Path), help="A new file, mode 0600.")
@click.option("--json", "as_json", is_flag=True, help="Print how many as JSON; the letters are NDJSON in any case.")
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

    All of them, unless IDS, --device, --reason or --search say otherwise.
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
    # standard output may be the export
    click.echo(json.dumps({"exported": count}) if as_json else f"{count} exported", err=not as_json or output is None)


@contextmanager
def _letters(config_file: Path | None) -> Iterator[DeadLetters]:
    """The running relay's, else the outbox's. Raises Failed."""
    settings = load_client_settings(config_file)
    if has_ops(settings):
        client = RelayClient(ops_place(settings), settings.ops.token)
        if client.is_there():
            yield RemoteDeadLetters(client)
            return
    # the outbox is slow to import, and needed for this only
    from relay.cli.dead_letters_on_disk import DeadLettersOnDisk  # noqa: PLC0415
    from relay.cli.outbox_on_disk import open_on_disk  # noqa: PLC0415

    with open_on_disk(settings.outbox) as disk:
        yield DeadLettersOnDisk(disk)


def _require_choice(every: bool, ids: Sequence[int], chosen: Filter) -> None:
    if every == bool(ids or any(chosen)):
        raise click.UsageError("say which: IDS, --device, --reason or --search, or --all alone")
    if ids and any(chosen):
        raise click.UsageError("give IDS, or --device, --reason and --search")


def _chosen(letters: DeadLetters, ids: Sequence[int], chosen: Filter) -> Iterator[Letter]:
    """Raises Failed for an id that is not there."""
    if not ids:
        yield from each(letters, chosen)
    for letter_id in ids:
        letter = letters.find(letter_id)
        if letter is None:
            raise exits.Failed(f"no dead letter has the id {letter_id}")
        yield letter


def _ids(letters: DeadLetters, chosen: Filter) -> list[int]:
    found = []
    with progress("looking for them") as step:
        for letter in each(letters, chosen, with_bodies=False):
            found.append(letter["id"])
            step(1)
    return found


def _move(
    letters: DeadLetters,
    move: Callable[[Sequence[int]], int],
    done: str,
    as_json: bool,
    ids: Sequence[int],
    chosen: Filter,
) -> None:
    """Requeue or discard what is chosen, a page at a time, under a progress bar."""
    wanted = list(dict.fromkeys(ids)) or _ids(letters, chosen)
    moved = 0
    try:
        with progress(done, len(wanted)) as step:
            for first in range(0, len(wanted), PAGE):
                page = wanted[first : first + PAGE]
                moved += move(page)
                step(len(page))
    except exits.Failed as failed:
        # of the page that failed some may have moved too
        raise exits.Failed(f"{failed.message}\n{done} so far: {moved} of {len(wanted)}", failed.exit_code) from failed
    click.echo(json.dumps({done: moved}) if as_json else f"{moved} {done}")
    if ids and moved < len(wanted):
        raise exits.Failed(f"{len(wanted) - moved} of these ids were not there")


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a new file that nobody else may read. Raises Failed."""
    if output is None:
        yield sys.stdout
        return
    with os.fdopen(open_private(output), "w", encoding="utf-8") as file:
        yield file

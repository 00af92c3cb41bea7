"""Options, settings and addresses shared by the commands that talk to a running relay.

These commands work without access to the upstream's keys. Faults in the upstream's settings therefore do not stop
them.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from relay.cli import exits
from relay.config import ConfigError, Settings, find_config_file, load_for_client
from relay.runtime.address import Listen, bindings, format_address

EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here


class Place(NamedTuple):
    """The address of a listener: a unix socket if `socket_path` is set, host and port otherwise."""

    host: str
    port: int
    socket_path: str = ""

    def __str__(self) -> str:
        return self.socket_path or format_address((self.host, self.port))


class Seconds(click.FloatRange):
    """A timeout of at most a day. Reject nan, which click's own range accepts."""

    name = "seconds"

    def __init__(self, *, above_zero: bool = False) -> None:
        super().__init__(min=0, max=86_400, min_open=above_zero)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class Utf8(click.types.StringParamType):
    """A UTF-8 text. Reject other bytes, which a shell can pass as an argument."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(super().convert(value, param, ctx))
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(f"{text!r} is not UTF-8: check the encoding of the terminal or script.", param, ctx)
        return text


def open_private(path: Path) -> int:
    """Return the descriptor of a new file with mode 0600. Raises CommandFailed if the file exists."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        why = "the file exists; give another name" if isinstance(error, FileExistsError) else error.strerror
        raise exits.CommandFailed(f"cannot write {path}: {why}") from error


@contextmanager
def progress(label: str, length: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error if it is a terminal. Yield the function that advances it."""
    if not sys.stderr.isatty():
        yield lambda steps: None
        return
    # A bar without a length shows only that it advances.
    steps = itertools.count() if length is None else range(length)
    with click.progressbar(steps, label=label, file=sys.stderr) as bar:
        yield bar.update


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --config FILE, as the parameter `config_file`."""
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Configuration file. Default: the file in RELAY_CONFIG, ./config.toml, /etc/relay/config.toml or "
        "/etc/event-relay/config.toml.",
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json, as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def is_config_named() -> bool:
    """Return whether the user gave --config. If so, messages do not suggest the option."""
    context = click.get_current_context(silent=True)
    return context is not None and context.params.get("config_file") is not None


def load_client_settings(config_file: Path | None) -> Settings:
    """Return the settings without keys. Raises CommandFailed (78)."""
    try:
        return load_for_client(find_config_file(config_file, os.environ), os.environ)
    except ConfigError as error:
        raise exits.CommandFailed(str(error), exits.CONFIG_WRONG) from error


def apps_place(settings: Settings) -> Place:
    """Return the address at which apps reach the relay over HTTP. Raises CommandFailed if it has no HTTP listener."""
    if settings.http.listen:
        return _place(settings.http.listen, "http.listen")
    if settings.http.unix_socket:
        return Place("", 0, settings.http.unix_socket)
    raise exits.CommandFailed("the configured relay has no HTTP listener: set http.listen or http.unix_socket")


def has_ops(settings: Settings) -> bool:
    """Return whether a relay with this configuration has an operations interface. A relay with UDP only has none."""
    return bool(settings.ops.listen or settings.http.listen or settings.http.unix_socket)


def ops_place(settings: Settings) -> Place:
    """Return the address of the operations interface. Raises CommandFailed without one."""
    return _place(settings.ops.listen, "ops.listen") if settings.ops.listen else apps_place(settings)


def udp_place(settings: Settings) -> Place:
    """Return the address at which apps reach the relay over UDP. Raises CommandFailed if it has no UDP listener."""
    if not settings.udp.listen:
        raise exits.CommandFailed("the configured relay has no UDP listener: set udp.listen")
    return _place(settings.udp.listen, "udp.listen")


def no_relay(place: Place, error: OSError) -> exits.NoRelay:
    """Return the error for an address at which no relay responds."""
    why = "no response in time" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
    otherwise = "" if is_config_named() else ", or name its configuration with --config"
    return exits.NoRelay(f"no relay responds at {place} ({why}): start one with `relay run`{otherwise}")


def _place(listen: Listen, key: str) -> Place:
    """Return the first address of `listen`. Raises CommandFailed if only the running relay knows its port."""
    first = bindings(listen, listen)[0]
    host, port = first.host, first.port
    if port == 0:
        raise exits.CommandFailed(
            f"{key} = {listen!r} lets the system choose a port, which only the relay's log shows: set a port"
        )
    return Place(EVERY_INTERFACE.get(host, host), port)

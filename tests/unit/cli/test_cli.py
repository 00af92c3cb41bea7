"""Behaviour of all commands: help, version, exit codes, a fast start, and messages in place of tracebacks."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from relay import __version__
from relay.cli import COMMANDS, cli
from relay.cli.common import load_client_settings, ops_place
from relay.config import Http
from relay.http.request import Request
from relay.http.response import Response

from tests.unit.cli.harness import NotedRelay, answering, call

HEAVY = (
    "aiohttp",
    "aiosqlite",
    "asyncio",
    "http.client",
    "msgspec",
    "prometheus_client",
    "sqlite3",
    "structlog",
    "uvloop",
)
CLIENT_COMMANDS = [
    ["status"],
    ["flush"],
    ["healthcheck"],
    ["send", "post.view"],
    ["status", "--json"],
    ["send", "x", "--wait"],
]


def heavy_modules_after(args: list[str], environ: dict[str, str]) -> list[str]:
    """Return the modules of HEAVY that a new interpreter imported for `relay ARGS`."""
    script = (
        "import sys\nfrom relay.cli import cli\n"
        f"try:\n    cli({args!r}, prog_name='relay')\nexcept SystemExit:\n    pass\n"
        f"sys.stderr.write('heavy:' + ','.join(name for name in {HEAVY!r} if name in sys.modules))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environ, check=True)
    return [name for name in ended.stderr.rpartition("heavy:")[2].split(",") if name]


def test_version() -> None:
    result = call("--version", environ={})

    assert (result.exit_code, result.stdout) == (0, f"relay {__version__}\n")


@pytest.mark.parametrize("args", [["--version"], ["--help"], ["healthcheck"]])
def test_frequent_commands_import_no_heavy_module(args: list[str], relay: NotedRelay) -> None:
    assert heavy_modules_after(args, relay.environ) == []


def test_help_lists_every_command() -> None:
    text = call("--help", environ={}).stdout

    assert [name for name in COMMANDS if f"\n  {name} " not in text] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_exists_and_has_help(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)

    assert command is not None
    assert command.name == name
    assert call(name, "--help", environ={}).exit_code == 0


def completions(line: str) -> list[str]:
    """Return the completions of a line."""
    arguments = line.split(" ")
    environ = {
        **os.environ,
        "_RELAY_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(arguments) - 1),
    }
    ended = subprocess.run([sys.executable, "-m", "relay"], env=environ, capture_output=True, text=True, check=False)
    return [offer.partition(",")[2] for offer in ended.stdout.split()]


class TestCompletion:
    """Completion by the protocol of bash, zsh and fish."""

    def test_the_script_for_a_shell_is_printed(self) -> None:
        environ = {**os.environ, "_RELAY_COMPLETE": "zsh_source"}
        ended = subprocess.run(
            [sys.executable, "-m", "relay"], env=environ, capture_output=True, text=True, check=False
        )

        assert "_RELAY_COMPLETE=zsh_complete relay" in ended.stdout

    @pytest.mark.parametrize(
        ("line", "offers"),
        [
            ("relay he", ["healthcheck"]),
            ("relay s", ["sandbox", "send", "status", "support-bundle"]),
            ("relay dead re", ["requeue"]),
            ("relay dead list --reason p", ["poison"]),
            ("relay status --w", ["--watch"]),
            ("relay --ver", ["--version"]),
        ],
    )
    def test_commands_options_and_values_are_offered(self, line: str, offers: list[str]) -> None:
        assert completions(line) == offers


@pytest.mark.parametrize("args", [["nothing"], ["status", "--no-such"], ["send"], ["dead", "show", "x"]])
def test_a_wrong_argument_is_a_usage_error(args: list[str]) -> None:
    assert call(*args, environ={}).exit_code == 2


@pytest.mark.parametrize(
    ("typed", "shown"), [("stauts", "did you mean status?"), ("xyz", "the commands are run, check-config")]
)
def test_an_unknown_command_is_reported_with_a_suggestion(typed: str, shown: str) -> None:
    result = call(typed, environ={})

    assert result.exit_code == 2
    assert shown in result.stderr


@pytest.mark.parametrize("args", CLIENT_COMMANDS)
def test_an_absent_relay_is_reported_with_advice(args: list[str], absent_relay: dict[str, str]) -> None:
    result = call(*args, environ=absent_relay)

    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"no relay responds at {absent_relay['RELAY__HTTP__LISTEN']} (connection refused)" in result.stderr
    assert "relay run" in result.stderr
    assert "--config" in result.stderr


@pytest.mark.parametrize("args", CLIENT_COMMANDS)
def test_the_message_does_not_suggest_config_if_it_was_given(
    args: list[str], absent_relay: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "named.toml").write_text("")

    result = call(*args, "--config", "named.toml", environ=absent_relay)

    assert "no relay responds" in result.stderr
    assert "--config" not in result.stderr


@pytest.mark.parametrize("args", [*CLIENT_COMMANDS, ["dead", "list"]])
def test_an_invalid_configuration_is_78_and_names_the_key(args: list[str]) -> None:
    result = call(*args, environ={"RELAY__HTTP__LISTEN": "nonsense"})

    assert result.exit_code == 78
    assert "RELAY__HTTP__LISTEN" in result.stderr


@pytest.mark.parametrize("args", [["status"], ["flush"], ["healthcheck"], ["send", "post.view"], ["dead", "list"]])
def test_a_missing_configuration_file_is_78(args: list[str]) -> None:
    result = call(*args, "--config", "nowhere.toml", environ={})

    assert result.exit_code == 78
    assert "nowhere.toml" in result.stderr


def test_the_relay_is_found_by_a_configuration_file(relay: NotedRelay, tmp_path: Path) -> None:
    listen = relay.environ["RELAY__HTTP__LISTEN"]
    (tmp_path / "named.toml").write_text(f'[http]\nlisten = "{listen}"\n')
    (tmp_path / "config.toml").write_text(f'[http]\nlisten = "{listen}"\n')

    assert call("flush", "--config", "named.toml", environ={}).exit_code == 0
    assert call("flush", environ={}).exit_code == 0
    assert relay.control.flushes == 2


def test_the_relay_is_found_on_its_unix_socket(tmp_path: Path) -> None:
    relay = NotedRelay()
    with answering(relay, tmp_path / "s"):
        ends = [call(*args, environ=relay.environ).exit_code for args in (["flush"], ["healthcheck"], ["status"])]

    assert ends == [0, 0, 0]


def test_a_listener_on_every_interface_is_reached_on_loopback_as_localhost(relay: NotedRelay) -> None:
    port = relay.environ["RELAY__HTTP__LISTEN"].rpartition(":")[2]

    for args in (["flush"], ["healthcheck"]):
        assert call(*args, environ={"RELAY__HTTP__LISTEN": f"0.0.0.0:{port}"}).exit_code == 0
    assert set(relay.hosts) == {"localhost"}


@pytest.mark.parametrize(("listen", "address"), [("0.0.0.0:8080", "127.0.0.1:8080"), ("[::]:8080", "[::1]:8080")])
def test_every_interface_is_replaced_by_loopback(listen: str, address: str) -> None:
    settings = replace(load_client_settings(None), http=Http(listen=listen))

    assert str(ops_place(settings)) == address


def test_a_port_chosen_by_the_system_is_reported() -> None:
    result = call("status", environ={"RELAY__HTTP__LISTEN": "127.0.0.1:0"})

    assert result.exit_code == 1
    assert "http.listen" in result.stderr


def test_operations_requests_use_their_own_listener(relay: NotedRelay, absent_relay: dict[str, str]) -> None:
    environ = {**absent_relay, "RELAY__OPS__LISTEN": relay.environ["RELAY__HTTP__LISTEN"]}

    assert call("flush", environ=environ).exit_code == 0
    assert call("healthcheck", environ=environ).exit_code == 0


def test_the_configured_token_is_sent_to_the_relay(relay: NotedRelay, tmp_path: Path) -> None:
    from relay.runtime.secret import Secret

    relay.ops.token = Secret("token-of-sixteen-characters")
    (tmp_path / "token").write_text("token-of-sixteen-characters\n")
    with_token = {**relay.environ, "RELAY__OPS__TOKEN_FILE": str(tmp_path / "token")}

    without = call("flush", environ=relay.environ)

    assert (without.exit_code, relay.control.flushes) == (1, 0)
    assert "(401)" in without.stderr
    assert "run this with the relay's own configuration (--config)" in without.stderr
    assert call("flush", environ=with_token).exit_code == 0


def test_another_server_is_reported(relay: NotedRelay) -> None:
    relay.ops.handle = relay_that_speaks_html  # type: ignore[method-assign]

    result = call("status", environ=relay.environ)

    assert result.exit_code == 1
    assert "is not a relay" in result.stderr


def relay_that_speaks_html(_: Request) -> Response:
    return Response(200, b"<html>", content_type="text/html")

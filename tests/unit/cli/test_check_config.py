"""`relay check-config` prints one line per key with its source and masked secrets, or every fault and exits with 78."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from relay.config import describe, load, secrets
from relay.runtime.secret import MASK

from tests.unit.cli.harness import call

ENOUGH = {"RELAY__UPSTREAM__URL": "https://upstream.example/v1/events", "RELAY__UPSTREAM__API_KEY": "CANARY-7f3a"}


def test_the_output_has_one_line_per_key_with_its_value_and_source(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[batch]\nlinger = "2s"\n')

    result = call("check-config", "--config", str(file), environ=ENOUGH)

    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert len(lines) == len(describe(load(file, ENOUGH))) + 1
    assert f'batch.linger = "2s"  # file {file}' in lines
    assert "batch.max_events = 500  # default" in lines
    assert f'upstream.api_key = "{MASK}"  # environment RELAY__UPSTREAM__API_KEY' in lines
    assert "CANARY" not in result.output


def test_values_of_the_defaults_file_have_it_as_their_source(tmp_path: Path) -> None:
    file = tmp_path / "image.toml"
    file.write_text('[batch]\nlinger = "2s"\n')

    lines = call("check-config", environ=ENOUGH | {"RELAY_DEFAULTS_FILE": str(file)}).stdout.splitlines()

    assert f'batch.linger = "2s"  # defaults file {file}' in lines
    assert "batch.max_events = 500  # default" in lines


def test_the_output_is_toml() -> None:
    printed = tomllib.loads(call("check-config", environ=ENOUGH).stdout)

    assert printed["outbox"]["max_size"] == "512MiB"


def test_the_default_is_config_toml_of_the_working_directory(empty_directory: Path) -> None:
    (empty_directory / "config.toml").write_text("[batch]\nmax_events = 7\n")

    assert "batch.max_events = 7  # file config.toml" in call("check-config", environ=ENOUGH).stdout.splitlines()


def test_json_has_the_value_and_source_of_each_key() -> None:
    result = call("check-config", "--json", environ=ENOUGH)

    settings = json.loads(result.stdout)["settings"]
    assert settings["upstream.api_key"] == {"value": MASK, "origin": "environment RELAY__UPSTREAM__API_KEY"}
    assert settings["http.allowed_hosts"] == {"value": [], "origin": "default"}
    assert settings["ops.token"] == {"value": None, "origin": "default"}
    assert "CANARY" not in result.output


@pytest.mark.parametrize("options", [[], ["--json"], ["--online"]])
def test_an_invalid_configuration_exits_with_78_and_prints_every_fault_to_stderr(options: list[str]) -> None:
    wrong = {"RELAY__HTP__LISTEN": "", "RELAY__BATCH__LINGER": "5", "RELAY__UPSTREAM__API_KEY": "CANARY 7f3a"}

    result = call("check-config", *options, environ=ENOUGH | wrong)

    assert result.exit_code == 78
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 4
    assert result.stderr.splitlines()[-1] == "configuration is not valid: 3 faults"
    assert "did you mean RELAY__HTTP__LISTEN?" in result.stderr
    assert "CANARY" not in result.output


def test_online_names_the_failed_step_and_exits_with_1(absent_relay: dict[str, str]) -> None:
    """No process listens on the port of the upstream."""
    url = {"RELAY__UPSTREAM__URL": f"http://{absent_relay['RELAY__HTTP__LISTEN']}/v1/events"}

    result = call("check-config", "--online", environ=ENOUGH | url)
    as_json = call("check-config", "--online", "--json", environ=ENOUGH | url)

    assert (result.exit_code, as_json.exit_code) == (1, 1)
    assert [line.split()[0] for line in result.stdout.splitlines() if " = " not in line] == ["ok", "FAILED", "#"]
    assert [step["ok"] for step in json.loads(as_json.stdout)["online"]] == [True, False]


def test_a_key_file_that_others_can_read_causes_a_warning_without_the_key(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    key_file = tmp_path / "key"
    key_file.write_text("CANARY-7f3a")
    key_file.chmod(0o644)
    environ = {name: value for name, value in ENOUGH.items() if not name.endswith("API_KEY")}
    environ["RELAY__UPSTREAM__API_KEY_FILE"] = str(key_file)

    plain, as_json = call("check-config", environ=environ), call("check-config", "--json", environ=environ)

    assert plain.exit_code == 0
    assert f"warning: {key_file} can be read by users other than its owner (mode 0644)" in plain.stderr
    assert [warning[: len(str(key_file))] for warning in json.loads(as_json.stdout)["warnings"]] == [str(key_file)]
    assert "CANARY" not in plain.output + as_json.output


def test_the_last_line_is_the_verdict(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("CANARY-7f3a")
    key.chmod(0o644)
    tmp_path.chmod(0o755)
    exposed = {"RELAY__UPSTREAM__URL": ENOUGH["RELAY__UPSTREAM__URL"], "RELAY__UPSTREAM__API_KEY_FILE": str(key)}

    assert call("check-config", environ=ENOUGH).stdout.splitlines()[-1] == "# configuration is valid"
    assert call("check-config", environ=exposed).stdout.splitlines()[-1] == "# configuration is valid, with 1 warning"
    wrong = call("check-config", environ=ENOUGH | {"RELAY__BATCH__LINGER": "5"})
    assert wrong.stderr.splitlines()[-1].endswith("configuration is not valid: 1 fault")


def test_json_has_the_verdict() -> None:
    assert json.loads(call("check-config", "--json", environ=ENOUGH).stdout)["valid"] is True


@pytest.mark.parametrize(("origins", "warned"), [("null", True), ("https://a.example,null", True), ("file://", False)])
def test_the_allowed_origin_null_causes_a_warning(origins: str, warned: bool) -> None:
    result = call("check-config", environ=ENOUGH | {"RELAY__HTTP__ALLOWED_ORIGINS": origins})

    assert result.exit_code == 0
    assert ("any sandboxed page" in result.stderr) is warned


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_secret_in_the_query_of_a_url_is_masked(as_json: list[str]) -> None:
    url = "https://events.example/v1/events?v=2&key=canary%2Dquery-1"
    environ = {"RELAY__UPSTREAM__URL": url, "RELAY__UPSTREAM__API_KEY": "key-of-the-backend-1"}

    result = call("check-config", *as_json, environ=environ)

    assert result.exit_code == 0
    assert "https://events.example/v1/events?v=2&key=********" in result.stdout
    assert "canary" not in result.output


def test_a_secret_in_the_query_of_a_url_is_hidden_from_log_and_status() -> None:
    url = "https://events.example/v1/events?v=2&key=canary%2Dquery-1"
    found = secrets(load(None, {"RELAY__UPSTREAM__URL": url, "RELAY__UPSTREAM__API_KEY": "key-of-the-backend-1"}))

    assert {"canary%2Dquery-1", "canary-query-1"} <= {secret.reveal() for secret in found}


@pytest.mark.parametrize(
    "line", ['canary4Key_0123456789 = "x"', '[upstream]\napi_key_file = "canary4Key_0123456789"'], ids=["name", "file"]
)
def test_a_key_in_place_of_a_name_or_file_is_not_printed(tmp_path: Path, line: str) -> None:
    (tmp_path / "c.toml").write_text(line)

    result = call("check-config", "--config", str(tmp_path / "c.toml"), environ={})

    assert result.exit_code == 78
    assert "canary" not in result.output
    assert "********" in result.output


def test_a_file_without_a_certificate_is_a_fault_as_in_run(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")

    result = call("check-config", environ=ENOUGH | {"RELAY__UPSTREAM__CA_FILE": str(tmp_path / "ca.pem")})

    assert result.exit_code == 78
    assert "contains no certificate" in result.stderr


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the key")
def test_the_password_of_a_key_is_not_asked_for_on_the_terminal(tmp_path: Path) -> None:
    made = ["req", "-x509", "-newkey", "rsa:2048", "-keyout", "key", "-out", "cert", "-subj", "/CN=x", "-passout"]
    subprocess.run(["openssl", *made, "pass:secret"], cwd=tmp_path, check=True, capture_output=True)
    environ = {"RELAY__UPSTREAM__CLIENT_CERT_FILE": "cert", "RELAY__UPSTREAM__CLIENT_KEY_FILE": "key"}
    on_a_terminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    command = [sys.executable, "-c", on_a_terminal, sys.executable, "-m", "relay", "check-config"]

    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | ENOUGH | environ, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=50, check=False,
    )  # fmt: skip

    assert done.returncode == 78
    assert "encrypted" in done.stdout


SHARED = ENOUGH | {"RELAY__OUTBOX__KIND": "postgres", "RELAY__OUTBOX__URL": "postgresql://relay:CANARY-pw@db/relay"}


def test_a_shared_outbox_without_its_driver_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "relay.outbox.postgres.connection", raising=False)

    result = call("check-config", environ=SHARED)

    assert result.exit_code == 78
    assert "pip install 'event-relay[postgres]'" in result.stderr
    assert "CANARY" not in result.output


def test_a_malformed_url_of_the_database_is_a_fault_without_its_password() -> None:
    pytest.importorskip("psycopg", reason="the extra [postgres] is not installed")
    wrong = {"RELAY__OUTBOX__URL": "postgresql://relay:CANARY-pw@db/relay?unknown=1"}

    result = call("check-config", environ=SHARED | wrong)

    assert result.exit_code == 78
    assert "outbox.url is not a PostgreSQL URL" in result.stderr
    assert "CANARY" not in result.output

"""Content of a support bundle, and the absence of secrets and events in it."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from click.testing import Result
from relay import __version__
from relay.config import Log
from relay.outbox.sqlite.schema import MIGRATIONS
from relay.runtime import log
from relay.runtime.secret import Secret

from tests.support.ops_harness import dead_letter
from tests.unit.cli.harness import NotedRelay, call

KEY, TOKEN, PASSWORD = "canary-key-1f", "canary-token-of-sixteen", "canary-password"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A configuration with every kind of secret."""
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    return {
        "RELAY__UPSTREAM__URL": "https://upstream.example/v1/events",
        "RELAY__UPSTREAM__API_KEY": KEY,
        "RELAY__UPSTREAM__PROXY": f"http://user:{PASSWORD}@proxy.example:3128",
        "RELAY__OPS__TOKEN_FILE": str(tmp_path / "token"),
        "RELAY__OUTBOX__PATH": str(tmp_path / "outbox.db"),
    }


def bundle(environ: dict[str, str], name: str = "b.tar.gz") -> tuple[Result, dict[str, str]]:
    result = call("support-bundle", name, "--json", environ=environ)
    with tarfile.open(name) as archive:
        files = {entry.name: archive.extractfile(entry) for entry in archive}
        return result, {
            path.removeprefix("relay-support/"): file.read().decode() for path, file in files.items() if file
        }


def test_a_bundle_has_configuration_status_metrics_log_versions_and_schema(
    relay: NotedRelay, environ: dict[str, str]
) -> None:
    relay.ops.token = Secret(TOKEN)
    log.configure(Log(format="json"), stream=StringIO())
    structlog.get_logger("relay").warning("the upstream is away")
    structlog.reset_defaults()
    with closing(sqlite3.connect(environ["RELAY__OUTBOX__PATH"])) as database:
        database.execute("PRAGMA user_version=1")

    result, parts = bundle(environ | relay.environ)

    text = json.loads(result.stdout)
    assert (result.exit_code, text["missing"]) == (0, {})
    assert set(text["parts"]) == parts.keys()
    assert json.loads(parts["versions.json"])["relay"] == __version__
    assert json.loads(parts["versions.json"])["packages"]["aiohttp"][0].isdigit()
    assert json.loads(parts["configuration.json"])["batch.linger"] == {"value": "5s", "origin": "default"}
    assert json.loads(parts["status.json"])["ledger"]["accepted"] == 0
    assert json.loads(parts["readyz.json"])["ready"] is True
    assert "relay_events_accepted_total" in parts["metrics.txt"]
    assert json.loads(parts["log.txt"].splitlines()[-1])["message"] == "the upstream is away"
    schema = json.loads(parts["schema.json"])
    assert (schema["version_of_file"], schema["version_of_relay"]) == (1, len(MIGRATIONS))
    assert any(table.startswith("CREATE TABLE log(") for table in schema["tables"])
    assert "outbox.db" in schema["file_bytes"]


def test_no_secret_and_no_event_is_in_any_part(relay: NotedRelay, environ: dict[str, str]) -> None:
    relay.ops.token = Secret(TOKEN)
    relay.outbox.letters = {1: dead_letter(1, body=b'{"context":"canary-event"}')}
    relay.outbox.state = relay.outbox.state._replace(writable=False, problem=f"error: {KEY}")

    _, parts = bundle(environ | relay.environ)

    assert len(parts) == 9
    assert "error:" in parts["status.json"]
    assert [name for name, text in parts.items() if "canary" in text] == []


def test_a_secret_is_masked_in_every_spelling(relay: NotedRelay, environ: dict[str, str]) -> None:
    key = 'canary"key/1f'
    environ["RELAY__UPSTREAM__API_KEY"] = key
    text = f"{key} and {json.dumps(key)} and {quote(key, safe='')}"
    relay.outbox.state = relay.outbox.state._replace(writable=False, problem=f"error: {text}")
    relay.ops.token = Secret(TOKEN)

    _, parts = bundle(environ | relay.environ)

    assert "error:" in parts["readyz.json"]
    assert [name for name, text in parts.items() if "canary" in text] == []
    json.loads(parts["readyz.json"])


def test_a_bundle_is_private_and_replaces_no_file(relay: NotedRelay, environ: dict[str, str]) -> None:
    bundle(environ | relay.environ)
    file = Path("b.tar.gz")
    before = file.read_bytes()

    result = call("support-bundle", "b.tar.gz", environ=environ | relay.environ)

    assert file.stat().st_mode & 0o777 == 0o600
    assert result.exit_code == 1
    assert "b.tar.gz" in result.stderr
    assert "give another name" in result.stderr
    assert file.read_bytes() == before


def test_a_bundle_without_a_relay_lists_the_missing_parts(
    environ: dict[str, str], absent_relay: dict[str, str]
) -> None:
    result, parts = bundle(environ | absent_relay)

    missing = json.loads(result.stdout)["missing"]
    assert result.exit_code == 0
    assert set(missing) == {"status.json", "readyz.json", "metrics.txt", "log.txt"}
    assert "no relay responds" in missing["status.json"]
    assert json.loads(parts["missing.json"]) == missing
    assert "upstream.url" in parts["configuration.json"]
    assert "cannot be read" in parts["schema.json"]


def test_a_bundle_says_that_the_outbox_cannot_be_looked_up(
    environ: dict[str, str], absent_relay: dict[str, str]
) -> None:
    environ["RELAY__OUTBOX__PATH"] = f"/{'x' * 300}/outbox.db"

    result, parts = bundle(environ | absent_relay)

    assert result.exit_code == 0
    assert json.loads(parts["schema.json"])["file_bytes"] == "cannot be read: File name too long"


def test_the_output_names_the_reason_of_missing_parts_once(
    environ: dict[str, str], absent_relay: dict[str, str]
) -> None:
    result = call("support-bundle", "b.tar.gz", environ=environ | absent_relay)

    assert result.stdout == "b.tar.gz: README.txt, configuration.json, missing.json, schema.json, versions.json\n"
    assert result.stderr.startswith("without status.json, readyz.json, metrics.txt, log.txt: no relay responds at ")
    assert result.stderr.count("\n") == 1


def test_a_file_name_that_is_not_utf_8_is_printed(environ: dict[str, str], absent_relay: dict[str, str]) -> None:
    result = call("support-bundle", "b\udcff.tar.gz", environ=environ | absent_relay)

    assert result.exit_code == 0
    assert "b\ufffd.tar.gz: README.txt" in result.stdout


def test_a_bundle_is_written_if_the_relay_rejects_the_token(relay: NotedRelay, environ: dict[str, str]) -> None:
    relay.ops.token = Secret("another-token-of-sixteen")

    result, parts = bundle(environ | relay.environ)

    missing: dict[str, Any] = json.loads(result.stdout)["missing"]
    assert set(missing) == {"log.txt"}
    assert "ops.token_file" in missing["log.txt"]
    assert "metrics.txt" in parts


def test_a_bundle_has_the_faults_of_an_invalid_configuration(relay: NotedRelay, environ: dict[str, str]) -> None:
    del environ["RELAY__UPSTREAM__API_KEY"]

    _, parts = bundle(environ | relay.environ)

    wrong = json.loads(parts["configuration.json"])
    assert "upstream.api_key" in wrong["wrong"][0]
    assert wrong["without_keys"]["batch.linger"] == "5s"


@pytest.mark.parametrize(
    "wrong",
    [
        {"RELAY__UPSTREAM__API_KEY_FILE": KEY},
        {"RELAY__OPS__TOKEN_FILE": KEY},
        {"RELAY__UPSTREAM__API_KEY": f"{KEY} with a space"},
        {"RELAY__UPSTREAM__URL": f"http://upstream.example/v1/events?key={KEY}"},
        {"RELAY__UPSTREAM__URL": f"https://upstream.example/v1/events?key={KEY}"},
    ],
)
def test_a_key_in_the_wrong_place_is_in_no_part(
    relay: NotedRelay, environ: dict[str, str], wrong: dict[str, str]
) -> None:
    result, parts = bundle(environ | relay.environ | wrong)

    assert result.exit_code == 0
    assert [name for name, text in parts.items() if KEY in text] == []


def test_a_key_in_a_file_field_of_a_configuration_file_is_in_no_part(
    relay: NotedRelay, environ: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'[upstream]\napi_key_file = "{KEY}"\n[ops]\ntoken_file = "{KEY}\\u0000"\n')
    del environ["RELAY__UPSTREAM__API_KEY"]

    _, parts = bundle(environ | relay.environ | {"RELAY_CONFIG": str(file)})

    assert [name for name, text in parts.items() if KEY in text] == []

"""`relay config` prints the files that the package contains."""

import json
from pathlib import Path

import pytest
from relay.config.schema import schema

from tests.unit.cli.harness import call

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("example", "config.example.toml"),
        ("unit", "deploy/systemd/event-relay.service"),
        ("alerts", "deploy/prometheus/alerts.yml"),
        ("dashboard", "deploy/grafana/relay.json"),
    ],
)
def test_a_printed_file_is_that_of_the_repository(name: str, file: str) -> None:
    assert call("config", name, environ={}).stdout == (ROOT / file).read_text()


def test_the_schema_is_json() -> None:
    assert json.loads(call("config", "schema", environ={}).stdout) == schema()

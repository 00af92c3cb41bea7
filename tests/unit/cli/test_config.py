"""`relay config` prints the example and the schema that the package contains."""

import json
from pathlib import Path

from relay.config.schema import schema

from tests.unit.cli.harness import call

ROOT = Path(__file__).parents[3]


def test_the_example_is_the_file_of_the_repository() -> None:
    assert call("config", "example", environ={}).stdout == (ROOT / "config.example.toml").read_text()


def test_the_schema_is_json() -> None:
    assert json.loads(call("config", "schema", environ={}).stdout) == schema()

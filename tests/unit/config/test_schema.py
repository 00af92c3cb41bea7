"""The JSON Schema accepts the example with every line uncommented, and finds each wrong line of a file."""

import re
import tomllib
from pathlib import Path

import jsonschema
from relay.config.schema import schema

EXAMPLE = (Path(__file__).parents[3] / "config.example.toml").read_text()
WRONG = """
colour = "blue"
[upstream]
url = 7
max_in_flight = 0
compression = "zip"
timeout = "30 seconds"
allow_http = "yes"
allowed_tenants = [1, "2"]
[upstream.tenants.two]
url = "https://two.example/"
[upstream.tenants.2]
nmae = "PlayTV"
[http]
listen = 8080
max_body = "1MB"
[btach]
linger = "5s"
"""


def faults(text: str) -> list[str]:
    """Return the path of each fault."""
    found = jsonschema.Draft202012Validator(schema()).iter_errors(tomllib.loads(text))
    return sorted(".".join(map(str, each.absolute_path)) for each in found)


def test_the_schema_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_example_with_every_line_uncommented_has_no_fault() -> None:
    assert faults(re.sub(r"(?m)^#(?=[\w\[])", "", EXAMPLE)) == []


def test_each_wrong_line_is_found() -> None:
    assert faults(WRONG) == [
        "",  # colour and btach
        "http.listen",
        "http.max_body",
        "upstream.allow_http",
        "upstream.allowed_tenants.1",
        "upstream.compression",
        "upstream.max_in_flight",
        "upstream.tenants",
        "upstream.tenants.2",
        "upstream.timeout",
        "upstream.url",
    ]


def test_defaults_are_those_of_the_table() -> None:
    upstream = schema()["properties"]["upstream"]["properties"]
    assert upstream["timeout"]["default"] == "30s"
    assert upstream["max_in_flight"]["default"] == 8
    assert "default" not in upstream["api_key"]

"""Code and config.example.toml describe every key in the same way, and docs/use/configuration.md its values."""

import re
import tomllib
from pathlib import Path

import pytest
from relay.config import EndpointSettings, Settings, Upstream, load
from relay.config.keys import KEYS, SECTIONS, TENANT
from relay.config.values import toml
from relay.runtime.secret import Secret

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "config.example.toml").read_text()
PAGE = (ROOT / "docs" / "use" / "configuration.md").read_text()
DOCS = re.sub(r"\n +", " ", PAGE)
"""The page with the continuation lines of its lists joined."""

SETTING = re.compile(r"^#(\w+) = (.*)$")
HEADER = re.compile(r"^#?\[(.+)\]$")


def uncommented() -> str:
    return re.sub(r"(?m)^#(?=[\w\[])", "", EXAMPLE)


def example_entries() -> dict[str, tuple[str, str]]:
    """Return for each key in the example its value, as text, and the comment above it."""
    entries, section, comment = {}, "", []
    for line in EXAMPLE.splitlines():
        if match := HEADER.match(line):
            section = re.sub(r"\.\d+$", ".<id>", match[1])
        elif match := SETTING.match(line):
            name = f"{section}.{match[1]}"
            assert name not in entries, f"{name} is twice in the example"
            entries[name] = match[2], " ".join(comment)
        comment = [*comment, line.removeprefix("# ")] if line.startswith("# ") else []
    return entries


def test_unchanged_example_sets_nothing():
    assert tomllib.loads(EXAMPLE) == {section: {} for section in SECTIONS}


def test_example_with_every_line_uncommented_loads_and_equals_the_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a relative path in the file is relative to the file
    file = Path("config.toml")
    file.write_text(uncommented())
    default = EndpointSettings("https://playtv-api.forte.ws/v1/events", Secret("key-from-the-backend-team"))
    tenant = EndpointSettings("https://playtv-api.parlor.com/v1/events", Secret("key-of-tenant-2"))

    settings = load(file, {})

    assert settings == Settings(upstream=Upstream(default=default, tenants={2: tenant}))


def test_example_has_exactly_the_keys():
    assert list(example_entries()) == [key.name for key in KEYS]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_example_describes_each_key(key):
    value, comment = example_entries()[key.name]

    restart = " [restart]" if key.restart else ""
    assert comment == f"{key.effect} Unit: {key.kind.unit}. Allowed: {key.kind.allowed}.{restart}"
    if key.required or key.name.startswith(TENANT):
        assert value  # An example value, because the key has no default.
    else:
        assert value == toml(None if key.default is None else key.kind.plain(key.default))


@pytest.mark.parametrize("unit", ["addresses", "path", "secret"])
def test_docs_describe_values_that_are_the_same_for_all_keys(unit):
    described = dict(re.findall(r"^- \*\*(\w+)\*\*: (.*)\.$", DOCS, re.MULTILINE))

    assert described[unit] in {key.kind.allowed for key in KEYS if key.kind.unit == unit}


def test_every_field_of_settings_has_a_key():
    """A field without a key could not be configured. A default in two places could differ."""
    built = {("upstream", "default"), ("upstream", "tenants"), ("upstream", "tenant_names")}
    fields = {(section, field) for section, type_ in SECTIONS.items() for field in type_.__dataclass_fields__}

    assert {(key.section, key.field) for key in KEYS if key.in_settings} == fields - built

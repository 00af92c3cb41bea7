"""Collect raw values from the configuration files, the environment, secret files and systemd credentials.

`collect` returns each value with its key and its source, weakest source first. It does not check the values. The
defaults file, in which a package or image sets its own defaults, has the form of a configuration file. In every source,
`x_file` (or X_FILE) names a file that contains the secret `x`; whitespace around the secret is removed. A relative path
in a configuration file is relative to that file. A credential is a file in $CREDENTIALS_DIRECTORY
with the name of a secret's key, `upstream.api_key` or `upstream.tenants.2.api_key`; other files there are ignored.
"""

from __future__ import annotations

import os
import re
import tomllib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from relay.config.faults import ConfigFault
from relay.config.keys import MAX_TENANTS, SECTIONS, Key, lookup, near, tenant_of
from relay.config.paths import exists
from relay.config.values import Wrong
from relay.runtime.secret import MASK

PREFIX = "RELAY__"
DEFAULTS_FILE = "RELAY_DEFAULTS_FILE"
MAX_FILE_BYTES = 1 << 20
MAX_SECRET_FILE_BYTES = 64 << 10


class Given(NamedTuple):
    """A raw value of one key from one source."""

    name: str
    """Full name of the key, including a tenant's number."""
    key: Key
    raw: object
    """Value as parsed from TOML, or text converted by the kind's `from_text`."""
    source: str
    """Value source, see Settings.sources."""
    file: Path | None = None
    """File from which a secret was read."""


class CollectedValues:
    """The raw values of all sources, weakest source first, and the faults found so far."""

    def __init__(self) -> None:
        self.given: list[Given] = []
        self.faults: list[ConfigFault] = []
        self.is_file_readable = True
        """False if a configuration file cannot be read or is not TOML."""

    def add(self, name: str, raw: object, source: str) -> None:
        """Add a value of a known key. If it names the file of a secret, also add the secret."""
        key = lookup(name)
        assert key is not None
        self.given.append(Given(name, key, raw, source))
        if key.of_secret and isinstance(raw, str) and raw and not isinstance(key.kind.read(raw), Wrong):
            named_by = name if _is_file(source) else source.removeprefix("environment ")
            self.add_file(name.removesuffix("_file"), Path(raw), f"file {_path_shown(Path(raw))} named by {named_by}")

    def add_file(self, name: str, path: Path, source: str) -> None:
        """Add a secret from its file."""
        key, secret = lookup(name), read_secret(path)
        assert key is not None
        if isinstance(secret, Wrong):
            self.faults.append(ConfigFault(source, name, "", secret.why))
        else:
            self.given.append(Given(name, key, secret, source, path))

    def add_unknown(self, source: str, name: str, suggestion: str | None) -> None:
        hint = f"; did you mean {suggestion}?" if suggestion else ""
        if any(map(_may_be_secret, re.split(r"\.|__", name))):
            # The name may be a secret that was typed as a key: do not show it.
            source, name = source if _is_file(source) else "environment", MASK
        self.faults.append(ConfigFault(source, name, "", f"is not a known key{hint}"))


def collect(config_file: Path | None, environ: Mapping[str, str]) -> CollectedValues:
    """Return the values of all sources. A later value of a key overrides an earlier one."""
    collected = CollectedValues()
    if defaults_file := environ.get(DEFAULTS_FILE):
        _collect_file(collected, Path(defaults_file), f"defaults file {defaults_file}")
    if config_file is not None:
        _collect_file(collected, config_file, f"file {config_file}")
    _collect_environment(collected, environ)
    _collect_credentials(collected, environ)
    tenants = {tenant_of(given.name) for given in collected.given if given.key.of_tenant}
    if len(tenants) > MAX_TENANTS:
        collected.faults.append(
            ConfigFault("", "upstream.tenants", "", f"has {len(tenants)} tenants; at most {MAX_TENANTS} are allowed")
        )
    return collected


def _collect_file(collected: CollectedValues, config_file: Path, source: str) -> None:
    content = _read(config_file, MAX_FILE_BYTES)
    if isinstance(content, Wrong):
        collected.faults.append(ConfigFault(source, "", "", content.why))
        collected.is_file_readable = False
        return
    try:
        tables = tomllib.loads(content)
    except (ValueError, RecursionError) as error:
        collected.faults.append(ConfigFault(source, "", "", f"is not TOML: {error}"))
        collected.is_file_readable = False
        return
    given = dict(_leaves(tables))
    for path, raw in given.items():
        name = ".".join(path)
        file_path = (*path[:-1], f"{path[-1]}_file")
        key = lookup(name)
        if key is None or any("." in part for part in path):
            collected.add_unknown(source, name, near(name))
        elif given.get(file_path, "") != "":
            collected.faults.append(ConfigFault(source, name, "", f"is set twice: set either {name} or {name}_file"))
        else:
            collected.add(name, key.kind.located(raw, config_file.parent), source)


def _leaves(table: Mapping[str, object], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield each value with its path. An empty table is a value unless it is a section."""
    for part, value in table.items():
        path = (*above, part)
        if not isinstance(value, dict):
            yield path, value
        elif value:
            yield from _leaves(value, path)
        elif ".".join(path) not in (*SECTIONS, "upstream.tenants"):
            yield path, value


def _collect_environment(collected: CollectedValues, environ: Mapping[str, str]) -> None:
    # X_FILE overrides X independently of the order of the variables.
    variables = sorted(
        (name for name in environ if name.startswith(PREFIX)), key=lambda name: (name.endswith("_FILE"), name)
    )
    for variable in variables:
        name = variable.removeprefix(PREFIX).lower().replace("__", ".")
        key = lookup(name)
        if key is None or variable != _variable(name):
            suggestion = near(name)
            collected.add_unknown(f"environment {variable}", name, suggestion and _variable(suggestion))
        else:
            collected.add(name, key.kind.from_text(environ[variable]), f"environment {variable}")


def _collect_credentials(collected: CollectedValues, environ: Mapping[str, str]) -> None:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        collected.faults.append(
            ConfigFault("environment CREDENTIALS_DIRECTORY", "", "", f"cannot be read: {error.strerror}")
        )
        return
    for name in names:
        key = lookup(name)
        if key is not None and key.kind.secret:
            collected.add_file(name, Path(directory) / name, f"credential {name}")


def read_secret(path: Path) -> str | Wrong:
    """Return the secret in a file without surrounding whitespace, which editors and shells add."""
    content = _read(path, MAX_SECRET_FILE_BYTES)
    return content if isinstance(content, Wrong) else content.strip() or Wrong("is an empty file")


def _is_file(source: str) -> bool:
    """Return whether a value is from a configuration file."""
    return source.startswith(("file ", "defaults file "))


def _path_shown(path: Path) -> str:
    """Return the path for a message. What does not exist of it is masked if it may be a secret typed as its file."""
    there = next((each for each in (path, *path.parents) if exists(each)), Path())
    return str(there / MASK) if _may_be_secret("".join(path.relative_to(there).parts)) else str(path)


def _may_be_secret(text: str) -> bool:
    """Return whether a name may be a secret: long, very long with a dot, and with a digit or an upper-case letter."""
    return len(text) >= (40 if "." in text else 16) and any(c.isdigit() or c.isupper() for c in text)


def _variable(name: str) -> str:
    return PREFIX + name.upper().replace(".", "__")


def _read(path: Path, max_bytes: int) -> str | Wrong:
    """Return the content of a text file. The size is bounded, because the path may name an endless device."""
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        return Wrong(f"cannot be read: {error.strerror}")
    if len(content) > max_bytes:
        return Wrong(f"is larger than {max_bytes} bytes")
    try:
        # PowerShell's redirection writes UTF-16 with a byte order mark.
        return content.decode("utf-16" if content[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError:
        return Wrong("is neither UTF-8 nor UTF-16 with a byte order mark")

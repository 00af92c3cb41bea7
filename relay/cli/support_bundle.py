"""`relay support-bundle`: write one archive that can be sent to support.

The archive contains no secret and no event. `relay.config` masks the secrets in the configuration, and the relay masks
them in its log. This command masks every secret that it can read once more in each part. A part that is unavailable
(no relay runs, or it rejects the token) is listed in the archive with the reason.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import tarfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import click

from relay import __version__
from relay.cli.client import RelayClient
from relay.cli.common import config_option, has_ops, load_client_settings, open_private, ops_place
from relay.cli.exits import CommandFailed
from relay.cli.shape import Each, difference
from relay.config import ConfigError, Settings, describe, find_config_file, load, possible_secrets, secrets
from relay.runtime.clock import SystemClock
from relay.runtime.secret import MASK, Secret, pattern

PACKAGES = ("aiohttp", "aiosqlite", "click", "msgspec", "prometheus-client", "structlog", "uvloop")
_USER_VERSION_AT = 60
"""Offset of SQLite's user_version in the file: four bytes, big-endian (sqlite.org/fileformat.html)."""
_README = """\
Written by `relay support-bundle`.

versions.json       relay, Python, packages, system
configuration.json  each key with its value and its source; secrets are masked
schema.json         the outbox's files, their sizes, and the tables of this relay's version
status.json         the response of /status.json: totals, upstream states and errors, ids of at most 20 devices
readyz.json         whether events can be stored
metrics.txt         the response of /metrics
log.txt             the last lines of the running relay's log
missing.json        unavailable parts, with the reason

The archive contains no events, keys or tokens. It contains device ids and the upstream's addresses.
"""


class BundlePart(NamedTuple):
    """A file of the archive, and the function that returns its text or raises CommandFailed."""

    name: str
    make: Callable[[], str]


@click.command("support-bundle")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the list of parts as JSON.")
@config_option
def command(file: Path, as_json: bool, config_file: Path | None) -> None:
    """Write configuration, status, metrics, log and versions into FILE, a new .tar.gz with mode 0600.

    The file contains no secrets and no events. It lists the parts that are unavailable.
    """
    settings = load_client_settings(config_file)
    parts, missing = _collect(settings, config_file)
    content = _packed(parts, _known_secrets(config_file))
    with os.fdopen(open_private(file), "wb") as out:
        out.write(content)
    if as_json:
        click.echo(json.dumps({"file": str(file), "parts": sorted(parts), "missing": missing}))
        return
    click.echo(f"{click.format_filename(file)}: {', '.join(sorted(parts))}")
    for why in dict.fromkeys(missing.values()):
        click.echo(f"without {', '.join(name for name in missing if missing[name] == why)}: {why}", err=True)


def _collect(settings: Settings, config_file: Path | None) -> tuple[dict[str, str], dict[str, str]]:
    """Return the parts by name, and the reason for each missing part by its name."""
    made, missing = {"README.txt": _README}, {}
    for part in (*_local_parts(settings, config_file), *_relays_parts(settings)):
        try:
            made[part.name] = part.make()
        except CommandFailed as failed:
            missing[part.name] = failed.message
    made["missing.json"] = _pretty(missing)
    return made, missing


def _local_parts(settings: Settings, config_file: Path | None) -> Iterator[BundlePart]:
    yield BundlePart("versions.json", _versions)
    yield BundlePart("configuration.json", lambda: _configuration(settings, config_file))
    yield BundlePart("schema.json", lambda: _schema(settings.outbox.path))


def _relays_parts(settings: Settings) -> Iterator[BundlePart]:
    if not has_ops(settings):
        return
    client = RelayClient(ops_place(settings), settings.ops.token)
    yield BundlePart("status.json", lambda: _pretty(client.expect(client.get("/status.json"), {"ledger": Each(int)})))
    yield BundlePart("readyz.json", lambda: _readiness(client))
    yield BundlePart("metrics.txt", lambda: client.text("/metrics"))
    yield BundlePart("log.txt", lambda: client.text("/log"))


def _readiness(client: RelayClient) -> str:
    """Return the response of /readyz, which has the status 503 while events cannot be stored."""
    reply = client.get("/readyz")
    if wrong := difference(reply.data, {"ready": bool}):
        raise client.not_a_relay(wrong)
    return _pretty(reply.data)


def _versions() -> str:
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return _pretty(
        {
            "relay": __version__,
            "python": platform.python_version(),
            "implementation": platform.python_implementation(),
            "system": platform.platform(),
            "machine": platform.machine(),
            "packages": packages,
        }
    )


def _configuration(settings: Settings, config_file: Path | None) -> str:
    """Return the output of check-config, or the faults of an invalid configuration and the settings without keys."""
    try:
        settings = load(find_config_file(config_file, os.environ), os.environ)
    except ConfigError as error:
        return _pretty({"wrong": str(error).splitlines(), "without_keys": describe(settings)})
    sources = settings.sources
    return _pretty({name: {"value": value, "origin": sources[name]} for name, value in describe(settings).items()})


def _schema(path: Path) -> str:
    # The outbox is slow to import, and only this part needs it.
    from relay.outbox.factory import describe_schema  # noqa: PLC0415

    return _pretty(
        {
            "path": str(path),
            "file_bytes": _file_bytes(path),
            "version_of_file": _user_version(path),
            **describe_schema(),
        }
    )


def _file_bytes(path: Path) -> dict[str, int] | str:
    try:
        files = sorted(file for file in path.parent.iterdir() if file.name.startswith(path.name))
        return {file.name: file.stat().st_size for file in files}
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _user_version(path: Path) -> int | str:
    """Read the version from the file, also while a relay holds it. A change in the write-ahead log only is missed."""
    try:
        with path.open("rb") as file:
            head = file.read(_USER_VERSION_AT + 4)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return int.from_bytes(head[_USER_VERSION_AT:], "big") if len(head) == _USER_VERSION_AT + 4 else "an empty file"


def _known_secrets(config_file: Path | None) -> list[Secret]:
    """Return the secrets to mask. An invalid configuration may contain a key in the wrong place."""
    file = find_config_file(config_file, os.environ)
    possible = possible_secrets(file, os.environ)
    try:
        return [*secrets(load(file, os.environ)), *possible]
    except ConfigError:
        return possible


def _packed(parts: dict[str, str], hidden: list[Secret]) -> bytes:
    """Return a .tar.gz of one directory. Its entries name no owner."""
    packed, now_s = io.BytesIO(), SystemClock().wall_ms() // 1000
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in parts.items():
            content = _masked(text, hidden).encode()
            entry = tarfile.TarInfo(f"relay-support/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, now_s
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _masked(text: str, hidden: list[Secret]) -> str:
    """Mask the secrets in every spelling: the parts are JSON, and texts in them may be escaped twice."""
    for secret in sorted(
        hidden, key=lambda secret: len(secret.reveal()), reverse=True
    ):  # A secret may contain another.
        text = re.sub(pattern(secret.reveal()), MASK, text)
    return text


def _pretty(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n"

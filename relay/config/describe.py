"""Describe and compare Settings by key, with secrets masked, and name the keys that a reload cannot apply."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit

from relay.config.addresses import Url
from relay.config.keys import KEYS, Key, lookup, tenant_key
from relay.config.settings import Settings
from relay.config.values import toml
from relay.runtime.secret import MASK, Secret

MIN_QUERY_SECRET_CHARS = 8
"""Minimum length of a secret in a URL's query. Shorter values are ordinary parameters."""


def describe(settings: Settings) -> dict[str, object]:
    """Return the effective value of each key for TOML or JSON, with secrets masked; None for an unset secret."""
    shown: dict[str, object] = {}
    for name, value in _values(settings).items():
        key = lookup(name)
        assert key is not None
        shown[name] = (MASK if value else None) if key.kind.secret else shown_value(key, key.kind.plain(value))
    return shown


def shown_value(key: Key, plain: object) -> object:
    """Return a value of a key that is not a secret for people: a URL without the secrets in its query."""
    return shown_url(plain) if isinstance(key.kind, Url) and isinstance(plain, str) else plain


def query_secrets(url: str) -> list[str]:
    """Return the values in a URL's query that may be secrets, as written and decoded."""
    query = url.partition("#")[0].partition("?")[2]  # urlsplit raises for some wrong URLs, which may have a secret, too
    written = [part.partition("=")[2] for part in query.split("&")]
    return [text for value in written if len(value) >= MIN_QUERY_SECRET_CHARS for text in (value, unquote_plus(value))]


def shown_url(url: str) -> str:
    """Return a URL for people, with the secrets in its query masked."""
    base, mark, query = url.partition("?")
    for value in sorted(query_secrets(url), key=len, reverse=True):
        query = query.replace(value, MASK)
    return base + mark + query


def diff(old: Settings, new: Settings) -> list[str]:
    """Return the keys whose values differ, in the order of the table, with the keys of added and removed tenants."""
    before, after = _values(old), _values(new)
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def changes(old: Settings, new: Settings) -> dict[str, str]:
    """Return the changed keys, each with "before -> after" in TOML. Secrets are masked; a missing value is "(none)"."""
    before, after = describe(old), describe(new)
    return {name: f"{_shown(before.get(name))} -> {_shown(after.get(name))}" for name in diff(old, new)}


def needs_restart(names: Iterable[str]) -> list[str]:
    """Return the keys that a reload cannot apply."""
    return [name for name in names if (key := lookup(name)) is not None and key.restart]


def secrets(settings: Settings) -> list[Secret]:
    """Return all secrets to mask in logs and responses, including the proxy's password."""
    upstream = settings.upstream
    found = [upstream.default.api_key, *(endpoint.api_key for endpoint in upstream.tenants.values())]
    if settings.ops.token is not None:
        found.append(settings.ops.token)
    for endpoint in (upstream.default, *upstream.tenants.values()):
        found += map(Secret, query_secrets(endpoint.url))
    password = urlsplit(upstream.proxy).password
    if password:
        user = unquote(urlsplit(upstream.proxy).username or "")
        # This value of Proxy-Authorization is masked even if the password is too short to be found inside base64.
        basic = b64encode(f"{user}:{unquote(password)}".encode()).decode()
        found += [Secret(upstream.proxy), Secret(password), Secret(unquote(password)), Secret(basic)]
    if settings.outbox.url is not None:
        found += [settings.outbox.url, *map(Secret, _database_passwords(settings.outbox.url.reveal()))]
    return [secret for secret in dict.fromkeys(found) if secret.reveal()]


def _database_passwords(url: str) -> Iterable[str]:
    """Return the passwords in the URL of a database, as written and decoded."""
    user = re.match(r"[a-z]+://[^/?]*?:(.*)@", url)
    written = re.findall(r"[?&]\w*password=([^&]*)", url) + ([user[1]] if user else [])
    return [text for password in written for text in (password, unquote(password))]


def _shown(value: object) -> str:
    return "(none)" if value is None else toml(value)


def _values(settings: Settings) -> dict[str, Any]:
    """Return the value of each key. Instead of the names of secret files, it contains their content."""
    values: dict[str, Any] = {
        "upstream.url": settings.upstream.default.url,
        "upstream.api_key": settings.upstream.default.api_key,
    }
    for tenant_id, endpoint in settings.upstream.tenants.items():
        values[tenant_key(tenant_id, "url")] = endpoint.url
        values[tenant_key(tenant_id, "api_key")] = endpoint.api_key
    for tenant_id, name in settings.upstream.tenant_names.items():
        values[tenant_key(tenant_id, "name")] = name
    for key in KEYS:
        if key.in_settings:
            values[key.name] = getattr(getattr(settings, key.section), key.field)
    return values

"""Parse URLs, listen addresses, hosts, web origins and networks.

The checks of upstream URLs are strict, because the relay sends the key there: a host, no user, no fragment, and no
form that another parser could read as another host. Whether plain http is allowed depends on a second key: `load`
decides that with `is_loopback`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from relay.config.values import MAX_LIST_ITEMS, Items, Kind, Wrong, typing_mistake
from relay.runtime.address import Listen
from relay.runtime.secret import Secret

MAX_URL_CHARS = 2_048

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])"
_PORT = r"[0-9]{1,5}"
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Url(Kind):
    """An http or https URL."""

    unit = "URL"
    userinfo: bool = False
    """Whether the URL may contain a user and a password, as that of a proxy."""
    optional: bool = False
    """Whether "" is allowed, for no URL."""
    path: bool = True
    """Whether a path is required."""

    @property
    def allowed(self) -> str:
        form = "http(s)://[user:password@]host[:port]" if self.userinfo else "https://host[:port]/path"
        return form + (', or ""' if self.optional else "")

    def read(self, raw: object) -> str | Wrong:
        if not isinstance(raw, str):
            return Wrong("is not text")
        if not raw:
            return raw if self.optional else Wrong("is empty")
        if mistake := typing_mistake(raw):
            return Wrong(mistake)
        if len(raw) > MAX_URL_CHARS or not re.fullmatch(r"[!-~]+", raw) or "\\" in raw:
            return Wrong("is too long, or has spaces, backslashes or other characters than printable ASCII")
        match = re.fullmatch(rf"(https?)://(?:([^/?#]*)@)?({_HOST})(?::({_PORT}))?(/.*)?", raw)
        if "#" in raw:
            return Wrong("has a fragment (#)")
        if match is None:
            return Wrong("is not a URL with http or https and a host")
        if match[2] is not None and not self.userinfo:
            return Wrong("has a user or password (@) before the host")
        if not _is_host(match[3]) or not _is_port(match[4] or "1", least=1):
            return Wrong("has an invalid host or port")
        if self.path and match[5] is None:
            return Wrong("has no path: write the full URL of the events API, for example https://HOST/v1/events")
        return raw


class ProxyUrl(Url):
    """The URL of a proxy. It may contain a password."""

    secret = True


class DatabaseUrl(Kind):
    """The URL of a PostgreSQL database. The driver checks its details."""

    unit = "URL"
    secret = True
    allowed = 'postgresql://USER:PASSWORD@HOST[:PORT]/DATABASE, or ""'

    def read(self, raw: object) -> Secret | Wrong | None:
        if not isinstance(raw, str):
            return Wrong("is not text")
        if mistake := typing_mistake(raw):
            return Wrong(mistake)
        if len(raw) > MAX_URL_CHARS or not re.fullmatch(r"[!-~]*", raw):
            return Wrong("is too long, or has spaces or other characters than printable ASCII")
        if raw and not re.match(r"postgres(ql)?://[^/]", raw):
            return Wrong("is not a URL that begins with postgresql:// and a host")
        return Secret(raw) if raw else None


class ListenAddresses(Kind):
    """One listen address or a list of them; "" and [] for none. Port 0 lets the kernel choose."""

    unit = "addresses"
    allowed = f'"host:port", "[IPv6]:port", a list of up to {MAX_LIST_ITEMS} of these, or "" for off'

    def from_text(self, text: str) -> object:
        """Return a list if `text` is a TOML array or contains commas.

        An opening bracket is not enough, because an IPv6 address begins with one, too.
        """
        if re.match(r"""\s*\[\s*["'\]]""", text):
            return Items(self).from_text(text)
        return [item for part in text.split(",") if (item := part.strip())] if "," in text else text

    def read(self, raw: object) -> Listen | Wrong:
        if not isinstance(raw, list):
            return _read_listen(raw)
        if len(raw) > MAX_LIST_ITEMS:
            return Wrong("has too many items")
        items = [_read_listen(item) for item in raw]
        for place, item in enumerate(items):
            if isinstance(item, Wrong):
                return Wrong(f"item {place}: {item.why}")
            if not item:
                return Wrong(f"item {place}: is empty")
        return tuple(str(item) for item in items) or ""

    def plain(self, value: Any) -> object:
        return list(value) if isinstance(value, tuple) else value


def _read_listen(raw: object) -> str | Wrong:
    if raw == "":
        return ""
    match = re.fullmatch(rf"({_HOST}):({_PORT})", raw) if isinstance(raw, str) else None
    if match is None or not _is_host(match[1]) or not _is_port(match[2], least=0):
        return Wrong("is not host:port (0.0.0.0 and [::] mean every interface)")
    return match[0]


class HostName(Kind):
    """A value of the header Host, with or without a port."""

    unit = "host"
    allowed = '"host" or "host:port"'

    def read(self, raw: object) -> str | Wrong:
        match = re.fullmatch(rf"({_HOST})(?::({_PORT}))?", raw) if isinstance(raw, str) else None
        if match is None or not _is_host(match[1]) or not _is_port(match[2] or "1", least=1):
            return Wrong("is not a host name")
        return match[0].lower()


class WebOrigin(Kind):
    """The value of a browser's Origin header. Apps in a web view use their own schemes."""

    unit = "origin"
    allowed = '"scheme://host[:port]" in lower case without a path, "file://", an app\'s "app://.", or "null"'

    def read(self, raw: object) -> str | Wrong:
        """Return the origin as browsers send it: without the default port of http and https."""
        if raw in ("null", "file://"):
            return str(raw)
        pattern = rf"([a-z][a-z0-9+.-]{{0,31}})://({_HOST}|[.])(?::({_PORT}))?"
        match = re.fullmatch(pattern, raw) if isinstance(raw, str) else None
        if match is None or match[0] != match[0].lower():
            return Wrong("is not an origin")
        scheme, host, port = match.groups()
        if not _is_port(port or "1", least=1):
            return Wrong("has an invalid port")
        if scheme in _DEFAULT_PORTS:
            if not _is_host(host) or host == ".":
                return Wrong("is not an origin")
            port = None if port and int(port) == _DEFAULT_PORTS[scheme] else port
        return f"{scheme}://{host}" + (f":{port}" if port else "")


class Network(Kind):
    """A network of allowed senders, in CIDR notation."""

    unit = "network"
    allowed = 'a network like "192.168.1.0/24" or "fd00::/8"'

    def read(self, raw: object) -> Any:
        if not isinstance(raw, str):
            return Wrong("is not text")
        try:
            return str(ipaddress.ip_network(raw))
        except ValueError:
            return Wrong("is not a network, or has bits set after its prefix")


def is_loopback(url: str) -> bool:
    """Return whether the host of a valid URL is localhost or a loopback address. No name is looked up."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_host(text: str) -> bool:
    """Return whether a text is a host name or a valid IP address.

    A malformed dotted number is neither, because another parser could read it as an address.
    """
    bare = text.strip("[]")
    looks_like_address = text.startswith("[") or re.fullmatch(r"[0-9.]+|0x[0-9A-Fa-f]*", bare.rsplit(".", 1)[-1] or ".")
    return _is_address(bare) if looks_like_address else ".." not in text


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_port(text: str, least: int) -> bool:
    return least <= int(text) <= 65_535

"""Who may talk to the relay: decisions on Host, Origin, Sec-Fetch-Site and the peer's network.

The relay has no user and no password on loopback. What keeps the web out is decided here:

1.  Only a Host that is a loopback name (`localhost`, a name under it, a loopback address), or was allowed
    by the operator, is served, on every route of a TCP listener. A page whose own name was rebound to
    127.0.0.1 still sends its own name (DNS rebinding), and 0.0.0.0 is no loopback name (browsers let pages
    reach it).
2.  A request that names an Origin is served if the origin is the relay itself, or for what apps use
    (`FOR_APPS`) if the operator allowed it. Any other page is refused, whatever the content type.
    The relay itself is http or https of the Host, as a proxy may have spoken TLS for it. Which of
    the two only the browser knows: where it tells (Sec-Fetch-Site), a page of the other is refused.
3.  Without an Origin a request that the browser calls cross-site is refused.

Pure: nothing here knows sockets, requests or answers. Caches are bounded and hold decisions only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import NamedTuple

from relay.runtime.address import ip_of

FOR_APPS = ("/v1/", "/relay.js", "/openapi.json")
"""Allowed origins are served on these paths and nowhere else: they may post and learn how, not operate."""

_CACHED_DECISIONS = 1024
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\s:@/\\?#\[\]]+)(?::[0-9]{0,5})?")


class Admitted(NamedTuple):
    cors_origin: str = ""
    """The allowed origin to name in the answer; empty if the request needs no CORS headers."""


class Forbidden(NamedTuple):
    error: str


_ADMITTED = Admitted()
_FORBIDDEN_HOST = Forbidden("Host is not allowed; see http.allowed_hosts")
_FORBIDDEN_ORIGIN = Forbidden("Origin is not allowed; see http.allowed_origins")
_FORBIDDEN_SITE = Forbidden("cross-site requests are not allowed")


class HostGuard:
    """The decisions for one configuration."""

    def __init__(self, allowed_hosts: Sequence[str] = (), allowed_origins: Sequence[str] = ()) -> None:
        """`allowed_hosts`: names besides the loopback ones, on any port; `allowed_origins`: as browsers write them."""
        self._allowed_names = {name for host in allowed_hosts if (name := _host_name(host))}
        self._allowed_origins = {_trimmed(origin.lower()) for origin in allowed_origins}
        self._hosts: dict[str, bool] = {}

    def check(
        self, path: str, host: str | None, origin: str | None, fetch_site: str | None, authority: str | None = None
    ) -> Admitted | Forbidden:
        """Whether a request is served.

        `host`, `origin` and `fetch_site` are the headers, None where absent (without Host a request
        must be HTTP/1.0, which no browser speaks); `authority` is that of an absolute target.
        """
        if (host is not None and not self._allows_host(host)) or (
            authority is not None and not self._allows_host(authority)
        ):
            return _FORBIDDEN_HOST
        if origin is not None:
            return self._check_origin(path, host, origin.lower(), fetch_site)
        if fetch_site is not None and fetch_site.lower() == "cross-site":
            return _FORBIDDEN_SITE
        return _ADMITTED

    def _check_origin(self, path: str, host: str | None, origin: str, fetch_site: str | None) -> Admitted | Forbidden:
        if path.startswith(FOR_APPS) and origin in self._allowed_origins:
            return Admitted(origin)
        own = host is not None and origin in ("http://" + host.lower(), "https://" + host.lower())
        if own and (fetch_site is None or fetch_site.lower() == "same-origin"):
            return _ADMITTED
        return _FORBIDDEN_ORIGIN

    def _allows_host(self, host: str) -> bool:
        allowed = self._hosts.get(host)
        if allowed is None:
            name = _host_name(host)
            allowed = name is not None and (_is_loopback_name(name) or name in self._allowed_names)
            if len(self._hosts) >= _CACHED_DECISIONS:
                self._hosts.clear()
            self._hosts[host] = allowed
        return allowed


class Networks:
    """Which senders are heard: loopback, and the networks the operator allowed."""

    def __init__(self, allowed: Sequence[str]) -> None:
        """`allowed` in CIDR notation. Raises ValueError for what is no network."""
        self._allowed = [ip_network(cidr, strict=False) for cidr in allowed]
        self._decisions: dict[str, bool] = {}

    def allows(self, address: str) -> bool:
        """`address` as a socket names its peer, without the port."""
        allowed = self._decisions.get(address)
        if allowed is None:
            ip = ip_of(address)
            allowed = ip is not None and (ip.is_loopback or any(_within(ip, network) for network in self._allowed))
            if len(self._decisions) >= _CACHED_DECISIONS:
                self._decisions.clear()
            self._decisions[address] = allowed
        return allowed


def _trimmed(origin: str) -> str:
    """Return an origin without a path of "/"; in `file://` the slashes are no path."""
    return origin if origin.endswith("://") else origin.removesuffix("/")


def _host_name(host: str) -> str | None:
    """The name of a Host header, lower case, without port and root dot; None if it is none."""
    match = _HOST.fullmatch(host)
    return match["name"].lower().removesuffix(".") if match else None


def _is_loopback_name(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, 6.3: resolvers never ask the network for it
        return True
    ip = ip_of(name.removeprefix("[").removesuffix("]"))
    return ip is not None and ip.is_loopback


def _within(ip: IPv4Address | IPv6Address, network: IPv4Network | IPv6Network) -> bool:
    return ip.version == network.version and ip in network

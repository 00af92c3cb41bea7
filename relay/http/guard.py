"""Decide which requests are admitted, by Host, Origin, Sec-Fetch-Site and the peer's network.

The relay has no authentication on loopback. These rules keep web pages out:

1.  Every route of a TCP listener requires a Host that is a loopback name (`localhost`, a name under it, a loopback
    address) or is allowed by the operator. After DNS rebinding to 127.0.0.1 a page still sends its own name as Host.
    0.0.0.0 is not a loopback name, because browsers let pages connect to it.
2.  A request with an Origin is admitted if the origin is the relay itself. On the paths `FOR_APPS` it is also admitted
    if the operator allowed the origin. All other origins are rejected, with any content type. The relay's own origin is
    http or https with the Host of the request, because a proxy may terminate TLS. If the browser sends Sec-Fetch-Site,
    it must be "same-origin".
3.  A request without an Origin is rejected if Sec-Fetch-Site is "cross-site".

Pure: independent of sockets, requests and responses. The caches are bounded and contain decisions only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import NamedTuple

from relay.runtime.address import ip_of

FOR_APPS = ("/v1/", "/relay.js", "/openapi.json")
"""Paths on which allowed origins are admitted: they may send events and read the documentation, not operate."""

_CACHED_DECISIONS = 1024
_QUOTED_CHARS = 60
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\s:@/\\?#\[\]]+)(?::[0-9]{0,5})?")


class Admitted(NamedTuple):
    cors_origin: str = ""
    """The allowed origin to name in the response; "" if the response needs no CORS headers."""


class Forbidden(NamedTuple):
    error: str


_ADMITTED = Admitted()
_FORBIDDEN_SITE = Forbidden("cross-site requests are not allowed")


class HostGuard:
    """Decides by the host and origin settings of one configuration."""

    def __init__(self, allowed_hosts: Sequence[str] = (), allowed_origins: Sequence[str] = ()) -> None:
        """`allowed_hosts`: names besides loopback names, for any port. `allowed_origins`: as browsers send them."""
        self._allowed_names = {name for host in allowed_hosts if (name := _host_name(host))}
        self._allowed_origins = {_trimmed(origin.lower()) for origin in allowed_origins}
        self._allows_host = lru_cache(_CACHED_DECISIONS)(self._decide)

    def check(
        self, path: str, host: str | None, origin: str | None, fetch_site: str | None, authority: str | None = None
    ) -> Admitted | Forbidden:
        """Return whether a request is admitted.

        `host`, `origin` and `fetch_site` are the values of the headers, None if absent. (A request without Host must be
        HTTP/1.0, which no browser sends.) `authority` is the authority of an absolute request target.
        """
        if (host is not None and not self._allows_host(host)) or (
            authority is not None and not self._allows_host(authority)
        ):
            name = _quoted(authority if host is None or self._allows_host(host) else host)
            return Forbidden(
                f"Host is not allowed, but is {name}: use 127.0.0.1, or add the name to http.allowed_hosts"
            )
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
        return Forbidden(f"Origin is not allowed, but is {_quoted(origin)}: add it to http.allowed_origins")

    def _decide(self, host: str) -> bool:
        name = _host_name(host)
        return name is not None and (_is_loopback_name(name) or name in self._allowed_names)


class Networks:
    """Decides which senders are allowed: loopback, and the networks that the operator allowed."""

    def __init__(self, allowed: Sequence[str]) -> None:
        """`allowed`: networks in CIDR notation. Raises ValueError for an invalid network."""
        self._allowed = [ip_network(cidr, strict=False) for cidr in allowed]
        self.allows = lru_cache(_CACHED_DECISIONS)(self._decide)
        """Returns whether an address, the peer's IP address as a socket returns it, is allowed."""

    def _decide(self, address: str) -> bool:
        ip = ip_of(address)
        return ip is not None and (ip.is_loopback or any(_within(ip, network) for network in self._allowed))


def _quoted(text: str | None) -> str:
    """Return a received value for an error: cut, in quotes, with control characters escaped."""
    return json.dumps((text or "")[:_QUOTED_CHARS])


def _trimmed(origin: str) -> str:
    """Return an origin without a trailing "/". The slashes of `file://` are not removed."""
    return origin if origin.endswith("://") else origin.removesuffix("/")


def _host_name(host: str) -> str | None:
    """Return the host name of a Host header, lower case, without port and root dot; None if it is invalid."""
    match = _HOST.fullmatch(host)
    return match["name"].lower().removesuffix(".") if match else None


def _is_loopback_name(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, 6.3: always loopback.
        return True
    ip = ip_of(name.removeprefix("[").removesuffix("]"))
    return ip is not None and ip.is_loopback


def _within(ip: IPv4Address | IPv6Address, network: IPv4Network | IPv6Network) -> bool:
    return ip.version == network.version and ip in network

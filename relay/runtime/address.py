"""Addresses: as the configuration writes them ("127.0.0.1:8080", "[::1]:8080"), and which ones are this machine.

What is this machine decides who may operate and whose datagrams are heard, so it is decided here once:
127.0.0.0/8, ::1, their form on a dual-stack socket, and whoever comes over a unix socket. No name is looked up.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

Listen = str | tuple[str, ...]
"""The value of a `listen` key: "" for none, one address, or several."""
ANY_IPV4, ANY_IPV6 = "0.0.0.0", "::"  # noqa: S104 - the operator chooses them
_LOOPBACKS = ("127.0.0.1", "::1")
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>[0-9]{1,5})")


class ListenError(Exception):
    """An address cannot be listened on; the message names it, the reason, and what to do."""


def parse_address(text: str) -> tuple[str, int]:
    """Host and port; port 0 lets the system choose. Raises ListenError for anything else."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65_535:
        raise ListenError(f"{text!r} is no address: write HOST:PORT, an IPv6 host in brackets, as in [::1]:8080")
    return match["v6"] or match["host"], int(match["port"])


def format_address(sockname: Any) -> str:
    """What `parse_address` reads, of a socket's name; a unix socket's name is its path."""
    if isinstance(sockname, str):
        return sockname
    host, port = sockname[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen_error(address: str, cause: OSError, setting: str) -> ListenError:
    """What an operator is told when binding failed; the caller chains `cause`."""
    return ListenError(
        f"cannot listen on {address}: {cause.strerror or cause}; stop what else listens there or change {setting}"
    )


def ip_of(text: str) -> IPv4Address | IPv6Address | None:
    """The IP address in a text; one that a dual-stack socket maps into IPv6 is the IPv4 address; a zone is ignored."""
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


def is_loopback_peer(peername: object) -> bool:
    """Whether a transport's `peername` is on this machine: a unix socket's (text) is, an unknown one (None) is not."""
    if isinstance(peername, tuple):
        ip = ip_of(peername[0])
        return ip is not None and ip.is_loopback
    return isinstance(peername, str | bytes)


class Binding(NamedTuple):
    """One socket to bind."""

    host: str
    """An IP address, with a zone where one was given; a name before the lookup."""
    port: int
    """0 lets the kernel choose."""
    is_dual_stack: bool = False
    """Whether the IPv6 socket also receives IPv4."""
    is_optional: bool = False
    """Whether the socket is left out where the host has no IPv6."""


def addresses(listen: Listen) -> tuple[str, ...]:
    """Return the addresses of a setting in the order given; () if the listener is off."""
    if isinstance(listen, str):
        return (listen,) if listen else ()
    return listen


def bindings(listen: Listen, default: Listen) -> list[Binding]:
    """Return the sockets that `listen` means, in order, without repetition; names are not looked up.

    `localhost` means both loopback addresses. `[::]` receives IPv4, too, unless `listen` has an IPv4 address with the
    same port: two sockets cannot share it. An IPv4-mapped address is the IPv4 address. `default` is the key's
    default: its IPv6 addresses are optional. Raises ListenError for a text that is no
    address.
    """
    is_default = listen == default
    places = [(host, port) for each in addresses(listen) for host, port in _places(each)]
    ipv4_ports = {port for host, port in places if "." in host}
    optional = {("::1", port) for host, port in map(parse_address, addresses(listen)) if host.lower() == "localhost"}
    found = [
        Binding(
            host,
            port,
            is_dual_stack=host == ANY_IPV6 and port not in ipv4_ports,
            is_optional=":" in host and (is_default or (host, port) in optional),
        )
        for host, port in places
    ]
    return list(dict.fromkeys(found))


def overlap(one: Listen, other: Listen) -> bool:
    """Whether two settings contain the same address; port 0 never is the same."""
    places = ({place for each in addresses(listen) for place in _places(each) if place[1]} for listen in (one, other))
    return bool(next(places) & next(places))


def _places(address: str) -> list[tuple[str, int]]:
    host, port = parse_address(address)
    if host.lower() == "localhost":
        return [(loopback, port) for loopback in _LOOPBACKS]
    ip = ip_of(host)
    return [(host if ip is None or "%" in host else str(ip), port)]

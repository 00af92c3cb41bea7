"""Parse listen addresses ("127.0.0.1:8080", "[::1]:8080") and recognize peers on this machine.

Local peers may operate the relay and send datagrams, so this module is the only place that decides which peer is local:
127.0.0.0/8, ::1, their IPv4-mapped form on a dual-stack socket, and every peer of a unix socket. It looks up no names.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

Listen = str | tuple[str, ...]
"""Value of a `listen` key: "" for none, one address, or several."""
ANY_IPV4, ANY_IPV6 = "0.0.0.0", "::"  # noqa: S104 - the operator chooses to listen on every interface
_LOOPBACKS = ("127.0.0.1", "::1")
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>[0-9]{1,5})")


class ListenError(Exception):
    """The relay cannot listen on an address. The message contains the address, the reason and the remedy."""


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of "HOST:PORT". Port 0 lets the kernel choose. Raises ListenError."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65_535:
        raise ListenError(f"{text!r} is not an address: write HOST:PORT, with an IPv6 host in brackets: [::1]:8080")
    return match["v6"] or match["host"], int(match["port"])


def format_address(sockname: Any) -> str:
    """Return a socket's name in the form that `parse_address` reads; of a unix socket, the path or "@name"."""
    if isinstance(sockname, str):
        return sockname
    if isinstance(sockname, bytes):  # Linux's abstract namespace
        return f"@{sockname[1:].decode(errors='backslashreplace')}"
    host, port = sockname[:2]
    if not isinstance(host, str):  # neither IP nor unix
        return str(sockname)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen_error(address: str, cause: OSError, setting: str) -> ListenError:
    """Return the error for a failed bind; the caller chains `cause`. `setting` is the key's name."""
    return ListenError(
        f"cannot listen on {address}: {cause.strerror or cause}; "
        f"stop the other program that uses the address, or change {setting}"
    )


def ip_of(text: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address in a text, or None. An IPv4-mapped address becomes IPv4; a zone is ignored."""
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


def is_loopback_peer(peername: object) -> bool:
    """Return whether a transport's `peername` is on this machine.

    A unix socket's peer (text) is local. An unknown peer (None) is not.
    """
    if isinstance(peername, tuple):
        ip = ip_of(peername[0])
        return ip is not None and ip.is_loopback
    return isinstance(peername, str | bytes)


class Binding(NamedTuple):
    """One socket to bind."""

    host: str
    """IP address with an optional zone; before the lookup it may be a name."""
    port: int
    """0 lets the kernel choose."""
    is_dual_stack: bool = False
    """Whether the IPv6 socket also receives IPv4."""
    is_optional: bool = False
    """Whether the socket is skipped if the host has no IPv6."""


def addresses(listen: Listen) -> tuple[str, ...]:
    """Return the addresses of a setting in the order given; () if the listener is off."""
    if isinstance(listen, str):
        return (listen,) if listen else ()
    return listen


def bindings(listen: Listen, default: Listen) -> list[Binding]:
    """Return the sockets to bind for `listen`, in order, without duplicates. Names are not looked up.

    `localhost` means both loopback addresses. `[::]` also receives IPv4, unless `listen` has an IPv4 address with the
    same port, because two sockets cannot share it. An IPv4-mapped address is the IPv4 address. If `listen` equals
    `default`, the key's default, its IPv6 addresses are optional. Raises ListenError for an invalid address.
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
    """Return whether two settings have an address in common. Addresses with port 0 never overlap."""
    places = ({place for each in addresses(listen) for place in _places(each) if place[1]} for listen in (one, other))
    return bool(next(places) & next(places))


def _places(address: str) -> list[tuple[str, int]]:
    host, port = parse_address(address)
    if host.lower() == "localhost":
        return [(loopback, port) for loopback in _LOOPBACKS]
    ip = ip_of(host)
    return [(host if ip is None or "%" in host else str(ip), port)]

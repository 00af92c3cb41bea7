"""Addresses: as the configuration writes them ("127.0.0.1:8080", "[::1]:8080"), and which ones are this machine.

What is this machine decides who may operate and whose datagrams are heard, so it is decided here once:
127.0.0.0/8, ::1, their form on a dual-stack socket, and whoever comes over a unix socket. No name is looked up.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

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

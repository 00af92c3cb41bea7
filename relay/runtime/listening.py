"""Open the sockets of one `listen` setting: one address or several, over TCP or UDP.

`relay.runtime.address.bindings` decides which sockets a setting needs. This module looks up names and binds sockets.

Rules:
- A name other than `localhost` means all its addresses.
- On a host without IPv6, IPv6 addresses that the operator did not choose (defaults, `localhost`) are skipped, and a
  dual-stack `[::]` becomes 0.0.0.0.
- Any other address that cannot be bound is an error.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence

import structlog

from relay.runtime.address import ANY_IPV4, Binding, Listen, addresses, bindings, format_address, ip_of, listen_error

_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
"""Errors of a host without IPv6: the kernel does not support it, or no interface has an IPv6 address."""

_log = structlog.get_logger(__name__)


async def open_sockets(listen: Listen, default: Listen, kind: socket.SocketKind, setting: str) -> list[socket.socket]:
    """Return one bound, non-blocking socket per address. Stream sockets do not listen yet.

    `setting` is the key's name, for error messages. Raises ListenError after closing all opened sockets.
    """
    opened: list[socket.socket] = []
    try:
        for binding in bindings(listen, default):
            for place in await _looked_up(binding, kind, setting):
                bound = _open(place, kind, setting)
                if bound is not None:
                    opened.append(bound)
        if addresses(listen) and not opened:
            cause = OSError(errno.EADDRNOTAVAIL, "the host has none of these addresses")
            raise listen_error(", ".join(addresses(listen)), cause, setting)
    except BaseException:
        for each in opened:
            each.close()
        raise
    return opened


async def _looked_up(binding: Binding, kind: socket.SocketKind, setting: str) -> Sequence[Binding]:
    """Return one binding per address of a name. A binding with an IP address is returned unchanged."""
    if ip_of(binding.host) is not None:
        return [binding]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(binding.host, binding.port, type=kind)
    except OSError as error:
        raise listen_error(format_address(binding), error, setting) from error
    return list(dict.fromkeys(Binding(str(sockname[0]), binding.port) for *_, sockname in found))


def _open(binding: Binding, kind: socket.SocketKind, setting: str) -> socket.socket | None:
    """Return the bound socket; None if the host has no IPv6 and the address is optional."""
    try:
        return _bound(binding, kind)
    except OSError as error:
        lacks_ipv6 = ":" in binding.host and error.errno in _NO_IPV6
        if lacks_ipv6 and binding.is_optional:
            _log.info("address skipped, the host has no IPv6", address=format_address(binding), setting=setting)
            return None
        if not (lacks_ipv6 and binding.is_dual_stack):
            raise listen_error(format_address(binding), error, setting) from error
    return _open(Binding(ANY_IPV4, binding.port), kind, setting)


def _bound(binding: Binding, kind: socket.SocketKind) -> socket.socket:
    is_ipv6 = ":" in binding.host
    opened = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, kind)
    try:
        opened.setblocking(False)
        if kind is socket.SOCK_STREAM:
            # After a restart, connections of the previous process may still be in TIME_WAIT.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_ipv6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not binding.is_dual_stack)
        opened.bind(_sockname(binding))
    except BaseException:
        opened.close()
        raise
    return opened


def _sockname(binding: Binding) -> tuple[str, int] | tuple[str, int, int, int]:
    host, _, zone = binding.host.partition("%")
    if not zone:
        return host, binding.port
    return host, binding.port, 0, int(zone) if zone.isdigit() else socket.if_nametoindex(zone)

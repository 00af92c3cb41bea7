"""Read the kernel's messages about addresses and routes (rtnetlink). Pure, without I/O.

Rules:
- A message counts only if it changes the known addresses and routes: routers repeat their advertisements, and the
  kernel then reports the same address or route again.
- Addresses and routes that reach only this machine or one link do not count. A container that starts or stops changes
  many of them.
- Damaged messages are ignored, but lost messages count as a change.

Source: rtnetlink(7), and linux/netlink.h, linux/rtnetlink.h and linux/if_addr.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

GROUPS = 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR and RTMGRP_IPV6_ROUTE."""
_MAX_KNOWN = 4_096
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port id
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, interface
_ROUTE = struct.Struct(
    "=BBBBBBBBI"
)  # struct rtmsg: family, lengths of 2 prefixes, tos, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type
_NEW_ADDRESS, _DELETED_ADDRESS, _NEW_ROUTE, _DELETED_ROUTE = 20, 21, 24, 25
_SCOPE_LINK, _TABLE_LOCAL, _UNICAST, _IS_CACHED = 253, 255, 1, 0x200


class Change(NamedTuple):
    """An address or a route that was added (or reported again), or removed."""

    key: tuple[object, ...]
    is_added: bool


class Configuration:
    """The addresses and routes that the kernel reported. Older ones are not known."""

    def __init__(self) -> None:
        self._known: set[tuple[object, ...]] = set()

    def apply(self, datagram: bytes) -> bool:
        """Apply the messages of a datagram. Return whether an address or a route changed."""
        changed = False
        for change in parse(datagram):
            if change.is_added:
                changed |= change.key not in self._known
                self._known.add(change.key)
            else:
                changed = True
                self._known.discard(change.key)
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        return changed


def parse(datagram: bytes) -> Iterator[Change]:
    """Return the changes in a datagram. Messages of other types and damaged ones are left out."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, _, _, _ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or offset + length > len(datagram):
            return
        body = datagram[offset + _HEADER.size : offset + length]
        key = None
        if kind in (_NEW_ADDRESS, _DELETED_ADDRESS):
            key = _address(body)
        elif kind in (_NEW_ROUTE, _DELETED_ROUTE):
            key = _route(body)
        if key is not None:
            yield Change(key, kind in (_NEW_ADDRESS, _NEW_ROUTE))
        offset += _aligned(length)


def _address(body: bytes) -> tuple[object, ...] | None:
    """Return the identity of an address that is valid beyond its link, or None."""
    if len(body) < _ADDRESS.size:
        return None
    family, prefix, _, scope, interface = _ADDRESS.unpack_from(body)
    if scope >= _SCOPE_LINK:
        return None
    attributes = dict(_attributes(body[_ADDRESS.size :]))
    # IFA_LOCAL (2) is the own address of an interface whose IFA_ADDRESS (1) is that of its peer.
    return "address", family, prefix, interface, attributes.get(2, attributes.get(1))


def _route(body: bytes) -> tuple[object, ...] | None:
    """Return the identity of a unicast route beyond its link, or None."""
    if len(body) < _ROUTE.size:
        return None
    family, length, _, tos, table, _, _, kind, flags = _ROUTE.unpack_from(body)
    if kind != _UNICAST or table == _TABLE_LOCAL or flags & _IS_CACHED:
        return None
    attributes = dict(_attributes(body[_ROUTE.size :]))
    destination = attributes.get(1, b"")
    if family == socket.AF_INET6 and destination.startswith((b"\xfe\x80", b"\xff")):  # Link-local or multicast.
        return None
    # RTA_OIF (4), RTA_GATEWAY (5), RTA_PRIORITY (6) and RTA_MULTIPATH (9). The rest, such as ages, may vary.
    return "route", family, length, tos, table, destination, *(attributes.get(number) for number in (4, 5, 6, 9))


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(body):
        length, number = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size or offset + length > len(body):
            return
        yield number, body[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)


def _aligned(length: int) -> int:
    """Return the length with the padding to 4 bytes."""
    return (length + 3) & ~3

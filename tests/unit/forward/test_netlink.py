"""Messages of the kernel about addresses and routes: which ones are a change of the network."""

from __future__ import annotations

import socket
import struct

import pytest
from relay.forward.netlink import Change, Configuration, parse

NEW_LINK, NEW_ADDRESS, DELETED_ADDRESS, NEW_ROUTE, DELETED_ROUTE = 16, 20, 21, 24, 25
GLOBAL, SITE, LINK, HOST = 0, 200, 253, 254
MAIN, LOCAL = 254, 255
UNICAST, MULTICAST, CACHED = 1, 5, 0x200
V4, V6 = socket.AF_INET, socket.AF_INET6


def attribute(number: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, number) + value + b"\0" * (-length % 4)


def message(kind: int, body: bytes) -> bytes:
    length = 16 + len(body)
    return struct.pack("=IHHII", length, kind, 0, 0, 0) + body + b"\0" * (-length % 4)


def address(
    text: str, *, kind: int = NEW_ADDRESS, scope: int = GLOBAL, family: int = V4, lifetime: bytes = b""
) -> bytes:
    body = struct.pack("=BBBBI", family, 24, 0, scope, 2) + attribute(1, socket.inet_pton(family, text))
    return message(kind, body + (attribute(6, lifetime) if lifetime else b""))


def route(
    to: str = "",
    via: str = "192.0.2.1",
    *,
    kind: int = NEW_ROUTE,
    family: int = V4,
    table: int = MAIN,
    route_type: int = UNICAST,
    flags: int = 0,
) -> bytes:
    body = struct.pack("=BBBBBBBBI", family, 24 if to else 0, 0, 0, table, 3, GLOBAL, route_type, flags)
    body += attribute(1, socket.inet_pton(family, to)) if to else b""
    return message(kind, body + attribute(5, socket.inet_pton(family, via)) + attribute(4, struct.pack("=I", 2)))


@pytest.mark.parametrize(
    ("datagrams", "changes"),
    [
        pytest.param([address("192.0.2.7")], [True], id="a new address"),
        pytest.param([address("192.0.2.7"), address("192.0.2.7")], [True, False], id="the same address again"),
        pytest.param([address("192.0.2.7"), address("192.0.2.8")], [True, True], id="a second address"),
        pytest.param(
            [address("2001:db8::7", family=V6, lifetime=b"\1"), address("2001:db8::7", family=V6, lifetime=b"\2")],
            [True, False],
            id="a prolonged address",
        ),
        pytest.param([address("192.0.2.7", kind=DELETED_ADDRESS)], [True], id="a removed address"),
        pytest.param(
            [address("192.0.2.7"), address("192.0.2.7", kind=DELETED_ADDRESS), address("192.0.2.7")],
            [True, True, True],
            id="an address that comes back",
        ),
        pytest.param([address("192.0.2.7", scope=SITE)], [True], id="an address of the site"),
        pytest.param([address("fe80::7", scope=LINK, family=V6)], [False], id="an address of a link"),
        pytest.param([address("127.0.0.2", scope=HOST)], [False], id="an address of this machine"),
        pytest.param([route()], [True], id="a default route"),
        pytest.param([route(), route()], [True, False], id="the same route again"),
        pytest.param([route(), route(via="192.0.2.2")], [True, True], id="another gateway"),
        pytest.param([route(kind=DELETED_ROUTE)], [True], id="a removed route"),
        pytest.param([route("2001:db8::", "fe80::1", family=V6)], [True], id="an IPv6 route"),
        pytest.param([route("fe80::", "fe80::1", family=V6)], [False], id="a link-local route"),
        pytest.param([route("ff02::1", "fe80::1", family=V6)], [False], id="a multicast destination"),
        pytest.param([route("192.0.2.0", table=LOCAL)], [False], id="a route of the local table"),
        pytest.param([route("192.0.2.0", route_type=MULTICAST)], [False], id="a multicast route"),
        pytest.param([route("192.0.2.0", flags=CACHED)], [False], id="a cached route"),
        pytest.param([message(NEW_LINK, b"\0" * 16)], [False], id="a message about a link"),
        pytest.param([address("192.0.2.7") + route()], [True], id="two messages in a datagram"),
        pytest.param([address("192.0.2.7"), address("192.0.2.7") + route()], [True, True], id="the second one is new"),
        pytest.param([b""], [False], id="empty"),
        pytest.param([address("192.0.2.7")[:-1]], [False], id="cut off"),
        pytest.param([struct.pack("=IHHII", 4, NEW_ROUTE, 0, 0, 0)], [False], id="a length below the header"),
        pytest.param([message(NEW_ADDRESS, b"\2")], [False], id="an address without a header"),
        pytest.param([message(NEW_ROUTE, b"\2")], [False], id="a route without a header"),
    ],
)
def test_only_a_message_that_changes_the_network_counts(datagrams: list[bytes], changes: list[bool]) -> None:
    configuration = Configuration()
    assert [configuration.apply(datagram) for datagram in datagrams] == changes


def test_an_attribute_with_a_wrong_length_ends_the_attributes() -> None:
    body = struct.pack("=BBBBI", V4, 24, 0, GLOBAL, 2) + struct.pack("=HH", 400, 1) + b"1234"
    assert list(parse(message(NEW_ADDRESS, body))) == [Change(("address", V4, 24, 2, None), True)]


def test_the_known_addresses_are_bounded() -> None:
    configuration = Configuration()
    for n in range(10_000):
        configuration.apply(address(f"10.0.{n >> 8}.{n & 255}"))
    assert len(configuration._known) <= 4_096

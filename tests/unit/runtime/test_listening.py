"""Sockets bound for one listen setting."""

import errno
import socket

import pytest
from relay.runtime.address import Binding, ListenError, bindings, overlap
from relay.runtime.listening import open_sockets

DEFAULT = ("127.0.0.1:8080", "[::1]:8080")
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("", []),
        ("127.0.0.1:1", [Binding("127.0.0.1", 1)]),
        ("[::1]:1", [Binding("::1", 1)]),
        ("localhost:1", [Binding("127.0.0.1", 1), Binding("::1", 1, is_optional=True)]),
        ("LOCALHOST:1", [Binding("127.0.0.1", 1), Binding("::1", 1, is_optional=True)]),
        ("[::]:1", [Binding("::", 1, is_dual_stack=True)]),
        ("[0:0::0]:1", [Binding("::", 1, is_dual_stack=True)]),
        (("[::]:1", "0.0.0.0:1"), [Binding("::", 1), Binding("0.0.0.0", 1)]),
        (("[::]:1", "127.0.0.1:2"), [Binding("::", 1, is_dual_stack=True), Binding("127.0.0.1", 2)]),
        (("[::]:1", "[::ffff:10.0.0.1]:1"), [Binding("::", 1), Binding("10.0.0.1", 1)]),
        (("127.0.0.1:1", "[::ffff:127.0.0.1]:1", "127.0.0.1:1"), [Binding("127.0.0.1", 1)]),
        (DEFAULT, [Binding("127.0.0.1", 8080), Binding("::1", 8080, is_optional=True)]),
        ("box.local:1", [Binding("box.local", 1)]),
        ("[fe80::1%2]:1", [Binding("fe80::1%2", 1)]),
    ],
)
def test_sockets_of_a_setting(listen, expected):
    assert bindings(listen, DEFAULT) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1:1", "[::ffff:127.0.0.1]:1", True),
        ("localhost:1", ("[::1]:1", "10.0.0.1:1"), True),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("", "", False),
    ],
)
def test_settings_with_a_common_address_overlap(one, other, expected):
    assert overlap(one, other) is expected


@pytest.mark.parametrize("kind", [STREAM, DATAGRAM])
async def test_localhost_opens_both_loopback_addresses(kind):
    opened = await open_sockets("localhost:0", DEFAULT, kind, "http.listen")

    assert [each.getsockname()[0] for each in opened] == ["127.0.0.1", "::1"]
    assert [each.type for each in opened] == [kind, kind]
    close(opened)


@pytest.mark.parametrize("kind", [STREAM, DATAGRAM])
async def test_ipv6_wildcard_also_receives_ipv4(kind):
    (opened,) = await open_sockets("[::]:0", DEFAULT, kind, "http.listen")

    assert opened.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    close([opened])


async def test_ipv4_address_with_the_same_port_can_be_bound_beside_the_ipv6_wildcard():
    (first,) = await open_sockets("127.0.0.1:0", DEFAULT, STREAM, "http.listen")
    port = first.getsockname()[1]
    close([first])

    opened = await open_sockets((f"[::]:{port}", f"0.0.0.0:{port}"), DEFAULT, STREAM, "http.listen")

    assert [each.getsockname()[:2] for each in opened] == [("::", port), ("0.0.0.0", port)]
    close(opened)


async def test_address_in_use_is_reported_and_other_sockets_are_closed():
    (occupied,) = await open_sockets("127.0.0.1:0", DEFAULT, DATAGRAM, "udp.listen")
    used = f"127.0.0.1:{occupied.getsockname()[1]}"

    with pytest.raises(ListenError, match=rf"{used}.*udp\.listen"):
        await open_sockets(("127.0.0.1:0", used), DEFAULT, DATAGRAM, "udp.listen")
    close([occupied])


@pytest.mark.parametrize("lack", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
@pytest.mark.parametrize(
    ("listen", "default", "expected"),
    [
        ("localhost:0", DEFAULT, ["127.0.0.1"]),
        (("127.0.0.1:0", "[::1]:0"), ("127.0.0.1:0", "[::1]:0"), ["127.0.0.1"]),
        ("[::]:0", DEFAULT, ["0.0.0.0"]),
    ],
)
async def test_host_without_ipv6_skips_optional_ipv6_addresses(lack, listen, default, expected, monkeypatch):
    without_ipv6(monkeypatch, lack)

    opened = await open_sockets(listen, default, STREAM, "http.listen")

    assert [each.getsockname()[0] for each in opened] == expected
    close(opened)


async def test_configured_ipv6_address_is_not_skipped(monkeypatch):
    without_ipv6(monkeypatch, errno.EAFNOSUPPORT)

    with pytest.raises(ListenError, match=r"\[::1\]:0"):
        await open_sockets("[::1]:0", DEFAULT, STREAM, "http.listen")


async def test_unknown_host_name_is_reported():
    with pytest.raises(ListenError, match=r"nowhere\.invalid:1"):
        await open_sockets("nowhere.invalid:1", DEFAULT, STREAM, "http.listen")


def without_ipv6(monkeypatch: pytest.MonkeyPatch, lack: int) -> None:
    """Let IPv6 sockets fail as on a host without IPv6."""

    class Ipv4Socket(socket.socket):
        def __init__(self, family: int, kind: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(lack, "no IPv6")
            super().__init__(family, kind)

    monkeypatch.setattr(socket, "socket", Ipv4Socket)


def close(opened: list[socket.socket]) -> None:
    for each in opened:
        each.close()

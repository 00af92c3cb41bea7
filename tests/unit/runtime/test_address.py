"""Which peers count as local: the decision behind local operators and always accepted loopback datagrams."""

from __future__ import annotations

import pytest
from relay.runtime.address import ip_of, is_loopback_peer


@pytest.mark.parametrize(
    "peername",
    [("127.0.0.1", 1), ("127.8.9.1", 1), ("::1", 1, 0, 0), ("::ffff:127.0.0.1", 1, 0, 0), "", "/run/app.sock", b""],
)
def test_peers_on_loopback_and_unix_sockets_are_local(peername: object) -> None:
    assert is_loopback_peer(peername)


@pytest.mark.parametrize(
    "peername",
    [
        ("192.168.1.7", 1), ("::ffff:192.168.1.7", 1, 0, 0), ("fe80::1%eth0", 1, 0, 2), ("0.0.0.0", 1), ("::", 1, 0, 0),
        ("localhost", 1), ("", 1), None, 7,
    ],
)  # fmt: skip
def test_other_and_unknown_peers_are_not_local(peername: object) -> None:
    assert not is_loopback_peer(peername)


@pytest.mark.parametrize("text", ["", "127.1", "2130706433", "127.0.0.01", "localhost", "127.0.0.1:80", "[::1]"])
def test_text_without_an_ip_address_returns_none(text: str) -> None:
    assert ip_of(text) is None

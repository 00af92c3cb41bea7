"""Both ways to empty a socket give the same, in order, and never wait."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator

import pytest
from relay.ingest.udp.recvmmsg import Burst, _OneByOne, burst

LIMIT = 4
Open = Callable[[socket.socket, int], Burst]

WAYS = [pytest.param(_OneByOne, id="one by one")]
if sys.platform == "linux":
    WAYS.append(pytest.param(burst, id="together"))
FAMILIES = [
    (socket.AF_INET, "127.0.0.1"),
    (socket.AF_INET6, "::1"),
]


@pytest.fixture(params=FAMILIES, ids=["IPv4", "IPv6"])
def sockets(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """One to read from, and one connected to it."""
    family, host = request.param
    with socket.socket(family, socket.SOCK_DGRAM) as receiving, socket.socket(family, socket.SOCK_DGRAM) as sending:
        receiving.setblocking(False)
        receiving.bind((host, 0))
        sending.connect(receiving.getsockname())
        yield receiving, sending


@pytest.mark.parametrize("way", WAYS)
def test_datagrams_come_in_order_with_the_sender_as_python_names_it(
    way: Open, sockets: tuple[socket.socket, socket.socket]
) -> None:
    receiving, sending = sockets
    contents = [b"", b"a", b"b" * 9_000, b"c" * 60_000]
    for content in contents:
        sending.send(content)
    assert way(receiving, LIMIT)() == [(content, sending.getsockname()) for content in contents]


@pytest.mark.parametrize("way", WAYS)
def test_no_more_than_the_limit_is_read_at_once_and_nothing_of_before_is_left(
    way: Open, sockets: tuple[socket.socket, socket.socket]
) -> None:
    receiving, sending = sockets
    read = way(receiving, LIMIT)
    for number in range(LIMIT + 1):
        sending.send(b"long" * 10 if number < LIMIT else b"short")
    assert [data for data, _ in read()] == [b"long" * 10] * LIMIT
    assert [data for data, _ in read()] == [b"short"]
    assert read() == []


@pytest.mark.parametrize("way", WAYS)
def test_each_datagram_has_its_own_sender(way: Open, sockets: tuple[socket.socket, socket.socket]) -> None:
    receiving, sending = sockets
    with socket.socket(receiving.family, socket.SOCK_DGRAM) as other:
        other.connect(receiving.getsockname())
        for each in (sending, other, sending):
            each.send(b"x")
        senders = [sender for _, sender in way(receiving, LIMIT)()]
        assert senders == [each.getsockname() for each in (sending, other, sending)]


@pytest.mark.parametrize("way", WAYS)
def test_a_socket_that_failed_is_an_error_and_not_an_empty_one(
    way: Open, sockets: tuple[socket.socket, socket.socket]
) -> None:
    receiving, _ = sockets
    read = way(receiving, LIMIT)
    receiving.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        read()


@pytest.mark.skipif(sys.platform != "linux", reason="recvmmsg is Linux's")
def test_linux_reads_them_together() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving:
        assert not isinstance(burst(receiving, LIMIT), _OneByOne)

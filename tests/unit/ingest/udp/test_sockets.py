"""The sockets of a listener are read together, and their counters are added."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Iterator
from itertools import count

import pytest
from relay.ingest.udp import sockets as module
from relay.ingest.udp.sockets import DATAGRAMS_PER_READ, UdpSockets, is_local

from tests.support.ingest_harness import PATIENCE_S, free_udp_socket


@pytest.fixture
def bound() -> Iterator[list[socket.socket]]:
    bound = [free_udp_socket(), free_udp_socket(socket.AF_INET6)]
    yield bound
    for each in bound:
        each.close()


@pytest.fixture
def app() -> Iterator[socket.socket]:
    with free_udp_socket() as app:
        yield app


def never(error: OSError) -> None:
    raise error


def test_each_socket_is_read_up_to_the_limit(bound: list[socket.socket], app: socket.socket) -> None:
    sockets = UdpSockets(bound)
    assert sockets.read(never) == 0
    assert list(sockets.unprocessed()) == []
    for number in range(DATAGRAMS_PER_READ + 1):
        app.sendto(b"%d" % number, bound[0].getsockname())
    assert sockets.read(never) == DATAGRAMS_PER_READ
    [(unprocessed, receiver)] = sockets.unprocessed()
    assert receiver is bound[0]
    assert [data for data, _ in unprocessed] == [b"%d" % number for number in range(DATAGRAMS_PER_READ)]


def test_a_socket_is_read_again_after_its_datagrams_were_processed(
    bound: list[socket.socket], app: socket.socket
) -> None:
    sockets = UdpSockets(bound)
    app.sendto(b"first", bound[0].getsockname())
    sockets.read(never)
    app.sendto(b"second", bound[0].getsockname())
    assert sockets.read(never) == 1
    [(unprocessed, _)] = sockets.unprocessed()
    assert [unprocessed.popleft()[0] for _ in range(len(unprocessed))] == [b"first"]
    assert sockets.read(never) == 1
    assert unprocessed[0][0] == b"second"


def test_a_socket_that_fails_is_reported_and_the_others_are_read(
    bound: list[socket.socket], app: socket.socket
) -> None:
    sockets = UdpSockets([bound[1], bound[0]])
    bound[1].close()
    app.sendto(b"a", bound[0].getsockname())
    errors: list[OSError] = []
    assert sockets.read(errors.append) == 1
    assert [type(error) for error in errors] == [OSError]


async def test_a_datagram_calls_the_watcher_until_the_sockets_are_unwatched(
    bound: list[socket.socket], app: socket.socket
) -> None:
    sockets = UdpSockets(bound)
    called = asyncio.Event()
    sockets.watch(called.set)
    app.sendto(b"a", bound[0].getsockname())
    async with asyncio.timeout(PATIENCE_S):
        await called.wait()
    sockets.unwatch()
    assert not asyncio.get_running_loop().remove_reader(bound[0])


def test_new_drops_are_counted_over_all_sockets_and_past_the_end_of_the_counter(
    bound: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = UdpSockets(bound)
    drops = count(2**32 - 3)
    monkeypatch.setattr(module, "kernel_drops", lambda _: next(drops) % 2**32)
    assert sockets.new_kernel_drops() == 2**32 - 3 + 2**32 - 2
    assert sockets.new_kernel_drops() == 2 + 2
    monkeypatch.setattr(module, "kernel_drops", lambda _: None)
    assert sockets.new_kernel_drops() == 0


def test_closed_sockets_are_forgotten(bound: list[socket.socket]) -> None:
    sockets = UdpSockets(bound)
    assert [address.rpartition(":")[0] for address in sockets.addresses] == ["127.0.0.1", "[::1]"]
    sockets.close()
    assert not sockets
    assert sockets.addresses == []
    assert [each.fileno() for each in bound] == [-1, -1]


def test_an_address_of_another_host_is_not_local() -> None:
    assert is_local("127.0.0.1")
    assert is_local("::1")
    assert not is_local("192.0.2.1")


class TestOtherSystems:
    """The options of other systems than Linux, whose numbers and rules differ."""

    def test_no_linux_option_is_set(self, bound: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(module, "_SO_RCVBUFFORCE", "not a number")
        monkeypatch.setattr(module, "_SO_MEMINFO", "not a number")

        sockets = UdpSockets(bound)
        sockets.ask_receive_buffer(100_000)
        assert sockets.receive_buffer_bytes >= 100_000
        assert module.kernel_drops(bound[0]) is None

    def test_a_buffer_above_the_limit_is_halved_until_the_system_sets_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        with LimitedSocket(socket.AF_INET, socket.SOCK_DGRAM) as limited:
            sockets = UdpSockets([limited])
            for wanted_bytes, given_bytes in ((64 << 20, 4 << 20), (1 << 20, 1 << 20)):
                sockets.ask_receive_buffer(wanted_bytes)
                assert sockets.receive_buffer_bytes == given_bytes


class LimitedSocket(socket.socket):
    """A socket of a system that rejects receive buffers above 7 MiB, as kern.ipc.maxsockbuf does."""

    granted = 786_896

    def setsockopt(self, level: int, option: int, value: int) -> None:  # type: ignore[override]
        if value > 7 << 20:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        self.granted = value

    def getsockopt(self, level: int, option: int) -> int:  # type: ignore[override]
        return self.granted

"""Datagrams over loopback: stored events, counters and responses."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from relay.config import OutboxSettings, Udp
from relay.event.reader import BodyKind, Event, EventDefaults, Reader, Reading, Rejection
from relay.http.guard import Networks
from relay.ingest.udp.datagrams import MAX_INFLATED_BYTES
from relay.ingest.udp.ingest import UdpIngest
from relay.ingest.udp.responses import stored_response
from relay.outbox import AppendResult, OutboxFull, OutboxUnavailable
from relay.runtime.address import ListenError
from relay.runtime.metrics import Metrics

from tests.support.event_loop import turns
from tests.support.ingest_harness import (
    BODY,
    EVENT,
    EVENT_ID,
    PATIENCE_S,
    STORED,
    HandClock,
    ScriptedOutbox,
    free_udp_socket,
    gzipped,
    new_reader,
    until,
)
from tests.support.memory_outbox import MemoryOutbox
from tests.support.steps import LONGEST_STEP_S
from tests.unit.event.test_reader_steps import SHAPES


class Hearing:
    """A running UDP ingest and a socket that sends to it."""

    def __init__(
        self,
        *,
        family: int = socket.AF_INET,
        max_body_bytes: int = 1 << 20,
        outbox: Any = None,
        passed: Sequence[socket.socket] = (),
        **settings: Any,
    ) -> None:
        self.clock = HandClock()
        self.metrics = Metrics()
        self.outbox = outbox or ScriptedOutbox()
        host = "[::1]" if family == socket.AF_INET6 else "127.0.0.1"
        self.udp = UdpIngest(
            new_reader(self.clock),
            self.outbox,
            Udp(**{"listen": f"{host}:0", **settings}),
            max_body_bytes,
            self.metrics,
            self.clock,
            passed,
        )
        self.sender = free_udp_socket(family)

    async def __aenter__(self) -> Hearing:
        await self.udp.start()
        host, _, port = self.udp.addresses[0].rpartition(":")
        self._to = (host.strip("[]"), int(port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.udp.stop()
        self.sender.close()

    def send(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            self.sender.sendto(datagram, self._to)

    async def ack(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.get_running_loop().sock_recv(self.sender, 65_536)

    async def settled(self, datagrams: int) -> None:
        """Until so many were kept, refused or dropped."""
        await until(lambda: self.accepted() + self.rejected() + self.dropped() >= datagrams)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"relay_{name}", labels) or 0.0

    def accepted(self) -> float:
        return sum(self.count(f"events_{what}_total", transport="udp") for what in ("accepted", "duplicate"))

    def rejected(self, reason: str | None = None) -> float:
        reasons = [reason] if reason else ["malformed", "invalid", "too_large", "full", "max_devices", "unavailable"]
        return sum(self.count("events_rejected_total", transport="udp", reason=each) for each in reasons)

    def dropped(self, reason: str | None = None) -> float:
        reasons = [reason] if reason else ["network", "truncated", "backlog"]
        return sum(self.count("udp_datagrams_dropped_total", reason=each) for each in reasons)


def event(number: int, **more: object) -> bytes:
    return json.dumps({**EVENT, "event_id": str(uuid.UUID(int=(4 << 76) + (2 << 62) + number)), **more}).encode()


def stored_numbers(outbox: ScriptedOutbox) -> list[int]:
    return [int.from_bytes(each.event_id[-4:], "big") for each in outbox.stored]


# --- what is kept


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_a_datagram_becomes_an_event(family: int) -> None:
    async with Hearing(family=family) as hearing:
        hearing.send(BODY)
        await hearing.settled(1)
        assert [str(uuid.UUID(bytes=each.event_id)) for each in hearing.outbox.stored] == [EVENT_ID]
        assert hearing.count("events_received_total", transport="udp") == 1


@pytest.mark.parametrize(
    "datagram",
    [
        b'{"events": [%s, %s]}' % (event(1), event(2)),
        event(1) + b"\n" + event(2) + b"\n",
        gzipped(event(1) + b"\n" + event(2)),
    ],
    ids=["events", "lines", "gzip"],
)
async def test_a_datagram_may_contain_several_events(datagram: bytes) -> None:
    async with Hearing() as hearing:
        hearing.send(datagram)
        await hearing.settled(2)
        assert stored_numbers(hearing.outbox) == [1, 2]


async def test_datagrams_are_stored_in_order_of_arrival() -> None:
    async with Hearing() as hearing:
        hearing.send(*(event(number) for number in range(200)))
        await hearing.settled(200)
        assert stored_numbers(hearing.outbox) == list(range(200))


async def test_datagrams_of_one_wake_are_appended_together() -> None:
    async with Hearing() as hearing:
        hearing.send(*(event(number) for number in range(50)))
        await hearing.settled(50)
        assert len(hearing.outbox.appends) < 5


# --- what is not


BAD = [
    (b"", "malformed"), (b"{", "malformed"), (b"\x00", "malformed"), (b"\xff" * 100, "malformed"),
    (b'{"event_type": "x"}', "invalid"), (event(1) + b"\n{}", "invalid"),
    (gzipped(BODY)[:-1], "malformed"), (gzipped(BODY) + b"x", "malformed"), (gzipped(bytes(4 << 20)), "too_large"),
    (event(1, context={"x": "y" * 50_000}), ""),
]  # fmt: skip


@pytest.mark.parametrize(("datagram", "reason"), BAD)
async def test_an_invalid_datagram_is_counted_and_affects_no_other(datagram: bytes, reason: str) -> None:
    async with Hearing() as hearing:
        hearing.send(event(1), datagram, event(2))
        await hearing.settled(3)
        expected = [1, 2] if reason else [1, 1, 2]
        assert stored_numbers(hearing.outbox) == expected
        assert hearing.rejected() == (1 if reason else 0)
        assert not reason or hearing.rejected(reason) == 1


async def test_a_datagram_of_another_tenant_is_counted_as_invalid() -> None:
    async with Hearing() as hearing:
        hearing.udp.use_reader(new_reader(hearing.clock, allowed_tenants=(1, 7)))
        hearing.send(event(1, tenant_id=7), event(2, tenant_id=3), event(3, tenant_id=7))
        await hearing.settled(3)
        assert stored_numbers(hearing.outbox) == [1, 3]
        assert hearing.rejected() == hearing.rejected("invalid") == 1


async def test_a_datagram_over_the_body_limit_is_counted_as_truncated() -> None:
    async with Hearing(max_body_bytes=len(BODY)) as hearing:
        hearing.send(BODY, BODY + b" ")
        await hearing.settled(2)
        assert (hearing.accepted(), hearing.dropped("truncated")) == (1, 1)


async def test_every_single_datagram_causes_a_wake() -> None:
    async with Hearing() as hearing:
        for number in range(5):
            hearing.send(event(number))
            await hearing.settled(number + 1)
        assert stored_numbers(hearing.outbox) == list(range(5))


async def test_rejected_datagrams_are_logged_once_per_second() -> None:
    with structlog.testing.capture_logs() as lines:
        async with Hearing() as hearing:
            hearing.send(*[b"{"] * 100)
            await hearing.settled(100)
            assert [line["log_level"] for line in lines] == ["warning"]
            assert hearing.count("log_lines_suppressed_total") == 99
            hearing.clock.now_ms += 1_000
            hearing.send(b"{", b"{")
            await hearing.settled(102)
            assert len(lines) == 2


@given(st.lists(st.binary(max_size=80), max_size=8))
def test_no_datagram_stops_the_reading(datagrams: list[bytes]) -> None:
    async def send_all() -> None:
        async with Hearing(ack=True) as hearing:
            hearing.send(*datagrams, BODY)
            await hearing.settled(len(datagrams) + 1)
            assert hearing.accepted() == 1
            assert hearing.rejected() == len(datagrams)

    asyncio.run(send_all())


# --- when the outbox cannot keep up


async def test_only_the_datagrams_without_room_are_rejected() -> None:
    async with Hearing(outbox=ScriptedOutbox(error=OutboxFull("full"), room_events=3)) as hearing:
        hearing.send(*(event(number) for number in range(5)))
        await hearing.settled(5)
        assert stored_numbers(hearing.outbox) == [0, 1, 2]
        assert (hearing.accepted(), hearing.rejected("full")) == (3, 2)


async def test_a_datagram_is_rejected_as_a_whole() -> None:
    async with Hearing(outbox=ScriptedOutbox(error=OutboxFull("full"), room_events=3)) as hearing:
        hearing.send(event(0) + b"\n" + event(1), event(2) + b"\n" + event(3), event(4))
        await hearing.settled(5)
        assert stored_numbers(hearing.outbox) == [0, 1, 4]
        assert hearing.rejected("full") == 2


async def test_a_further_device_beyond_the_limit_neither_affects_nor_delays_known_devices() -> None:
    outbox = MemoryOutbox(OutboxSettings(max_devices=1), HandClock())
    await outbox.open()
    async with Hearing(outbox=outbox) as hearing:
        for first in range(0, 6, 3):
            further = event(first + 1, source={"platform": "tv", "device_id": "another"})
            hearing.send(event(first), further, event(first + 2))
            await hearing.settled(first + 3)
            assert "Paused" not in repr(hearing.udp)
        assert (hearing.accepted(), hearing.rejected("max_devices")) == (4, 2)


async def test_after_a_rejection_datagrams_stay_in_the_kernel_until_there_is_room() -> None:
    async with Hearing(outbox=ScriptedOutbox(error=OutboxUnavailable("the disk fails"), room_events=0)) as hearing:
        hearing.send(event(0))
        await hearing.settled(1)
        assert hearing.rejected("unavailable") == 1
        hearing.send(event(1), event(2))
        await turns(50)
        assert len(hearing.outbox.appends) == 1
        hearing.outbox.error = None
        await hearing.settled(3)
        assert stored_numbers(hearing.outbox) == [1, 2]


async def test_without_room_datagrams_stay_in_the_kernel() -> None:
    async with Hearing(outbox=ScriptedOutbox(has_room=False)) as hearing:
        hearing.send(*(event(number) for number in range(100)))
        await turns(50)
        assert hearing.outbox.appends == []
        hearing.outbox.has_room = True
        await hearing.settled(100)
        assert stored_numbers(hearing.outbox) == list(range(100))


async def test_a_stop_without_room_reads_no_datagram() -> None:
    async with Hearing(outbox=ScriptedOutbox(has_room=False)) as hearing:
        hearing.send(event(0))
        hearing.udp.stop()
        assert hearing.outbox.appends == []


async def test_datagrams_and_buffer_of_a_passed_socket_are_left_to_the_next_relay() -> None:
    with free_udp_socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)
        async with Hearing(passed=[own.dup()], receive_buffer_bytes=4 << 20) as hearing:
            assert hearing.count("udp_receive_buffer_bytes") == 50_000
            hearing.send(event(0))
            await hearing.settled(1)
            hearing.send(event(1))
            hearing.udp.stop()
            assert stored_numbers(hearing.outbox) == [0]
        async with Hearing(passed=[own.dup()]) as hearing:
            await hearing.settled(1)
            assert stored_numbers(hearing.outbox) == [1]


async def test_drops_that_an_earlier_relay_counted_are_not_counted_again() -> None:
    with free_udp_socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 5_000)
        with free_udp_socket() as sender:
            for number in range(100):
                sender.sendto(event(number), own.getsockname())
        async with Hearing(passed=[own.dup()]) as hearing:
            await until(lambda: bool(hearing.outbox.stored))
            hearing.udp.refresh()
            assert hearing.dropped("kernel") == 0


async def test_reading_stops_at_the_limit_of_uncommitted_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.ingest.udp.ingest._MAX_UNCOMMITTED", 100)
    async with Hearing(outbox=ScriptedOutbox(waits=True)) as hearing:
        hearing.send(*(event(number) for number in range(300)))
        await until(lambda: len(hearing.outbox.stored) >= 100)
        await turns(50)
        assert len(hearing.outbox.stored) < 200
        settled = 0
        while settled < len(hearing.outbox.appends) or hearing.accepted() < 300:
            for outcome in hearing.outbox.appends[settled:]:
                settled += 1
                outcome.set_result(STORED)
            await asyncio.sleep(0)
        assert stored_numbers(hearing.outbox) == list(range(300))


async def test_no_step_runs_at_the_limit_of_uncommitted_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.ingest.udp.ingest._MAX_UNCOMMITTED", 1_000)
    many = gzipped(b"\n".join(event(number) for number in range(600)))
    async with Hearing(outbox=ScriptedOutbox(waits=True)) as hearing:
        for number in range(20):
            hearing.send(event(number))
            await until(partial(lambda sent: len(hearing.outbox.appends) > sent, number))
        hearing.send(*[many] * 10)
        await until(lambda: len(hearing.outbox.stored) >= 1_000)
        for outcome in hearing.outbox.appends[:20]:
            outcome.set_result(STORED)
            await turns(100)
        assert len(hearing.outbox.stored) < 2_000


async def test_an_append_that_fails_after_the_stop_schedules_no_wake() -> None:
    async with Hearing(outbox=ScriptedOutbox(waits=True)) as hearing:
        hearing.send(BODY)
        await until(lambda: bool(hearing.outbox.appends))
    hearing.outbox.appends[0].set_exception(OutboxUnavailable("the disk fails"))
    await asyncio.sleep(0)
    assert hearing.udp._next_wake is None


async def test_datagrams_dropped_by_the_kernel_are_counted() -> None:
    async with Hearing(
        outbox=ScriptedOutbox(error=OutboxFull("full"), room_events=0), receive_buffer_bytes=5_000
    ) as hearing:
        hearing.send(event(0))
        await hearing.settled(1)
        hearing.send(*(event(number) for number in range(500)))
        hearing.udp.refresh()
        dropped = hearing.dropped("kernel")
        assert 0 < dropped < 500
        hearing.udp.refresh()
        assert hearing.dropped("kernel") == dropped


async def test_a_kernel_without_a_drop_counter_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four bytes where nine counters are asked for, as an emulated or a much older kernel answers."""
    monkeypatch.setattr("relay.ingest.udp.sockets._SO_MEMINFO", socket.SO_RCVBUF)
    async with Hearing() as hearing:
        hearing.send(event(0))
        await hearing.settled(1)
        hearing.udp.refresh()
        assert hearing.dropped("kernel") == 0


def large(number: int) -> bytes:
    return event(number, context={"a": "b" * 40_000})


async def test_large_datagrams_are_read_in_order_over_several_turns() -> None:
    async with Hearing(receive_buffer_bytes=4 << 20) as hearing:
        hearing.send(*(large(number) for number in range(20)))
        await hearing.settled(20)
        assert stored_numbers(hearing.outbox) == list(range(20))
        assert len(hearing.outbox.appends) == 20


@pytest.mark.parametrize(
    "expensive",
    [
        gzipped(b"\n".join(event(number) for number in range(1_000, 1_500))),
        large(1_000),
        gzipped(event(1_000, a="b" * 2_000)),
    ],
    ids=["many", "large", "inflates"],
)
async def test_small_datagrams_are_read_before_expensive_ones(expensive: bytes) -> None:
    async with Hearing(receive_buffer_bytes=4 << 20) as hearing:
        small = [event(number) for number in range(100)] + [gzipped(event(100))]
        hearing.send(*[expensive] * 10, *small)
        await hearing.settled(len(small) + 10)
        await until(lambda: 1_000 in stored_numbers(hearing.outbox))
        stored = stored_numbers(hearing.outbox)
        assert [number for number in stored if number < 1_000] == list(range(101))
        # 64 datagrams are read per wake, and each wake takes one step of an expensive one.
        assert stored.index(100) < 101 + 3 * 500


async def test_one_step_of_an_expensive_datagram_runs_per_wake() -> None:
    """A thousand such datagrams delayed other events for minutes."""
    async with Hearing(receive_buffer_bytes=4 << 20) as hearing:
        hostile = gzipped(b'{"events":[],' + b'"a":1,' * 40_000 + b'"a":1}')
        hearing.send(*[hostile] * 500)
        await until(lambda: hearing.udp.refresh() is None and hearing.rejected() > 0)
        for number in range(20):
            before = hearing.rejected()
            hearing.send(event(number))
            await until(partial(lambda stored: hearing.accepted() > stored, number))
            assert hearing.rejected() - before < 5


async def test_a_stop_drops_and_counts_expensive_datagrams_that_take_long() -> None:
    async with Hearing(receive_buffer_bytes=4 << 20) as hearing:
        hostile = gzipped(b'{"events":[],' + b'"a":1,' * 40_000 + b'"a":1}')
        hearing.send(*[hostile] * 60, event(1))
        hearing.udp.stop()
        assert stored_numbers(hearing.outbox) == [1]
        assert hearing.rejected("too_large") > 0
        assert hearing.dropped("backlog") > 0
        assert hearing.rejected("too_large") + hearing.dropped("backlog") == 60


async def test_a_datagram_that_inflates_to_much_is_read_in_steps() -> None:
    async with Hearing() as hearing:
        many = b"\n".join(event(number) for number in range(1_000))
        hearing.send(gzipped(many), gzipped(many[:-1]))
        turns = 0
        async with asyncio.timeout(PATIENCE_S):
            while hearing.accepted() < 1_000 or not hearing.rejected():
                turns += 1
                await asyncio.sleep(0)
        assert stored_numbers(hearing.outbox) == list(range(1_000))
        assert hearing.rejected("malformed") == 1
        assert turns > 10


@pytest.mark.parametrize(("size_bytes", "reason"), [(MAX_INFLATED_BYTES, ""), (MAX_INFLATED_BYTES + 1, "too_large")])
async def test_a_datagram_inflates_to_a_quarter_of_a_mebibyte_at_most(size_bytes: int, reason: str) -> None:
    async with Hearing() as hearing:
        lines = b"\n".join([event(1), event(2)])
        hearing.send(gzipped(lines + b" " * (size_bytes - len(lines))))
        await hearing.settled(1)
        assert stored_numbers(hearing.outbox) == ([] if reason else [1, 2])
        assert not reason or hearing.rejected(reason) == 1


@pytest.mark.parametrize(
    "datagram",
    [
        event(1) + b"\0",
        event(1) + bytes(9),
        event(1) + b"\n\0",
        gzipped(event(1)) + b"\0",
        gzipped(event(1) + b"\0"),
        gzipped(large(1) + b"\0") + b"\0",
        large(1) + b"\0\0",
    ],
)
async def test_nul_bytes_at_the_end_are_ignored(datagram: bytes) -> None:
    """`sendto(fd, s, strlen(s) + 1)` sends one."""
    async with Hearing() as hearing:
        hearing.send(datagram, *[event(number) + b"\0" for number in range(2, 20)])
        await hearing.settled(19)
        assert sorted(stored_numbers(hearing.outbox)) == list(range(1, 20))
        assert not any(b"\0" in each.body for each in hearing.outbox.stored)


async def test_a_gzip_of_a_hundred_members_is_one_datagram() -> None:
    async with Hearing() as hearing:
        hearing.send(b"".join(gzipped(event(number) + b"\n") for number in range(100)))
        await hearing.settled(100)
        assert stored_numbers(hearing.outbox) == list(range(100))


@pytest.mark.parametrize("packed", [False, True])
async def test_no_wake_exceeds_the_bound_of_the_contract(packed: bool) -> None:
    shapes = [shape[:MAX_INFLATED_BYTES] for shape in SHAPES.values()]
    datagrams = [gzipped(shape) for shape in shapes] if packed else [shape[:8_000] for shape in shapes]
    gc.collect()
    gc.disable()  # the objects of the other tests are no work of this one
    try:
        async with Hearing(receive_buffer_bytes=4 << 20, ack=True) as hearing:
            for number, datagram in enumerate(datagrams, 1):
                hearing.send(datagram)
                await hearing.settled(number)
            assert 0 < hearing.count("event_loop_longest_step_seconds") < LONGEST_STEP_S
    finally:
        gc.enable()


@pytest.mark.parametrize("has_room", [True, False])
async def test_a_stop_appends_unread_datagrams_of_the_last_wake(has_room: bool) -> None:
    async with Hearing(receive_buffer_bytes=4 << 20) as hearing:
        hearing.send(*(large(number) for number in range(20)))
        await hearing.settled(1)
        hearing.outbox.has_room = has_room
        hearing.udp.stop()
        assert stored_numbers(hearing.outbox) == list(range(20))


async def test_a_stop_reads_the_datagrams_in_the_kernel() -> None:
    async with Hearing() as hearing:
        hearing.send(*(event(number) for number in range(100)))
        hearing.udp.stop()
        assert stored_numbers(hearing.outbox) == list(range(100))
        hearing.udp.stop()


# --- who is heard


async def test_a_sender_outside_the_networks_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.ingest.udp.ingest.Networks", Nobody)
    async with Hearing(ack=True) as hearing:
        hearing.send(BODY)
        await hearing.settled(1)
        assert hearing.dropped("network") == 1
        assert hearing.count("events_received_total", transport="udp") == 0
        with pytest.raises(BlockingIOError):
            hearing.sender.recv(1)


class Nobody:
    """Networks as seen by a sender outside of them; loopback, where this test runs, is always inside."""

    def __init__(self, _: Sequence[str]) -> None: ...

    def allows(self, _: str) -> bool:
        return False


class NobodyKnows(Nobody):
    def allows(self, _: str) -> bool:
        raise RuntimeError("a bug")


# --- when the relay itself fails


class Broken(Reader):
    """Fails on the given bodies, and always when it reads bodies together."""

    def __init__(self, bug: Exception) -> None:
        super().__init__(EventDefaults(), 64 << 10, HandClock().new_event_id, lambda: "2026-01-01T00:00:00.000Z")
        self._bug = bug

    def read_singles(self, bodies: Sequence[bytes]) -> list[Event] | None:
        raise self._bug

    def read(self, body: bytes, kind: BodyKind) -> list[Event] | Rejection:
        if b"bug" in body:
            raise self._bug
        return super().read(body, kind)

    def reading(self, body: bytes, kind: BodyKind) -> Reading:
        reading = super().reading(body, kind)
        if b"bug" in body:
            yield next(reading)
            raise self._bug
        return (yield from reading)


class Failing(ScriptedOutbox):
    """Fails once when asked for `room`, or to append."""

    def __init__(self, call: str) -> None:
        super().__init__()
        self.call = call

    def fail(self, call: str) -> None:
        if call == self.call:
            self.call = ""
            raise MemoryError("a bug")

    def room(self) -> bool:
        self.fail("room")
        return super().room()

    def append(self, events: Sequence[Event], *, callers: int = 1) -> asyncio.Future[AppendResult]:
        self.fail("append")
        return super().append(events, callers=callers)


SHORT_BUG = event(99, context={"a": "bug"})
LONG_BUG = gzipped(b"\n".join(event(number, context={"a": "bug"}) for number in range(1_000)))
"""Read in slices; what shows in a later one costs all of it."""


def logged_bugs() -> list[str]:
    """Filled with what the loop is told."""
    bugs: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(repr(context["exception"])))
    return bugs


async def test_an_exception_in_reading_together_loses_no_datagram() -> None:
    async with Hearing() as hearing:
        bugs = logged_bugs()
        hearing.udp.use_reader(Broken(RuntimeError("a bug")))
        hearing.send(*[event(number) for number in range(20)])
        await hearing.settled(20)
        assert stored_numbers(hearing.outbox) == list(range(20))
    assert bugs == [repr(RuntimeError("a bug"))]


async def test_an_exception_in_the_network_check_affects_one_datagram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.ingest.udp.ingest.Networks", NobodyKnows)
    async with Hearing() as hearing:
        logged_bugs()
        hearing.send(event(0), event(1))
        await hearing.settled(2)
        assert hearing.rejected("unavailable") == 2


@pytest.mark.parametrize("bug", [RuntimeError("a bug"), MemoryError()], ids=["bug", "memory"])
@pytest.mark.parametrize("datagram", [SHORT_BUG, LONG_BUG], ids=["short", "long"])
async def test_an_exception_affects_its_own_datagram_and_is_reported(datagram: bytes, bug: Exception) -> None:
    async with Hearing(ack=True) as hearing:
        bugs = logged_bugs()
        hearing.udp.use_reader(Broken(bug))
        hearing.send(event(0))
        await hearing.settled(1)
        # a timer wakes for it: who was woken by the socket would be woken again
        hearing.send(datagram)
        await hearing.settled(2)
        hearing.send(event(1))
        await hearing.settled(3)
        assert stored_numbers(hearing.outbox) == [0, 1]
        assert hearing.rejected("unavailable") == 1
        assert hearing.count("events_received_total", transport="udp") == 3
        responses = [list(json.loads(await hearing.ack())) for _ in range(3)]
        assert responses == [["stored", "count"], ["error"], ["stored", "count"]]
    assert bugs == [repr(bug)]


@pytest.mark.parametrize("datagram", [SHORT_BUG, LONG_BUG], ids=["short", "long"])
async def test_an_exception_affects_no_datagram_read_with_it(datagram: bytes) -> None:
    async with Hearing() as hearing:
        logged_bugs()
        hearing.udp.use_reader(Broken(MemoryError()))
        hearing.send(event(0), datagram, event(1))
        await hearing.settled(3)
        assert stored_numbers(hearing.outbox) == [0, 1]
        assert hearing.count("events_received_total", transport="udp") == 3


@pytest.mark.parametrize("datagram", [SHORT_BUG, LONG_BUG], ids=["short", "long"])
async def test_an_exception_does_not_end_the_stop(datagram: bytes) -> None:
    async with Hearing() as hearing:
        logged_bugs()
        hearing.udp.use_reader(Broken(MemoryError()))
        hearing.send(event(0), datagram, *[event(number) for number in range(1, 100)])
        hearing.udp.stop()
        assert stored_numbers(hearing.outbox) == list(range(100))
        assert hearing.rejected("unavailable") == 1
        assert hearing.udp.addresses == []


async def test_exceptions_are_reported_once_per_second() -> None:
    async with Hearing() as hearing:
        bugs = logged_bugs()
        hearing.udp.use_reader(Broken(RuntimeError("a bug")))
        for number in range(20):
            hearing.send(SHORT_BUG)
            await hearing.settled(number + 1)
        assert len(bugs) == 1
        assert hearing.count("log_lines_suppressed_total") == 19
        hearing.clock.now_ms += 1_000
        hearing.send(SHORT_BUG)
        await hearing.settled(21)
        assert len(bugs) == 2


@pytest.mark.parametrize("call", ["room", "append"])
async def test_reading_continues_after_any_failure(call: str) -> None:
    async with Hearing(outbox=Failing("")) as hearing:
        bugs = logged_bugs()
        hearing.send(event(0))
        await hearing.settled(1)
        hearing.outbox.call = call
        hearing.send(event(1))
        await until(lambda: bool(bugs))
        hearing.send(event(2))
        await hearing.settled(3)
        lost = [1] if call == "append" else []
        assert stored_numbers(hearing.outbox) == [number for number in range(3) if number not in lost]
        assert hearing.rejected("unavailable") == len(lost)
    assert bugs == [repr(MemoryError("a bug"))]


async def test_a_failed_response_does_not_end_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.ingest.udp.ingest._MAX_UNCOMMITTED", 1)
    outcomes = iter([MemoryError("a bug")])

    def failing_ack(event_ids: Sequence[bytes], max_bytes: int) -> bytes:
        for bug in outcomes:
            raise bug
        return stored_response(event_ids, max_bytes)

    monkeypatch.setattr("relay.ingest.udp.responses.stored_response", failing_ack)
    async with Hearing(ack=True) as hearing:
        bugs = logged_bugs()
        hearing.send(event(0))
        await until(lambda: bool(bugs))
        hearing.send(event(1))
        assert json.loads(await hearing.ack()) == {"stored": [json.loads(event(1))["event_id"]], "count": 1}


async def test_a_failed_stop_still_closes_the_socket() -> None:
    async with Hearing(outbox=Failing("room")) as hearing:
        with pytest.raises(MemoryError):
            hearing.udp.stop()
        assert hearing.udp.addresses == []


# --- answers


@pytest.mark.parametrize("ack", [False, True])
async def test_a_commit_is_delayed_only_without_ack(ack: bool) -> None:
    async with Hearing(ack=ack) as hearing:
        hearing.send(BODY)
        await hearing.settled(1)
        assert hearing.outbox.callers == [int(ack)]


async def test_without_ack_no_response_is_sent() -> None:
    async with Hearing() as hearing:
        hearing.send(BODY, b"{")
        await hearing.settled(2)
        with pytest.raises(BlockingIOError):
            hearing.sender.recv(1)


async def test_a_response_lists_the_stored_events_after_the_commit() -> None:
    async with Hearing(ack=True, outbox=ScriptedOutbox(waits=True)) as hearing:
        hearing.send(BODY)
        await until(lambda: bool(hearing.outbox.appends))
        with pytest.raises(BlockingIOError):
            hearing.sender.recv(1)
        hearing.outbox.appends[0].set_result(STORED)
        assert json.loads(await hearing.ack()) == {"stored": [EVENT_ID], "count": 1}


@pytest.mark.parametrize(
    ("datagram", "error"),
    [(b'{"event_type": "a", "tenant_id": 1}', None), (event(7), OutboxFull("the outbox is full"))],
)
async def test_an_error_response_contains_the_message(datagram: bytes, error: Exception | None) -> None:
    async with Hearing(ack=True, outbox=ScriptedOutbox(error=error, room_events=0)) as hearing:
        hearing.send(datagram)
        ack = await hearing.ack()
        assert len(ack) < len(datagram)
        assert list(json.loads(ack)) == ["error"]
        assert error is None or json.loads(ack)["error"] == str(error)


async def test_a_duplicate_counts_as_stored() -> None:
    async with Hearing(ack=True, outbox=ScriptedOutbox(duplicates=1)) as hearing:
        hearing.send(BODY)
        assert json.loads(await hearing.ack()) == {"stored": [EVENT_ID], "count": 1}


async def test_a_response_that_is_returned_gets_no_response() -> None:
    """Two sockets that respond to each other's responses would never stop."""
    async with Hearing(ack=True) as hearing:
        for number, datagram in enumerate([b"{" + b" " * 200, gzipped(event(1)), event(1)], 1):
            hearing.send(datagram)
            hearing.send(await hearing.ack())
            await hearing.settled(2 * number)
            with pytest.raises(BlockingIOError):
                hearing.sender.recv(1)


# --- start


async def test_the_receive_buffer_given_is_a_metric() -> None:
    async with Hearing(receive_buffer_bytes=100_000) as hearing:
        assert hearing.count("udp_receive_buffer_bytes") == 100_000


@pytest.mark.parametrize(
    ("listen", "hosts"),
    [
        (("127.0.0.1:0", "[::1]:0"), ["127.0.0.1", "::1"]),
        ("localhost:0", ["127.0.0.1", "::1"]),
        ("[::]:0", ["127.0.0.1", "::1"]),
    ],
)
@pytest.mark.parametrize("ack", [False, True])
async def test_every_address_receives(listen: Any, hosts: list[str], ack: bool) -> None:
    async with Hearing(listen=listen, ack=ack) as hearing:
        places = [address.rpartition(":") for address in hearing.udp.addresses]
        for number, host in enumerate(hosts):
            port = int(places[min(number, len(places) - 1)][2])
            with free_udp_socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as app:
                app.sendto(event(number), (host, port))
                await hearing.settled(number + 1)
                if ack:
                    async with asyncio.timeout(PATIENCE_S):
                        response = await asyncio.get_running_loop().sock_recv(app, 1_000)
                    assert json.loads(response)["count"] == 1
        assert stored_numbers(hearing.outbox) == list(range(len(hosts)))
        assert hearing.dropped("network") == 0  # a mapped loopback address is loopback


async def test_an_ipv4_sender_is_compared_as_such_on_a_dual_stack_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses: list[str] = []

    class RecordingNetworks(Networks):
        def _decide(self, address: str) -> bool:
            addresses.append(address)
            return super()._decide(address)

    monkeypatch.setattr("relay.ingest.udp.ingest.Networks", RecordingNetworks)
    async with Hearing(listen="[::]:0", allowed_networks=("10.0.0.0/8",)) as hearing:
        with free_udp_socket() as app:
            app.sendto(event(1), ("127.0.0.1", int(hearing.udp.addresses[0].rpartition(":")[2])))
            await hearing.settled(1)
    assert addresses == ["::ffff:127.0.0.1"]
    networks = Networks(("10.0.0.0/8",))
    assert networks.allows("::ffff:10.1.2.3") and not networks.allows("::ffff:11.1.2.3")


async def test_the_kernels_drops_of_all_sockets_are_counted() -> None:
    async with Hearing(
        listen="localhost:0", receive_buffer_bytes=5_000, outbox=ScriptedOutbox(has_room=False)
    ) as hearing:
        for address in hearing.udp.addresses:
            host, _, port = address.rpartition(":")
            host = host.strip("[]")
            before = hearing.dropped("kernel")
            with free_udp_socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as app:
                for number in range(300):
                    app.sendto(event(number), (host, int(port)))
            hearing.udp.refresh()
            assert hearing.dropped("kernel") > before


async def test_an_address_in_use_is_named() -> None:
    async with Hearing() as hearing:
        second = Hearing(listen=hearing.udp.addresses[0])
        with pytest.raises(ListenError, match=r"udp\.listen"):
            await second.udp.start()
        second.sender.close()


# --- the state


A_MINUTE_MS = 60_000


async def test_repr_shows_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.ingest.udp.ingest._LINGER_MS", A_MINUTE_MS)
    hearing = Hearing(receive_buffer_bytes=4_096)
    assert repr(hearing.udp) == "<UdpIngest Stopped() uncommitted=0 has_backlog=False>"
    async with hearing:
        assert repr(hearing.udp) == "<UdpIngest Watching() uncommitted=0 has_backlog=False>"
        hearing.send(event(0))
        await hearing.settled(1)
        until_ms = hearing.clock.now_ms + A_MINUTE_MS
        assert repr(hearing.udp) == f"<UdpIngest Coalescing(until_ms={until_ms}) uncommitted=0 has_backlog=False>"
    assert repr(hearing.udp) == "<UdpIngest Stopped() uncommitted=0 has_backlog=False>"


async def test_repr_shows_why_no_datagram_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.ingest.udp.ingest._MAX_UNCOMMITTED", 1)
    monkeypatch.setattr("relay.ingest.udp.state.PAUSE_MS", A_MINUTE_MS)
    async with Hearing(outbox=ScriptedOutbox(waits=True)) as hearing:
        hearing.send(event(0))
        await until(lambda: bool(hearing.outbox.appends))
        assert repr(hearing.udp) == "<UdpIngest Full() uncommitted=1 has_backlog=False>"
        hearing.outbox.appends[0].set_exception(OutboxUnavailable("the disk fails"))
        await hearing.settled(1)
        until_ms = hearing.clock.now_ms + A_MINUTE_MS
        assert repr(hearing.udp) == f"<UdpIngest Paused(until_ms={until_ms}) uncommitted=0 has_backlog=False>"


async def test_the_end_of_an_append_wakes_a_full_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.ingest.udp.ingest._MAX_UNCOMMITTED", 1)
    async with Hearing(outbox=ScriptedOutbox(waits=True)) as hearing:
        hearing.send(event(0), large(1))
        await until(lambda: bool(hearing.outbox.appends))
        assert "Full()" in repr(hearing.udp)
        hearing.outbox.appends[0].set_result(STORED)
        await until(lambda: len(hearing.outbox.appends) == 2)
        assert stored_numbers(hearing.outbox) == [0, 1]
        hearing.outbox.appends[1].set_result(STORED)

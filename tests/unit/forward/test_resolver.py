"""Lookups that fail, hang or are slow: what the caller gets, and how many threads run."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from threading import Event

import pytest
from aiohttp.abc import ResolveResult
from relay.forward.resolver import Resolver, system_lookup

SOON_S = 0.01
PATIENCE_S = 60.0


def addresses(host: str, *numeric: str) -> list[ResolveResult]:
    return [
        ResolveResult(hostname=host, host=address, port=0, family=socket.AF_INET, proto=6, flags=0)
        for address in numeric
    ]


class Names:
    """A name service. Each host has a script of results; an Event hangs until it is set."""

    def __init__(self, **scripts: list[object]) -> None:
        self.scripts = scripts
        self.asked: Counter[str] = Counter()

    def __call__(self, host: str, _: socket.AddressFamily) -> list[ResolveResult]:
        self.asked[host] += 1
        result = self.scripts[host].pop(0)
        if isinstance(result, Event):
            assert result.wait(PATIENCE_S)
            result = self.scripts[host].pop(0)
        if isinstance(result, Exception):
            raise result
        assert isinstance(result, str)
        return addresses(host, *result.split())


@pytest.fixture
def answer() -> Iterator[Event]:
    """The end of a silence. Set at the latest when the test ends, so that no thread outlives it for long."""
    event = Event()
    yield event
    event.set()


async def found(resolver: Resolver, host: str) -> list[str]:
    return [entry["host"] for entry in await resolver.resolve(host, 443)]


async def test_a_lookup_returns_the_addresses_with_the_port() -> None:
    resolver = Resolver(Names(a=["192.0.2.1 192.0.2.2"]))
    assert [(e["host"], e["port"]) for e in await resolver.resolve("a", 443)] == [
        ("192.0.2.1", 443),
        ("192.0.2.2", 443),
    ]


async def test_a_failed_lookup_raises_its_own_error() -> None:
    resolver = Resolver(Names(a=[socket.gaierror(socket.EAI_NONAME, "Name or service not known")]))
    with pytest.raises(socket.gaierror, match="Name or service not known"):
        await resolver.resolve("a")


async def test_a_hanging_lookup_ends_with_its_bound_and_says_so(answer: Event) -> None:
    resolver = Resolver(Names(a=[answer, "192.0.2.1"]), SOON_S)
    with pytest.raises(socket.gaierror, match=r"the name lookup of a got no response within 0\.01 s"):
        await resolver.resolve("a")


async def test_a_host_has_one_thread_however_often_it_is_looked_up(answer: Event) -> None:
    names = Names(a=[answer, "192.0.2.1"])
    resolver = Resolver(names, SOON_S)
    for _ in range(5):
        with pytest.raises(socket.gaierror):
            await resolver.resolve("a")
    assert names.asked == {"a": 1}


async def test_hanging_lookups_do_not_delay_another_host(answer: Event) -> None:
    """More hosts hang than an executor has threads."""
    dead = {f"dead{n}": [answer, "192.0.2.1"] for n in range(40)}
    resolver = Resolver(Names(**dead, good=["192.0.2.9"]), PATIENCE_S)
    hanging = [asyncio.ensure_future(resolver.resolve(host)) for host in dead]
    await asyncio.sleep(0)
    assert await found(resolver, "good") == ["192.0.2.9"]
    assert not any(lookup.done() for lookup in hanging)
    answer.set()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_after_a_failed_lookup_the_last_addresses_are_used() -> None:
    resolver = Resolver(Names(a=["192.0.2.1", socket.gaierror(socket.EAI_AGAIN, "try again"), "192.0.2.2"]))
    assert await found(resolver, "a") == ["192.0.2.1"]
    assert await found(resolver, "a") == ["192.0.2.1"]
    assert await found(resolver, "a") == ["192.0.2.2"]


async def test_addresses_that_accepted_a_connection_go_before_later_ones() -> None:
    """A captive portal gives every name its own address, and then its name server goes away."""
    lost = socket.gaierror(socket.EAI_AGAIN, "try again")
    resolver = Resolver(Names(a=["192.0.2.1", "10.0.0.1", lost], b=["192.0.2.5"]))
    await found(resolver, "a")
    await found(resolver, "b")
    resolver.connected("192.0.2.1")
    assert await found(resolver, "a") == ["10.0.0.1"]
    resolver.connected("192.0.2.5")
    assert await found(resolver, "a") == ["192.0.2.1"]


async def test_while_a_lookup_overruns_nobody_waits_for_it_twice(answer: Event) -> None:
    names = Names(a=["192.0.2.1", answer, "192.0.2.2", "192.0.2.3"])
    resolver = Resolver(names, SOON_S)
    assert await found(resolver, "a") == ["192.0.2.1"]
    assert await found(resolver, "a") == ["192.0.2.1"]
    waiting = resolver.resolve("a")
    with pytest.raises(StopIteration):  # it returns without being suspended once
        waiting.send(None)
    assert names.asked == {"a": 2}


async def test_the_result_of_a_slow_lookup_serves_the_next_caller(answer: Event) -> None:
    lost = socket.gaierror(socket.EAI_AGAIN, "try again")
    names = Names(a=[answer, "192.0.2.1", *[lost] * 1000])
    resolver = Resolver(names, SOON_S)
    with pytest.raises(socket.gaierror):
        await resolver.resolve("a")
    answer.set()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                assert await found(resolver, "a") == ["192.0.2.1"]
                return
            except socket.gaierror:
                continue


async def test_a_caller_that_is_cancelled_leaves_the_lookup_to_the_others(answer: Event) -> None:
    resolver = Resolver(Names(a=[answer, "192.0.2.1"]), PATIENCE_S)
    first, second = (asyncio.ensure_future(resolver.resolve("a")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    answer.set()
    assert [entry["host"] for entry in await second] == ["192.0.2.1"]
    assert first.cancelled()


def test_a_loop_that_is_closed_is_not_woken(answer: Event) -> None:
    names = Names(a=[answer, "192.0.2.1"])

    async def give_up() -> None:
        with pytest.raises(socket.gaierror):
            await Resolver(names, SOON_S).resolve("a")

    asyncio.run(give_up())
    answer.set()  # an error in the thread would fail the test as a warning


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "..", "a..b"])
async def test_a_host_that_is_no_name_is_an_error_of_the_lookup(host: str) -> None:
    with pytest.raises(OSError, match=r"host|Name|name"):
        await Resolver().resolve(host)


def test_the_system_looks_up_its_own_names() -> None:
    assert {entry["host"] for entry in system_lookup("localhost", socket.AF_INET)} == {"127.0.0.1"}

"""Failing, hanging and slow name lookups: results and number of threads."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from threading import Event

import pytest
from aiohttp.abc import ResolveResult
from relay.forward.resolver import Resolver, system_lookup

SHORT_S = 0.01
WAIT_S = 60.0


def addresses(host: str, *numeric: str) -> list[ResolveResult]:
    return [
        ResolveResult(hostname=host, host=address, port=0, family=socket.AF_INET, proto=6, flags=0)
        for address in numeric
    ]


class Names:
    """A name service with scripted results per host. An Event hangs until it is set."""

    def __init__(self, **scripts: list[object]) -> None:
        self.scripts = scripts
        self.lookups: Counter[str] = Counter()

    def __call__(self, host: str, _: socket.AddressFamily) -> list[ResolveResult]:
        self.lookups[host] += 1
        result = self.scripts[host].pop(0)
        if isinstance(result, Event):
            assert result.wait(WAIT_S)
            result = self.scripts[host].pop(0)
        if isinstance(result, Exception):
            raise result
        assert isinstance(result, str)
        return addresses(host, *result.split())


@pytest.fixture
def release() -> Iterator[Event]:
    """Yield an event that ends a hanging lookup. It is set at the end of the test, so that its threads end."""
    event = Event()
    yield event
    event.set()


async def found(resolver: Resolver, host: str) -> list[str]:
    return [entry["host"] for entry in await resolver.resolve(host, 443)]


async def test_lookup_returns_the_addresses_with_the_port() -> None:
    resolver = Resolver(Names(a=["192.0.2.1 192.0.2.2"]))
    assert [(e["host"], e["port"]) for e in await resolver.resolve("a", 443)] == [
        ("192.0.2.1", 443),
        ("192.0.2.2", 443),
    ]


async def test_failed_lookup_raises_its_error() -> None:
    resolver = Resolver(Names(a=[socket.gaierror(socket.EAI_NONAME, "Name or service not known")]))
    with pytest.raises(socket.gaierror, match="Name or service not known"):
        await resolver.resolve("a")


async def test_hanging_lookup_raises_after_its_timeout(release: Event) -> None:
    resolver = Resolver(Names(a=[release, "192.0.2.1"]), SHORT_S)
    with pytest.raises(socket.gaierror, match=r"the name lookup of a got no response within 0\.01 s"):
        await resolver.resolve("a")


async def test_repeated_lookups_of_a_host_share_one_thread(release: Event) -> None:
    names = Names(a=[release, "192.0.2.1"])
    resolver = Resolver(names, SHORT_S)
    for _ in range(5):
        with pytest.raises(socket.gaierror):
            await resolver.resolve("a")
    assert names.lookups == {"a": 1}


async def test_hanging_lookups_do_not_delay_another_host(release: Event) -> None:
    """The number of hanging hosts is larger than the number of threads of an executor."""
    dead = {f"dead{n}": [release, "192.0.2.1"] for n in range(40)}
    resolver = Resolver(Names(**dead, good=["192.0.2.9"]), WAIT_S)
    hanging = [asyncio.ensure_future(resolver.resolve(host)) for host in dead]
    await asyncio.sleep(0)
    assert await found(resolver, "good") == ["192.0.2.9"]
    assert not any(lookup.done() for lookup in hanging)
    release.set()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_after_a_failed_lookup_the_last_addresses_are_used() -> None:
    resolver = Resolver(Names(a=["192.0.2.1", socket.gaierror(socket.EAI_AGAIN, "try again"), "192.0.2.2"]))
    assert await found(resolver, "a") == ["192.0.2.1"]
    assert await found(resolver, "a") == ["192.0.2.1"]
    assert await found(resolver, "a") == ["192.0.2.2"]


async def test_addresses_that_accepted_a_connection_precede_later_ones() -> None:
    """A captive portal resolves every name to its own address, and then its name server becomes unavailable."""
    lost = socket.gaierror(socket.EAI_AGAIN, "try again")
    resolver = Resolver(Names(a=["192.0.2.1", "10.0.0.1", lost], b=["192.0.2.5"]))
    await found(resolver, "a")
    await found(resolver, "b")
    resolver.connected("192.0.2.1")
    assert await found(resolver, "a") == ["10.0.0.1"]
    resolver.connected("192.0.2.5")
    assert await found(resolver, "a") == ["192.0.2.1"]


async def test_later_callers_do_not_wait_for_a_timed_out_lookup(release: Event) -> None:
    names = Names(a=["192.0.2.1", release, "192.0.2.2", "192.0.2.3"])
    resolver = Resolver(names, SHORT_S)
    assert await found(resolver, "a") == ["192.0.2.1"]
    assert await found(resolver, "a") == ["192.0.2.1"]
    waiting = resolver.resolve("a")
    with pytest.raises(StopIteration):  # It returns without suspending.
        waiting.send(None)
    assert names.lookups == {"a": 2}


async def test_next_caller_receives_the_result_of_a_slow_lookup(release: Event) -> None:
    lost = socket.gaierror(socket.EAI_AGAIN, "try again")
    names = Names(a=[release, "192.0.2.1", *[lost] * 1000])
    resolver = Resolver(names, SHORT_S)
    with pytest.raises(socket.gaierror):
        await resolver.resolve("a")
    release.set()
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                assert await found(resolver, "a") == ["192.0.2.1"]
                return
            except socket.gaierror:
                continue


async def test_cancelled_caller_does_not_cancel_the_lookup_of_others(release: Event) -> None:
    resolver = Resolver(Names(a=[release, "192.0.2.1"]), WAIT_S)
    first, second = (asyncio.ensure_future(resolver.resolve("a")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    release.set()
    assert [entry["host"] for entry in await second] == ["192.0.2.1"]
    assert first.cancelled()


def test_result_for_a_closed_loop_is_discarded(release: Event) -> None:
    names = Names(a=[release, "192.0.2.1"])

    async def give_up() -> None:
        with pytest.raises(socket.gaierror):
            await Resolver(names, SHORT_S).resolve("a")

    asyncio.run(give_up())
    release.set()  # An error in the thread would fail the test as a warning.


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "..", "a..b"])
async def test_invalid_host_name_is_an_error_of_the_lookup(host: str) -> None:
    with pytest.raises(OSError, match=r"host|Name|name"):
        await Resolver().resolve(host)


def test_system_lookup_of_localhost() -> None:
    assert {entry["host"] for entry in system_lookup("localhost", socket.AF_INET)} == {"127.0.0.1"}

"""Look up host names with a timeout, so that a silent name server delays neither other hosts nor the exit.

Rules:
- A lookup runs in a daemon thread, which the exit of the process does not join.
- There is at most one thread per host. A hanging lookup does not block the lookup of another host.
- A caller waits for at most LOOKUP_S. The thread may run longer; the next caller then receives its result.
- If a lookup fails or times out, the caller receives the last working addresses.

The lookup uses the system's resolver, so `/etc/hosts` and `nsswitch.conf` apply.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TypeVar

from aiohttp.abc import AbstractResolver, ResolveResult

LOOKUP_S = 5.0

Lookup = Callable[[str, socket.AddressFamily], list[ResolveResult]]
T = TypeVar("T")


def system_lookup(host: str, family: socket.AddressFamily) -> list[ResolveResult]:
    """Return the addresses of a host, with port 0. Blocks. Raises OSError.

    The scope of a link-local address is part of `host` in the result, as getnameinfo(3) writes it.
    """
    found = []
    for kind, _, proto, _, address in socket.getaddrinfo(
        host, 0, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    ):
        has_scope = kind == socket.AF_INET6 and len(address) == 4 and address[3]
        numeric = socket.getnameinfo(address, _NUMERIC_NAME)[0] if has_scope else str(address[0])
        found.append(
            ResolveResult(hostname=host, host=numeric, port=0, family=kind, proto=proto, flags=_NUMERIC_ADDRESS)
        )
    return found


_NUMERIC_NAME = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
_NUMERIC_ADDRESS = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Resolver(AbstractResolver):
    """Looks up hosts for the upstream client. See the rules of the module."""

    def __init__(self, lookup: Lookup = system_lookup, timeout_s: float = LOOKUP_S) -> None:
        self._lookup = lookup
        self._timeout_s = timeout_s
        self._running: dict[str, asyncio.Future[list[ResolveResult] | OSError]] = {}
        self._overdue: set[str] = set()
        """Hosts with a running lookup that has timed out."""
        self._found: dict[str, list[ResolveResult]] = {}
        """Addresses of the last successful lookup, by host."""
        self._worked: dict[str, list[ResolveResult]] = {}
        """Addresses of the last lookup with an address that accepted a connection, by host."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises OSError if the lookup fails and no earlier addresses are known."""
        last = self._worked.get(host) or self._found.get(host)
        if last and host in self._overdue:
            return _with_port(last, port)
        running = self._running.get(host) or self._start(host, family)
        await asyncio.wait({running}, timeout=self._timeout_s)
        if running.done():
            result = running.result()
        else:
            self._overdue.add(host)
            result = socket.gaierror(
                socket.EAI_AGAIN, f"the name lookup of {host} got no response within {self._timeout_s:g} s"
            )
        if not isinstance(result, OSError):
            return _with_port(result, port)
        last = self._worked.get(host) or self._found.get(host)
        if last:
            return _with_port(last, port)
        raise result

    def connected(self, address: str) -> None:
        """Record that this address accepted a connection, for each host with this address."""
        for host, found in self._found.items():
            if self._worked.get(host) is not found and any(entry["host"] == address for entry in found):
                self._worked[host] = found

    async def close(self) -> None:
        """Do nothing. The daemon threads end with their lookup or with the process."""

    def _start(self, host: str, family: socket.AddressFamily) -> asyncio.Future[list[ResolveResult] | OSError]:
        running = self._running[host] = in_daemon_thread(f"lookup {host}", partial(self._lookup, host, family))
        running.add_done_callback(partial(self._ended, host))
        return running

    def _ended(self, host: str, lookup: asyncio.Future[list[ResolveResult] | OSError]) -> None:
        del self._running[host]
        self._overdue.discard(host)
        result = lookup.result()
        if not isinstance(result, OSError):
            self._found[host] = result


def in_daemon_thread(name: str, work: Callable[[], T]) -> asyncio.Future[T | OSError]:
    """Run blocking work in a daemon thread. The future's result is that of the work, or the OSError that it raised.

    Neither cancellation nor the exit of the process waits for the thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T | OSError] = loop.create_future()

    def settle(result: T | OSError) -> None:
        if not future.done():
            future.set_result(result)

    def run() -> None:
        try:
            result: T | OSError = work()
        except OSError as error:
            result = error
        except UnicodeError as error:  # A label of the name is empty or too long.
            result = socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}")
        with suppress(RuntimeError):  # The loop is closed, so the result is not needed.
            loop.call_soon_threadsafe(settle, result)

    try:
        Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:
        settle(OSError(errno.EAGAIN, "the system does not allow another thread"))
    return future


def _with_port(addresses: Sequence[ResolveResult], port: int) -> list[ResolveResult]:
    return [{**address, "port": port} for address in addresses]

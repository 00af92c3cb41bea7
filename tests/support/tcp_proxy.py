"""A TCP proxy that a test can stop: a partition, in which packets are lost and no connection is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, closing, suppress
from typing import Any


class TcpProxy:
    """Forwards connections on `port` to a port of the loopback while `passing` is set."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.passing = asyncio.Event()
        self.passing.set()
        self._target_port = target_port
        self._copies: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._start(self._connect(reader, writer))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        copy = asyncio.get_running_loop().create_task(work)
        self._copies.add(copy)
        copy.add_done_callback(self._copies.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.passing.wait()
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except BaseException as error:
            writer.close()
            if isinstance(error, OSError):  # The target does not run.
                return
            raise
        self._start(self._copy(reader, target_writer))
        self._start(self._copy(target_reader, writer))

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError), closing(target):
            while data := await source.read(1 << 16):
                await self.passing.wait()
                target.write(data)
                await target.drain()

    async def stop(self) -> None:
        for copy in self._copies:
            copy.cancel()
        await asyncio.gather(*self._copies, return_exceptions=True)


@asynccontextmanager
async def proxy_to(target_port: int) -> AsyncIterator[TcpProxy]:
    proxy = TcpProxy(target_port)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        yield proxy
        await proxy.stop()

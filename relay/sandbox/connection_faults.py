"""Faults of a connection while the sandbox responds to a request: one function per action of `faults`.

Each function gets the connection and the correct response, and returns whether the connection may serve another
request. Except for `pause_ms`, no function waits after the client has closed. The caller decides what is committed.
"""

from __future__ import annotations

import asyncio
import functools
import zlib
from collections.abc import Awaitable, Callable

from relay.sandbox.responses import ScriptedResponse
from relay.sandbox.wire import SandboxConnection, head_bytes, serialize

ConnectionFault = Callable[[SandboxConnection, ScriptedResponse, int], Awaitable[bool]]
"""(connection, response, pause_ms) -> whether the connection stays open."""

_ENDLESS_BYTES = 256 << 20
"""Size at which an endless body ends. A client that reads as much has failed the test."""


async def _reset(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    connection.reset()
    return False


async def _close(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    connection.close()
    return False


async def _silence(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.wait_closed()
    return False


async def _continue_then_silence(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return await _silence(connection, response, pause_ms)


async def _garbage(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.write(b"\x16\x03\x01\x00\x00 220 mail.example ESMTP\r\n\xff\xfe\x00\r\n\r\n")
    return False


def _with_long_length(response: ScriptedResponse) -> bytes:
    return serialize(response, length_bytes=len(response.body) + 100)


async def _cut_body(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.write(_with_long_length(response))
    return False


async def _reset_mid_body(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.write(_with_long_length(response))
    await asyncio.sleep(pause_ms / 1000)  # An RST discards bytes that the client has not read.
    return await _reset(connection, response, pause_ms)


async def _long_length(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.write(_with_long_length(response))
    return await _silence(connection, response, pause_ms)


async def _short_length(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.write(serialize(response, length_bytes=len(response.body) // 2))
    return True


def _chunked_head(response: ScriptedResponse) -> bytes:
    return head_bytes(response.status, (*response.headers, ("Transfer-Encoding", "chunked")))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def _cut_chunked(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.write(_chunked_head(response) + _chunk(response.body))
    return False


async def _bad_chunk(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.write(_chunked_head(response) + b"zz\r\n" + response.body)
    return False


async def _slow_answer(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await asyncio.sleep(pause_ms / 1000)
    await connection.send(response)
    return True


async def _trickle(connection: SandboxConnection, data: bytes, pause_ms: int) -> bool:
    for position in range(len(data)):
        await connection.write(data[position : position + 1])
        await asyncio.sleep(pause_ms / 1000)
    return True


async def _trickle_head(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    return await _trickle(connection, serialize(response), pause_ms)


async def _trickle_body(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    whole = serialize(response)
    await connection.write(whole[: len(whole) - len(response.body)])
    return await _trickle(connection, response.body, pause_ms)


async def _endless_body(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.write(_chunked_head(response) + _chunk(response.body))
    chunk = _chunk(b" " * 65536)
    for _ in range(_ENDLESS_BYTES // 65536):
        await connection.write(chunk)
    return False


async def _gzip_bomb(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.send(response._replace(body=_bomb()).adding([("Content-Encoding", "gzip")]))
    return True


@functools.cache
def _bomb() -> bytes:
    deflater = zlib.compressobj(level=1, wbits=31)
    return b"".join(deflater.compress(bytes(1 << 20)) for _ in range(64)) + deflater.flush()


async def _huge_header(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.send(response.adding([("X-Filler", "a" * 100_000)]))
    return True


async def _two_answers(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.write(serialize(response) * 2)
    return True


async def _early_hints(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.write(head_bytes(103, (("Link", "</style.css>; rel=preload"),)) + serialize(response))
    return True


async def _http_1_0(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.write(serialize(response, http="1.0"))
    return False


async def _connection_close(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.send(response, keep_alive=False)
    return False


async def _close_after_answer(connection: SandboxConnection, response: ScriptedResponse, pause_ms: int) -> bool:
    await connection.send(response)
    return False


ACTIONS: dict[str, ConnectionFault] = {
    "reset_at_accept": _reset,
    "close_at_accept": _close,
    "silence_at_accept": _silence,
    "reset_mid_request": _reset,
    "close_mid_request": _close,
    "continue_then_silence": _continue_then_silence,
    "reset_before_commit": _reset,
    "close_before_commit": _close,
    "reset_after_commit": _reset,
    "close_after_commit": _close,
    "silence": _silence,
    "garbage": _garbage,
    "cut_body": _cut_body,
    "reset_mid_body": _reset_mid_body,
    "long_length": _long_length,
    "cut_chunked": _cut_chunked,
    "bad_chunk": _bad_chunk,
    "slow_answer": _slow_answer,
    "trickle_head": _trickle_head,
    "trickle_body": _trickle_body,
    "endless_body": _endless_body,
    "gzip_bomb": _gzip_bomb,
    "huge_header": _huge_header,
    "short_length": _short_length,
    "two_answers": _two_answers,
    "early_hints": _early_hints,
    "http_1_0": _http_1_0,
    "connection_close": _connection_close,
    "close_after_answer": _close_after_answer,
}

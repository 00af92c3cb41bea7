"""Faults of a connection while the sandbox responds to a request: one row per action of `faults`.

A row defines the bytes that the sandbox writes in place of the correct response, the pause before them or between them,
and how the exchange ends. Except for pauses, no fault waits after the client has closed. The caller decides what is
committed.
"""

from __future__ import annotations

import asyncio
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from relay.sandbox.faults import Misbehaviour
from relay.sandbox.responses import ScriptedResponse
from relay.sandbox.wire import SandboxConnection, head_bytes, serialize

_ENDLESS_BYTES = 256 << 20
"""Size at which an endless body ends. A client that reads as much has failed the test."""


class _Action(NamedTuple):
    written: Callable[[ScriptedResponse], bytes] = lambda response: b""
    """Bytes to write at once."""
    end: Literal["reuse", "close", "reset", "silence"] = "close"
    """What follows: the next request, FIN, RST, or nothing until the client closes."""
    pause: Literal["never", "before", "after"] = "never"
    """Whether the sandbox pauses before or after `written`."""
    trickled: Callable[[ScriptedResponse], bytes] = lambda response: b""
    """Bytes to write after `written`, with a pause after each byte."""
    repeated: bytes = b""
    """Bytes to write again and again after `written`."""


async def apply(connection: SandboxConnection, fault: Misbehaviour, response: ScriptedResponse) -> bool:
    """Apply the fault's action in place of sending `response`. Return whether the connection may be used again."""
    assert fault.action is not None
    action, pause_s = ACTIONS[fault.action], fault.pause_ms / 1000
    if action.pause == "before":
        await asyncio.sleep(pause_s)
    if data := action.written(response):
        await connection.write(data)
    if action.pause == "after":
        await asyncio.sleep(pause_s)
    for byte in action.trickled(response):
        await connection.write(bytes([byte]))
        await asyncio.sleep(pause_s)
    for _ in range(_ENDLESS_BYTES // len(action.repeated) if action.repeated else 0):
        await connection.write(action.repeated)
    if action.end == "silence":
        await connection.wait_closed()
    elif action.end == "reset":
        connection.reset()
    return action.end == "reuse"


def _longer(response: ScriptedResponse) -> bytes:
    return serialize(response, length_bytes=len(response.body) + 100)


def _shorter(response: ScriptedResponse) -> bytes:
    return serialize(response, length_bytes=len(response.body) // 2)


def _head(response: ScriptedResponse) -> bytes:
    return serialize(response).removesuffix(response.body)


def _chunked_head(response: ScriptedResponse) -> bytes:
    return head_bytes(response.status, (*response.headers, ("Transfer-Encoding", "chunked")))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _first_chunk(response: ScriptedResponse) -> bytes:
    return _chunked_head(response) + _chunk(response.body)


def _bad_chunk(response: ScriptedResponse) -> bytes:
    return _chunked_head(response) + b"zz\r\n" + response.body


def _gzip_bomb(response: ScriptedResponse) -> bytes:
    return serialize(response._replace(body=_bomb()).adding([("Content-Encoding", "gzip")]))


@functools.cache
def _bomb() -> bytes:
    deflater = zlib.compressobj(level=1, wbits=31)
    return b"".join(deflater.compress(bytes(1 << 20)) for _ in range(64)) + deflater.flush()


_CLOSE, _RESET, _SILENCE = _Action(end="close"), _Action(end="reset"), _Action(end="silence")
ACTIONS: Mapping[str, _Action] = {
    "reset_at_accept": _RESET,
    "close_at_accept": _CLOSE,
    "silence_at_accept": _SILENCE,
    "reset_mid_request": _RESET,
    "close_mid_request": _CLOSE,
    "continue_then_silence": _Action(lambda _: b"HTTP/1.1 100 Continue\r\n\r\n", "silence"),
    "reset_before_commit": _RESET,
    "close_before_commit": _CLOSE,
    "reset_after_commit": _RESET,
    "close_after_commit": _CLOSE,
    "silence": _SILENCE,
    "garbage": _Action(lambda _: b"\x16\x03\x01\x00\x00 220 mail.example ESMTP\r\n\xff\xfe\x00\r\n\r\n"),
    "cut_body": _Action(_longer),
    "reset_mid_body": _Action(_longer, "reset", pause="after"),  # An RST discards bytes that the client has not read.
    "long_length": _Action(_longer, "silence"),
    "cut_chunked": _Action(_first_chunk),
    "bad_chunk": _Action(_bad_chunk),
    "slow_answer": _Action(serialize, "reuse", pause="before"),
    "trickle_head": _Action(end="reuse", trickled=serialize),
    "trickle_body": _Action(_head, "reuse", trickled=lambda response: response.body),
    "endless_body": _Action(_first_chunk, repeated=_chunk(b" " * 65536)),
    "gzip_bomb": _Action(_gzip_bomb, "reuse"),
    "huge_header": _Action(lambda response: serialize(response.adding([("X-Filler", "a" * 100_000)])), "reuse"),
    "short_length": _Action(_shorter, "reuse"),
    "two_answers": _Action(lambda response: serialize(response) * 2, "reuse"),
    "early_hints": _Action(
        lambda response: head_bytes(103, (("Link", "</style.css>; rel=preload"),)) + serialize(response), "reuse"
    ),
    "http_1_0": _Action(lambda response: serialize(response, http="1.0")),
    "connection_close": _Action(lambda response: serialize(response, keep_alive=False)),
    "close_after_answer": _Action(serialize),
}

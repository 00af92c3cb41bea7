"""One connection of the sandbox: HTTP/1.1 as far as a client of an events API speaks it, byte by byte.

Own reading and writing instead of a server library's, because the sandbox has to break every rule a library keeps
(`misbehave`). Owns the framing; knows nothing of events, limits or faults. Every read ends by the client's leaving
or by the sandbox's stop; sizes are bounded by `max_body_bytes` and the stream's limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from relay.sandbox.responses import Headers, ScriptedResponse, reason_phrase

HEAD_LIMIT_BYTES = 1 << 20
"""Also how much of a body is read ahead; a longer head is refused."""
_LINGER_S = 1.0
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*[;\r]")
_NO_LINGER = struct.pack("ii", 1, 0)


class BadRequest(Exception):
    """What came is not HTTP/1.x."""


class BodyTooLarge(Exception):
    """The body is larger than allowed; what is left of it is unread."""


class Head(NamedTuple):
    method: str
    path: str
    """Without the query."""
    headers: Mapping[str, str]
    """Names lower case; of repeated ones the last."""
    keep_alive: bool


class SandboxConnection:
    """Reads requests and writes answers; one at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        peer = writer.get_extra_info("peername")
        self.peer: str = peer[0] if isinstance(peer, tuple) else ""

    async def read_head(self) -> Head | None:
        """The next request's, or None when the client is done. Raises BadRequest, OSError."""
        try:
            raw = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial.strip():
                raise BadRequest("the head is cut short") from error
            return None
        except asyncio.LimitOverrunError as error:
            raise BadRequest("the head is too long") from error
        return _parse_head(raw)

    async def read_body(self, head: Head, max_body_bytes: int) -> bytes:
        """As it came, chunks joined; 0: no limit. Raises BodyTooLarge, BadRequest, OSError."""
        chunked = head.headers.get("transfer-encoding", "").lower() == "chunked"
        length_bytes = _length(head)
        if max_body_bytes and length_bytes > max_body_bytes:
            raise BodyTooLarge
        if (chunked or length_bytes) and head.headers.get("expect", "").lower() == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            return await self._read_chunks(max_body_bytes) if chunked else await self.reader.readexactly(length_bytes)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the client left in mid-body") from error
        except asyncio.LimitOverrunError as error:
            raise BadRequest("a chunk's size line is too long") from error

    async def _read_chunks(self, max_body_bytes: int) -> bytes:
        body = bytearray()
        while True:
            size = _CHUNK_SIZE.match(await self.reader.readuntil(b"\r\n"))
            if size is None:
                raise BadRequest("a chunk's size is no number")
            size_bytes = int(size[1], 16)
            if max_body_bytes and len(body) + size_bytes > max_body_bytes:
                raise BodyTooLarge
            if size_bytes == 0:
                while await self.reader.readuntil(b"\r\n") != b"\r\n":
                    pass  # trailers
                return bytes(body)
            body += (await self.reader.readexactly(size_bytes + 2))[:-2]

    async def send(self, answer: ScriptedResponse, *, keep_alive: bool = True) -> None:
        """Raises OSError."""
        await self.write(serialize(answer, keep_alive=keep_alive))

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Wait until the client leaves; what it still sends is thrown away."""
        with contextlib.suppress(OSError):
            while await self.reader.read(1 << 16):
                pass

    async def linger(self) -> None:
        """Let the client read an answer it did not wait for: half-close, and read on for a moment.

        Closing with unread data would make the kernel reset the connection under the answer (as nginx knows).
        """
        self.writer.write_eof()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.gone(), _LINGER_S)

    def reset(self) -> None:
        """Close with RST instead of FIN; what is unsent is lost."""
        raw = self.writer.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.writer.transport.abort()

    def abort(self) -> None:
        """Close without waiting for what is unsent."""
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()


def serialize(
    answer: ScriptedResponse, *, keep_alive: bool = True, length_bytes: int | None = None, http: str = "1.1"
) -> bytes:
    """Head and body; `length_bytes` is what Content-Length claims, if not the truth."""
    headers: Headers = answer.headers
    if answer.status not in (204, 304) and http == "1.1":
        headers += (("Content-Length", str(len(answer.body) if length_bytes is None else length_bytes)),)
    if not keep_alive:
        headers += (("Connection", "close"),)
    return head_bytes(answer.status, headers, http) + answer.body


def head_bytes(status: int, headers: Headers, http: str = "1.1") -> bytes:
    lines = [f"HTTP/{http} {status} {reason_phrase(status)}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def inflate(body: bytes, max_body_bytes: int) -> bytes | None:
    """gzip undone, or None if it is damaged, cut short or larger than allowed (0: no limit)."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        plain = inflater.decompress(body, max_body_bytes + 1 if max_body_bytes else 0)
    except zlib.error:
        return None
    return plain if inflater.eof else None


def _parse_head(raw: bytes) -> Head:
    request_line, *lines = raw.decode("latin-1").lstrip("\r\n")[:-4].split("\r\n")
    parts = request_line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequest("the request line is not HTTP/1.x")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            raise BadRequest("a header has no name")
        headers[name.lower()] = value.strip()
    wish = headers.get("connection", "").lower()
    return Head(
        parts[0],
        parts[1].partition("?")[0],
        headers,
        wish != "close" if parts[2] == "HTTP/1.1" else wish == "keep-alive",
    )


def _length(head: Head) -> int:
    text = head.headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadRequest("Content-Length is no number")
    return int(text)

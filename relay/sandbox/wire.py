"""One connection of the sandbox: the part of HTTP/1.1 that a client of an events API uses.

The sandbox does not use a server library, because `connection_faults` has to break the protocol's rules. This module
owns the framing and does not depend on events, limits or faults. Every read ends when the client closes or the sandbox
stops. `max_body_bytes` and the stream's limit bound the sizes.
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

from relay.sandbox.responses import HeaderFields, ScriptedResponse, reason_phrase

HEAD_LIMIT_BYTES = 1 << 20
"""Limit of a request's head, and of the bytes of a body that are read ahead."""
_LINGER_S = 1.0
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*[;\r]")
_NO_LINGER = struct.pack("ii", 1, 0)


class BadRequest(Exception):
    """The received bytes are not an HTTP/1.x request."""


class BodyTooLarge(Exception):
    """The body is larger than allowed. The rest of the body is unread."""


class Head(NamedTuple):
    method: str
    path: str
    """Path without the query."""
    headers: Mapping[str, str]
    """Values by lower-case name. The last value of a repeated header is used."""
    keep_alive: bool


class SandboxConnection:
    """Reads requests and writes responses, one at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        peer = writer.get_extra_info("peername")
        self.peer: str = peer[0] if isinstance(peer, tuple) else ""

    async def read_head(self) -> Head | None:
        """Return the next request's head, or None if the client closed. Raise BadRequest or OSError."""
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
        """Return the body with its chunks joined; `max_body_bytes` 0 means no limit.

        Raise BodyTooLarge, BadRequest or OSError.
        """
        chunked = head.headers.get("transfer-encoding", "").lower() == "chunked"
        length_bytes = _length(head)
        if max_body_bytes and length_bytes > max_body_bytes:
            raise BodyTooLarge
        if (chunked or length_bytes) and head.headers.get("expect", "").lower() == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            return await self._read_chunks(max_body_bytes) if chunked else await self.reader.readexactly(length_bytes)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the client closed the connection before the end of the body") from error
        except asyncio.LimitOverrunError as error:
            raise BadRequest("a chunk's size line is too long") from error

    async def _read_chunks(self, max_body_bytes: int) -> bytes:
        body = bytearray()
        while True:
            size = _CHUNK_SIZE.match(await self.reader.readuntil(b"\r\n"))
            if size is None:
                raise BadRequest("a chunk size is not a hexadecimal number")
            size_bytes = int(size[1], 16)
            if max_body_bytes and len(body) + size_bytes > max_body_bytes:
                raise BodyTooLarge
            if size_bytes == 0:
                while await self.reader.readuntil(b"\r\n") != b"\r\n":
                    pass  # trailers
                return bytes(body)
            body += (await self.reader.readexactly(size_bytes + 2))[:-2]

    async def send(self, response: ScriptedResponse, *, keep_alive: bool = True) -> None:
        """Write a complete response. Raise OSError."""
        await self.write(serialize(response, keep_alive=keep_alive))

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def wait_closed(self) -> None:
        """Discard received bytes until the client closes."""
        with contextlib.suppress(OSError):
            while await self.reader.read(1 << 16):
                pass

    async def linger(self) -> None:
        """Half-close, then read for up to one second, so that a client that is still sending receives the response.

        If unread data is pending at close, the kernel resets the connection and the client can lose the response
        (the reason for nginx's `lingering_close`).
        """
        self.writer.write_eof()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.wait_closed(), _LINGER_S)

    def reset(self) -> None:
        """Close with RST instead of FIN. Unsent bytes are lost."""
        raw = self.writer.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.writer.transport.abort()

    def abort(self) -> None:
        """Close without waiting for unsent bytes."""
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()


def serialize(
    response: ScriptedResponse, *, keep_alive: bool = True, length_bytes: int | None = None, http: str = "1.1"
) -> bytes:
    """Return head and body. `length_bytes` overrides the value of Content-Length."""
    headers: HeaderFields = response.headers
    if response.status not in (204, 304) and http == "1.1":
        headers += (("Content-Length", str(len(response.body) if length_bytes is None else length_bytes)),)
    if not keep_alive:
        headers += (("Connection", "close"),)
    return head_bytes(response.status, headers, http) + response.body


def head_bytes(status: int, headers: HeaderFields, http: str = "1.1") -> bytes:
    lines = [f"HTTP/{http} {status} {reason_phrase(status)}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def inflate(body: bytes, max_body_bytes: int) -> bytes | None:
    """Return the decompressed gzip body, or None if it is damaged, truncated or larger than allowed (0: no limit)."""
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
    connection = headers.get("connection", "").lower()
    return Head(
        parts[0],
        parts[1].partition("?")[0],
        headers,
        connection != "close" if parts[2] == "HTTP/1.1" else connection == "keep-alive",
    )


def _length(head: Head) -> int:
    text = head.headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadRequest("Content-Length is not a number of at most 18 digits")
    return int(text)

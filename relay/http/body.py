"""Read the body of a request, with a size limit."""

from __future__ import annotations

from typing import Literal

from aiohttp import web
from aiohttp.http import HttpProcessingError, HttpVersion11
from aiohttp.web_protocol import RequestPayloadError

BodyError = Literal["too_large", "malformed"]

CLIENT_CLOSED = "the client closed the connection"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def read_body(request: web.BaseRequest, max_bytes: int) -> bytes | BodyError:
    """Return the whole body as received. Send 100 Continue if the client expects it.

    At most `max_bytes` are stored. Raises ConnectionResetError if the client closed the connection.
    """
    content = request.content
    parts: list[bytes] = []
    part = b""
    try:
        if content.is_eof():
            body = content.read_nowait()
            return body if len(body) <= max_bytes else "too_large"
        if (request.content_length or 0) > max_bytes:
            return "too_large"
        _send_continue(request)
        room = max_bytes
        while part := await content.readany():
            room -= len(part)
            if room < 0:
                return "too_large"
            parts.append(part)
        return b"".join(parts)
    except (RequestPayloadError, HttpProcessingError):
        return "malformed"
    except (OSError, RuntimeError) as error:
        # aiohttp raises RuntimeError if the connection was already closed.
        if isinstance(error, RuntimeError) and request.transport is not None:
            raise
        raise ConnectionResetError(CLIENT_CLOSED) from error
    finally:
        # aiohttp's exception references this frame until a garbage collection. The body must not stay in memory.
        parts.clear()
        part = b""


def _send_continue(request: web.BaseRequest) -> None:
    """Send 100 Continue to a client of HTTP/1.1 that expects it (RFC 9110, 10.1.1)."""
    expected = request.headers.get("Expect")
    if expected is not None and expected.lower() == "100-continue" and request.version == HttpVersion11:
        transport = request.transport
        if transport is not None:
            transport.write(_CONTINUE)

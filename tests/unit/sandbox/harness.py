"""Helpers of the sandbox's tests: a manual clock, events, and a client that returns every received byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

KEY = "sandbox-key"
DEVICE = "A1B2C3D4-E5F6-7890-ABCD-EF1234567890"


class HandClock:
    """A clock that only the test advances. Random numbers are read from a list, and are 0 after its end."""

    boot_id = "boot"

    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self.chances: list[float] = []

    def monotonic_ms(self) -> int:
        return self.now_ms

    def wall_ms(self) -> int:
        return 1_767_225_600_000 + self.now_ms

    def chance(self) -> float:
        return self.chances.pop(0) if self.chances else 0.0

    def new_event_id(self) -> str:
        raise AssertionError("the sandbox makes no events")


def event(number: int = 0, *, device_id: str = DEVICE, n: int | None = None, **changes: Any) -> dict[str, Any]:
    """The documented sample with an id made from `number`."""
    plain: dict[str, Any] = {
        "event_id": f"550e8400-e29b-41d4-a716-{number:012d}",
        "event_type": "post.view",
        "tenant_id": 1,
        "source": {"platform": "ios", "device_id": device_id, "app_version": "2.1.0", "os_version": "17.2"},
        "subject": {"type": "post", "id": "01HQXYZ123"},
        "context": {"custom_field": "any extra data"} | ({} if n is None else {"n": n}),
    }
    return plain | changes


def body(*events: object) -> bytes:
    return json.dumps({"events": events}).encode()


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, url: str) -> Client:
        host, port = url.split("/")[2].split(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    def send(
        self,
        payload: bytes,
        headers: Mapping[str, str | None] | None = None,
        *,
        method: str = "POST",
        path: str = "/v1/events",
        length: int | None = None,
    ) -> None:
        """Send a request as the relay does. A header with the value None is omitted."""
        wanted: dict[str, str | None] = {
            "Host": "x",
            "Accept": "application/json",
            "Content-Type": "application/json",
            "X-Events-Key": KEY,
            "Content-Length": str(len(payload) if length is None else length),
        } | dict(headers or {})
        lines = [f"{name}: {value}" for name, value in wanted.items() if value is not None]
        self.writer.write(("\r\n".join([f"{method} {path} HTTP/1.1", *lines]) + "\r\n\r\n").encode() + payload)

    async def reply(self) -> Reply:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        length = int(headers.get("content-length", "0"))
        return Reply(int(head[0].split(" ")[1]), headers, await self.reader.readexactly(length))

    async def ask(self, payload: bytes, headers: Mapping[str, str | None] | None = None, **how: Any) -> Reply:
        self.send(payload, headers, **how)
        return await self.reply()

    async def rest(self) -> bytes:
        """Return all bytes until the sandbox closes. Raise ConnectionResetError after an RST."""
        return await self.reader.read(-1)

    def close(self) -> None:
        self.writer.close()
